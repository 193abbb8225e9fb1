"""Phi-1, 1.5 and 2: attention and MLP read one norm, biases everywhere, part of each head rotated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.arch import Arch, Layer, Norm, Placement
from martlet.families.decoder import read_activation, read_dropout, read_head_dim
from martlet.families.gguf import LAYER_EPS, common_config
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GGUF_PRE_NORMS, GgufDialect, family
from martlet.families.rope_config import read_rope
from martlet.formats.tensors import TensorSource
from martlet.weights import rename, rows_qkv, split

QKV = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")
RULES = (
    rename("^model.final_layernorm.", "^model.norm."),
    rename(".self_attn.dense.", ".self_attn.o_proj."),
    rename(".mlp.fc1.", ".mlp.up_proj."),
    rename(".mlp.fc2.", ".mlp.down_proj."),
)


def _gguf(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, config = common_config(metadata, source, "phi")
    config.setdefault("partial_rotary_factor", 1.0)
    return config | {"hidden_act": "gelu_new", "layer_norm_eps": keys.number(LAYER_EPS)}


GGUF = GgufDialect(("phi2",), _gguf, (*GGUF_NAMES, *GGUF_PRE_NORMS, split(".attn_qkv.", QKV, rows_qkv)), ties=False)


@family("phi", classes=("PhiModel", "PhiForCausalLM"), rules=RULES, gguf=GGUF)
def phi(c: Reader) -> Arch:
    c.neutral("qk_layernorm", False)
    heads, head_dim = c.size("num_attention_heads"), read_head_dim(c)
    return Arch(
        vocab_size=c.size("vocab_size"),
        hidden_size=c.size("hidden_size"),
        intermediate_size=c.size("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=c.size("num_key_value_heads", heads),
        head_dim=head_dim,
        layers=(Layer(read_rope(c, head_dim=head_dim, fraction=0.5)),) * c.num_layers(),
        max_position_embeddings=c.size("max_position_embeddings", 2048),
        norm=Norm.LAYER,
        norm_eps=c.number("layer_norm_eps", 1e-5),
        placement=Placement.PARALLEL_SHARED,
        qkv_bias=True,
        out_bias=True,
        activation=read_activation(c, default="gelu_new"),
        gated=False,
        mlp_bias=True,
        dropout=read_dropout(
            c, embeddings="embd_pdrop", attention="attention_dropout", residual="resid_pdrop", rate=0.0
        ),
        tied=c.flag("tie_word_embeddings", False),
        head_bias=True,
    )
