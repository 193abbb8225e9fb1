"""GPT-2: learned positions, LayerNorm, a plain MLP. Its matrices are stored transposed, and q, k, v as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.arch import Arch, Layer, Norm
from martlet.families.decoder import read_activation, read_dropout, read_head_dim
from martlet.families.gguf import LAYER_EPS, common_config
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GGUF_PRE_NORMS, GgufDialect, decoder_heads, family
from martlet.formats.tensors import TensorSource
from martlet.weights import drop, rename, rows_qkv, split, transpose

QKV = (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")
RULES = (
    drop(".attn.bias"),  # the causal mask
    drop(".attn.masked_bias"),
    rename("^transformer.", "^model."),
    rename("^model.wte.", "^model.embed_tokens."),
    rename("^model.wpe.", "^model.embed_positions."),
    rename("^model.ln_f.", "^model.norm."),
    rename("^model.h.", "^model.layers."),
    rename(".ln_1.", ".input_layernorm."),
    rename(".ln_2.", ".post_attention_layernorm."),
    transpose(".attn.c_attn."),
    transpose(".attn.c_proj."),
    transpose(".mlp.c_fc."),
    transpose(".mlp.c_proj."),
    split(".attn.c_attn.", QKV, rows_qkv),
    rename(".attn.c_proj.", ".self_attn.o_proj."),
    rename(".mlp.c_fc.", ".mlp.up_proj."),
    rename(".mlp.c_proj.", ".mlp.down_proj."),
)


def _gguf(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, found = common_config(metadata, source, "gpt2")
    names = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
    names |= {"n_positions": "max_position_embeddings", "n_inner": "intermediate_size"}
    config = {ours: found.pop(common) for ours, common in names.items()}
    kept = {key: value for key, value in found.items() if key not in ("num_key_value_heads", "head_dim")}
    return kept | config | {"activation_function": "gelu_new", "layer_norm_epsilon": keys.number(LAYER_EPS)}


# llama.cpp's converter turns the matrices round; q, k and v stay one.
GGUF = GgufDialect(("gpt2",), _gguf, (*GGUF_NAMES, *GGUF_PRE_NORMS, split(".attn_qkv.", QKV, rows_qkv)))


@family(
    "gpt2",
    classes=("GPT2Model", "GPT2LMHeadModel"),
    rules=RULES,
    prefix="transformer.",
    gguf=GGUF,
    heads=decoder_heads(token="classifier"),
)
def gpt2(c: Reader) -> Arch:
    c.neutral("scale_attn_by_inverse_layer_idx", False)
    c.neutral("add_cross_attention", False)
    c.skip("n_ctx", "reorder_and_upcast_attn")  # the latter: the same scores, in float32
    hidden, heads, positions = c.size("n_embd"), c.size("n_head"), c.size("n_positions", 1024)
    return Arch(
        vocab_size=c.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=c.size("n_inner", 4 * hidden),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=read_head_dim(c, hidden="n_embd", heads="n_head"),
        layers=(Layer(rope=None),) * c.num_layers("n_layer"),
        max_position_embeddings=positions,
        norm=Norm.LAYER,
        norm_eps=c.number("layer_norm_epsilon", 1e-5),
        position_table=positions,
        qkv_bias=True,
        out_bias=True,
        attn_scale=0.0 if c.flag("scale_attn_weights", True) else 1.0,
        activation=read_activation(c, "activation_function", "gelu_new"),
        gated=False,
        mlp_bias=True,
        dropout=read_dropout(c, embeddings="embd_pdrop", attention="attn_pdrop", residual="resid_pdrop", rate=0.1),
        tied=c.flag("tie_word_embeddings", True),
    )
