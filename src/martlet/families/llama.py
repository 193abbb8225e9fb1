"""Llama and its direct relatives. Our tensor names are Llama's, so its own checkpoints need no rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from martlet.arch import Activation, Arch, Layer, Rope, RopeScaling
from martlet.families.gguf import common_config, frequency_factors
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GGUF_PRE_NORMS, GgufDialect, family
from martlet.families.rope_config import read_rope
from martlet.formats.tensors import TensorSource
from martlet.rope import frequencies
from martlet.weights import reorder, rows_pairwise

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}


def read_activation(c: Reader, key: str = "hidden_act", default: str = "silu") -> Activation:
    """The MLP's activation by Hugging Face's name."""
    name = c.text(key, default)
    if name not in ACTIVATIONS:
        raise c.error(f"{key} must be one of {', '.join(ACTIVATIONS)}", name)
    return ACTIVATIONS[name]


def read_head_dim(c: Reader) -> int:
    """head_dim, or what the other sizes imply where it is absent."""
    heads = c.size("num_attention_heads")
    if heads < 1:
        raise c.error("num_attention_heads must be at least 1", heads)
    return c.size("head_dim", c.size("hidden_size") // heads)


def decoder(c: Reader, *, theta: float = 10_000.0, eps: float = 1e-6, fraction: float = 1.0, bias: bool = False) -> Arch:
    """The frame of a Llama-like config; the arguments are the family's defaults for keys a config may leave out."""
    heads = c.size("num_attention_heads")
    head_dim = read_head_dim(c)
    rope = read_rope(c, head_dim=head_dim, theta=theta, fraction=fraction)
    biased = c.flag("attention_bias", bias)
    return Arch(
        vocab_size=c.size("vocab_size"),
        hidden_size=c.size("hidden_size"),
        intermediate_size=c.size("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=c.size("num_key_value_heads", heads),
        head_dim=head_dim,
        layers=(Layer(rope=rope),) * c.size("num_hidden_layers"),
        max_position_embeddings=c.size("max_position_embeddings", 2048),
        norm_eps=c.number("rms_norm_eps", eps),
        activation=read_activation(c) if "hidden_activation" not in c else read_activation(c, "hidden_activation"),
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=c.flag("mlp_bias", False),
        tied=c.flag("tie_word_embeddings", False),
    )


def with_windows(c: Reader, arch: Arch, is_sliding: list[bool]) -> Arch:
    """`arch` with the config's sliding window on the layers that slide, `layer_types` deciding where it is given."""
    window = c.size("sliding_window", 0)
    types = c.value("layer_types")
    if types is not None:
        kinds = {"sliding_attention": True, "full_attention": False}
        if not isinstance(types, list) or len(types) != arch.num_layers or not all(kind in kinds for kind in types):
            raise c.error(f"layer_types must be {arch.num_layers} of {', '.join(kinds)}", types)
        is_sliding = [kinds[kind] for kind in types]
    layers = tuple(
        Layer(layer.rope, window if slides else 0) for layer, slides in zip(arch.layers, is_sliding, strict=True)
    )
    return arch.but(layers=layers)


# llama.cpp turns pairs that stand side by side, so its converter reorders the rows of q and k.
UNPAIR = (
    reorder(".self_attn.q_proj.", lambda a: rows_pairwise(a.num_attention_heads, a.head_dim)),
    reorder(".self_attn.k_proj.", lambda a: rows_pairwise(a.num_key_value_heads, a.head_dim)),
)


def gguf_config(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    """config.json of a GGUF file whose architecture is "llama": Llama, Mistral, SmolLM2, TinyLlama, Yi."""
    keys, config = common_config(metadata, source)
    config |= {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon")}
    if "blk.0.attn_q.bias" in source:
        config["attention_bias"] = True
    factors = frequency_factors(source, "rope_freqs.weight")
    if factors is not None:
        config["rope_scaling"] = _llama3_scaling(factors, config)
    return config


def _llama3_scaling(factors: list[float], config: Mapping[str, Any]) -> dict[str, Any]:
    """The converter keeps a divisor for each frequency and not the four numbers it came from: find them again."""
    theta, head_dim = float(config.get("rope_theta", 10_000.0)), int(config["head_dim"])
    plain = frequencies(Rope(theta), head_dim, 0)
    for factor in sorted({round(max(factors), 3), 8.0, 32.0}):
        rope = Rope(
            theta, scaling=RopeScaling.LLAMA3, factor=factor, original_positions=8192, low_freq_factor=1.0, high_freq_factor=4.0
        )
        if np.allclose(plain / frequencies(rope, head_dim, 0), factors, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
    longest = int(config["max_position_embeddings"])
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": longest,
    }


GGUF = GgufDialect(("llama",), gguf_config, (*GGUF_NAMES, *GGUF_PRE_NORMS, *UNPAIR))


@family("llama", classes=("LlamaModel", "LlamaForCausalLM"), gguf=GGUF)
def llama(c: Reader) -> Arch:
    return decoder(c)


@family("mistral", classes=("MistralModel", "MistralForCausalLM"))
def mistral(c: Reader) -> Arch:
    """Llama whose attention may slide on every layer."""
    arch = decoder(c)
    return with_windows(c, arch, [True] * arch.num_layers)
