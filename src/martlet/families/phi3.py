"""Phi-3, 3.5 and 4: Llama whose checkpoints fuse q, k, v and gate, up; longrope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.arch import Arch
from martlet.families.decoder import decoder, read_head_dim, read_window, with_windows
from martlet.families.gguf import RMS_EPS, common_config
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GGUF_PRE_NORMS, GgufDialect, family
from martlet.families.rope_config import check_table, read_rope, rope_table
from martlet.formats.tensors import TensorSource
from martlet.weights import rows_gate_up, rows_qkv, split

QKV = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")
GATE_UP = (".mlp.gate_proj.", ".mlp.up_proj.")
RULES = (split(".self_attn.qkv_proj.", QKV, rows_qkv), split(".mlp.gate_up_proj.", GATE_UP, rows_gate_up))


def _gguf(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, config = common_config(metadata, source, "phi3", "attention.sliding_window")
    config |= {"hidden_act": "silu", "rms_norm_eps": keys.number(RMS_EPS)}
    # Files older than August 2024 do not say it: the 4k models (llama.cpp pull request 8931)
    is_4k = config["num_hidden_layers"] in (32, 40) and config["max_position_embeddings"] == 4096
    config["sliding_window"] = keys.size("attention.sliding_window", 2047 if is_4k else 0) or None
    trained = keys.size("rope.scaling.original_context_length", 0)
    return config | ({"original_max_position_embeddings": trained} if trained else {})


GGUF = GgufDialect(
    ("phi3",),
    _gguf,
    (
        *GGUF_NAMES,
        *GGUF_PRE_NORMS,
        split(".attn_qkv.", QKV, rows_qkv),
        split(".mlp.up_proj.", GATE_UP, rows_gate_up),  # "ffn_up" until here
    ),
    lambda arch: {"attention.sliding_window": arch.layers[0].window},  # a file that does not say it is an old one
)


@family("phi3", classes=("Phi3Model", "Phi3ForCausalLM"), rules=RULES, gguf=GGUF)
def phi3(c: Reader) -> Arch:
    for key, value in (("attention_bias", False), ("mlp_bias", False), ("lm_head_bias", False)):
        c.neutral(key, value)
    for key in ("full_attn_mod", "interpolate_factor"):  # in Phi-4's files; transformers reads neither
        c.neutral(key, 1)
    # The trained length stands beside the table and wins over it, its default too.
    trained = c.size("original_max_position_embeddings", 4096)
    table = {**rope_table(c), "original_max_position_embeddings": trained}
    for key in ("rope_type", "type"):
        if table.get(key) == "yarn":  # what the first files call longrope
            table[key] = "longrope"
    rope = read_rope(c, head_dim=read_head_dim(c), fraction=1.0, table=check_table(c, table))
    arch = decoder(c, eps=1e-5, longest=4096, rope=rope)
    return with_windows(c, arch, read_window(c), [True] * arch.num_layers)
