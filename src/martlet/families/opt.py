"""OPT: learned positions after two unused rows, LayerNorm before or after, ReLU."""

from __future__ import annotations

from martlet.arch import Arch, Dropout, Layer, Norm, Placement
from martlet.families.decoder import read_activation, read_head_dim
from martlet.families.reader import Reader
from martlet.families.registry import family
from martlet.weights import drop, rename

RULES = (
    drop("^model.decoder.version"),
    rename("^model.decoder.", "^model."),
    rename("^model.final_layer_norm.", "^model.norm."),
    rename(".self_attn_layer_norm.", ".input_layernorm."),
    rename(".final_layer_norm.", ".post_attention_layernorm."),
    rename(".self_attn.out_proj.", ".self_attn.o_proj."),
    rename(".fc1.", ".mlp.up_proj."),
    rename(".fc2.", ".mlp.down_proj."),
)


@family("opt", classes=("OPTModel", "OPTForCausalLM"), rules=RULES)
def opt(c: Reader) -> Arch:
    """The 350m norms after each addition, has no final norm, and projects narrower token vectors in and out."""
    c.neutral("layer_norm_elementwise_affine", True)
    c.neutral("scale_embeddings", False)
    c.neutral("learned_embeddings", True)
    hidden, heads, positions = (
        c.size("hidden_size"),
        c.size("num_attention_heads"),
        c.size("max_position_embeddings", 2048),
    )
    before, biased = c.flag("do_layer_norm_before", True), c.flag("enable_bias", True)
    no_final_norm = c.flag("_remove_final_layer_norm", False)
    narrow = c.size("word_embed_proj_dim", hidden)
    return Arch(
        vocab_size=c.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=c.size("ffn_dim"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=read_head_dim(c),
        layers=(Layer(rope=None),) * c.num_layers(),
        max_position_embeddings=positions,
        norm=Norm.LAYER,
        norm_eps=1e-5,
        placement=Placement.PRE if before else Placement.POST,
        final_norm=before and not no_final_norm,
        position_table=positions + 2,
        position_offset=2,
        embedding_size=narrow if narrow != hidden else 0,
        qkv_bias=biased,
        out_bias=biased,
        activation=read_activation(c, "activation_function", "relu"),
        gated=False,
        mlp_bias=biased,
        dropout=Dropout(attention=c.number("attention_dropout", 0.0), residual=c.number("dropout", 0.1)),
        tied=c.flag("tie_word_embeddings", True),
    )
