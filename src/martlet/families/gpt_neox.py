"""GPT-NeoX and Pythia: attention and MLP side by side, a quarter of each head rotated, q, k, v fused head by head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.arch import Arch, Layer, Norm, Placement
from martlet.families.decoder import read_activation, read_dropout, read_head_dim
from martlet.families.gguf import LAYER_EPS, common_config
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GGUF_PRE_NORMS, GgufDialect, decoder_heads, family
from martlet.families.rope_config import read_rope
from martlet.formats.tensors import TensorSource
from martlet.weights import rename, rows_qkv, rows_qkv_by_head, split

QKV = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")
RULES = (
    rename("^gpt_neox.", "^model."),
    rename("^embed_out.", "^lm_head."),
    rename("^model.embed_in.", "^model.embed_tokens."),
    rename("^model.final_layer_norm.", "^model.norm."),
    split(".attention.query_key_value.", QKV, rows_qkv_by_head),
    rename(".attention.dense.", ".self_attn.o_proj."),
    rename(".mlp.dense_h_to_4h.", ".mlp.up_proj."),
    rename(".mlp.dense_4h_to_h.", ".mlp.down_proj."),
)


def _gguf(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, config = common_config(metadata, source, "gpt_neox", "use_parallel_residual")
    del config["num_key_value_heads"]
    config |= {
        "rotary_emb_base": config.pop("rope_theta", 10_000.0),
        "rotary_pct": config.pop("partial_rotary_factor", 1.0),
    }
    config |= {"use_parallel_residual": keys.flag("use_parallel_residual", True), "hidden_act": "gelu"}
    return config | {"layer_norm_eps": keys.number(LAYER_EPS), "attention_bias": "blk.0.attn_qkv.bias" in source}


# llama.cpp's converter lays all of q before all of k before all of v.
GGUF = GgufDialect(
    ("gptneox",),
    _gguf,
    (*GGUF_NAMES, *GGUF_PRE_NORMS, split(".attn_qkv.", QKV, rows_qkv)),
    lambda arch: {"use_parallel_residual": arch.parallel},
    ties=False,
)


@family(
    "gpt_neox",
    classes=("GPTNeoXModel", "GPTNeoXForCausalLM"),
    rules=RULES,
    prefix="gpt_neox.",
    gguf=GGUF,
    heads=decoder_heads(token="classifier"),
)
def gpt_neox(c: Reader) -> Arch:
    heads, head_dim = c.size("num_attention_heads"), read_head_dim(c)
    rope = read_rope(c, head_dim=head_dim, fraction=0.25, theta_key="rotary_emb_base", fraction_key="rotary_pct")
    # transformers 4 wrote both of its names for each; only the first counts
    for key, used in (("rope_theta", rope.theta), ("partial_rotary_factor", rope.fraction)):
        c.neutral(key, used)
    biased = c.flag("attention_bias", True)
    return Arch(
        vocab_size=c.size("vocab_size"),
        hidden_size=c.size("hidden_size"),
        intermediate_size=c.size("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        layers=(Layer(rope),) * c.num_layers(),
        max_position_embeddings=c.size("max_position_embeddings", 2048),
        norm=Norm.LAYER,
        norm_eps=c.number("layer_norm_eps", 1e-5),
        placement=Placement.PARALLEL if c.flag("use_parallel_residual", True) else Placement.PRE,
        qkv_bias=biased,
        out_bias=biased,
        activation=read_activation(c, default="gelu"),
        gated=False,
        mlp_bias=True,
        dropout=read_dropout(
            c, embeddings="hidden_dropout", attention="attention_dropout", residual="hidden_dropout", rate=0.0
        ),
        tied=c.flag("tie_word_embeddings", False),
    )
