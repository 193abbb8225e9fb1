"""Phi-3, 3.5 and 4: Llama whose checkpoints fuse q, k, v and gate, up; longrope."""

from __future__ import annotations

from martlet.arch import Arch
from martlet.families.llama import decoder, read_head_dim, read_window, with_windows
from martlet.families.reader import Reader
from martlet.families.registry import family
from martlet.families.rope_config import check_table, read_rope, rope_table
from martlet.weights import rows_gate_up, rows_qkv, split

RULES = (
    split(".self_attn.qkv_proj.", (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."), rows_qkv),
    split(".mlp.gate_up_proj.", (".mlp.gate_proj.", ".mlp.up_proj."), rows_gate_up),
)


@family("phi3", classes=("Phi3Model", "Phi3ForCausalLM"), rules=RULES)
def phi3(c: Reader) -> Arch:
    c.neutral("attention_bias", False)
    c.neutral("mlp_bias", False)
    # The trained length stands beside the table and wins over it, its default too.
    trained = c.size("original_max_position_embeddings", 4096)
    table = {**rope_table(c), "original_max_position_embeddings": trained}
    for key in ("rope_type", "type"):
        if table.get(key) == "yarn":  # what the first files call longrope
            table[key] = "longrope"
    rope = read_rope(c, head_dim=read_head_dim(c), fraction=1.0, table=check_table(c, table))
    arch = decoder(c, eps=1e-5, longest=4096, rope=rope)
    return with_windows(c, arch, read_window(c), [True] * arch.num_layers)
