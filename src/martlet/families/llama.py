"""Llama and Mistral. Our tensor names are Llama's, so its own checkpoints need no rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.arch import Arch
from martlet.families.decoder import decoder, read_layer_types, read_window, with_windows
from martlet.families.gguf import RMS_EPS, common_config
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GGUF_PRE_NORMS, GgufDialect, decoder_heads, family
from martlet.formats.tensors import TensorSource
from martlet.weights import reorder, rows_pairwise

# llama.cpp turns pairs that stand side by side, so its converter reorders the rows of q and k.
UNPAIR = (
    reorder(".self_attn.q_proj.", lambda a: rows_pairwise(a.num_attention_heads, a.head_dim)),
    reorder(".self_attn.k_proj.", lambda a: rows_pairwise(a.num_key_value_heads, a.head_dim)),
)


def gguf_config(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    """config.json of a GGUF file whose architecture is "llama": Llama, Mistral, SmolLM2, TinyLlama, Yi."""
    keys, config = common_config(metadata, source, "llama", "attention.sliding_window")
    if keys.size("attention.sliding_window", 0):
        config |= {"model_type": "mistral", "sliding_window": keys.size("attention.sliding_window")}
    config |= {"attention_bias": "blk.0.attn_output.bias" in source, "mlp_bias": "blk.0.ffn_down.bias" in source}
    return config | {"hidden_act": "silu", "rms_norm_eps": keys.number(RMS_EPS)}


GGUF = GgufDialect(("llama",), gguf_config, (*GGUF_NAMES, *GGUF_PRE_NORMS, *UNPAIR))


@family(
    "llama", classes=("LlamaModel", "LlamaForCausalLM"), gguf=GGUF, heads=decoder_heads(question_prefix="transformer.")
)
def llama(c: Reader) -> Arch:
    return decoder(c)


@family("mistral", classes=("MistralModel", "MistralForCausalLM"), gguf_as="llama")
def mistral(c: Reader) -> Arch:
    """Llama whose attention slides on every layer, unless sliding_window is null."""
    arch = decoder(c, longest=131_072, kv_heads=8)
    window = read_window(c, 4096)
    if window and not all(read_layer_types(c, arch.num_layers) or [True]):
        raise c.error("mistral layers slide all or none, and layer_types says otherwise", c.value("layer_types"))
    return with_windows(c, arch, window, [True] * arch.num_layers)
