"""Gemma 1 to 3 (text): norms that store w - 1, scaled embeddings, GELU gates; sandwich norms and windows from 2 on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from martlet.arch import Activation, Arch, Layer, Norm, Placement, QKNorm, Rope
from martlet.families.decoder import decoder, read_activation, read_window, with_windows
from martlet.families.gguf import RMS_EPS, GgufKeys, common_config
from martlet.families.reader import Reader
from martlet.families.registry import GGUF_NAMES, GGUF_PRE_NORMS, GgufDialect, family
from martlet.families.rope_config import check_table, read_rope
from martlet.formats.tensors import TensorSource
from martlet.weights import rename, shift


def _gemma(c: Reader, **defaults: Any) -> Arch:
    c.neutral("use_bidirectional_attention", False)
    head_dim = c.size("head_dim", 256)
    arch = decoder(c, longest=8192, head_dim=head_dim, tied=True, **defaults)
    return arch.but(norm=Norm.RMS_PLUS_ONE, embed_scale=math.sqrt(arch.hidden_size))


def _sandwiched(c: Reader, default_caps: tuple[float, float], **defaults: Any) -> Arch:
    scalar = c.number("query_pre_attn_scalar", 256)
    if scalar <= 0:
        raise c.error("query_pre_attn_scalar must be above 0", scalar)
    activation = read_activation(c, "hidden_activation", "gelu_pytorch_tanh")
    c.skip("hidden_act")  # Hugging Face reads hidden_activation alone
    return _gemma(c, activation=activation, kv_heads=4, **defaults).but(
        placement=Placement.SANDWICH,
        attn_scale=scalar**-0.5,
        attn_softcap=c.cap("attn_logit_softcapping", default_caps[0]),
        logit_softcap=c.cap("final_logit_softcapping", default_caps[1]),
    )


WINDOW, PATTERN, LOCAL_THETA = "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
# llama.cpp stores the weight of a norm with the 1 added, and names the norms by what they stand before or after.
GGUF_SHIFT = (shift("norm.weight", -1.0), *GGUF_NAMES)
GGUF_SANDWICH = (
    *GGUF_SHIFT,
    rename(".attn_norm.", ".input_layernorm."),
    rename(".post_attention_norm.", ".post_attention_layernorm."),
    rename(".ffn_norm.", ".pre_feedforward_layernorm."),
    rename(".post_ffw_norm.", ".post_feedforward_layernorm."),
)


def _gguf_gemma(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, config = common_config(metadata, source, "gemma")
    return config | {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": keys.number(RMS_EPS)}


def _gguf_sandwiched(keys: GgufKeys, config: dict[str, Any], num_largest: int) -> dict[str, Any]:
    """The largest model of each generation scales scores by hidden_size / heads; its depth alone tells."""
    config |= {"hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": keys.number(RMS_EPS)}
    is_largest = config["num_hidden_layers"] == num_largest
    scalar = config["hidden_size"] / config["num_attention_heads"] if is_largest else float(config["head_dim"])
    if keys.value("attention.scale") is not None:
        scale = keys.number("attention.scale")
        if scale <= 0:
            raise keys.wrong("attention.scale", "must be above 0", scale)
        scalar = scale**-2
    is_whole = abs(scalar - round(scalar)) < 1e-3
    config["query_pre_attn_scalar"] = round(scalar) if is_whole else scalar  # config.json has a whole number
    if keys.value(WINDOW) is not None:
        config["sliding_window"] = keys.size(WINDOW) or None
    return config | {key: keys.number(key) for key in CAPS if keys.value(key) is not None}


def _gguf_gemma2(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, config = common_config(metadata, source, "gemma2", WINDOW, "attention.scale", *CAPS)
    return _gguf_sandwiched(keys, config, 46)


def _gguf_gemma3(metadata: Mapping[str, Any], source: TensorSource) -> dict[str, Any]:
    keys, config = common_config(
        metadata, source, "gemma3_text", WINDOW, PATTERN, LOCAL_THETA, "attention.scale", *CAPS
    )
    config = {"rope_theta": 1e6} | _gguf_sandwiched(keys, config, 62)
    config["rope_local_base_freq"] = keys.number(LOCAL_THETA, 10_000.0)
    pattern = metadata.get(f"{keys.architecture}.{PATTERN}")
    if isinstance(pattern, np.ndarray):
        config["layer_types"] = ["sliding_attention" if slides else "full_attention" for slides in pattern.tolist()]
    else:
        config["sliding_window_pattern"] = keys.size(PATTERN, 6)
    return config


def _gguf_gemma3_keys(arch: Arch) -> dict[str, Any]:
    """The rotation of sliding layers, and after how many of them a full one comes."""
    local = next((layer.rope for layer in arch.layers if layer.window and layer.rope), None)
    full = [index for index, layer in enumerate(arch.layers) if not layer.window]
    return {PATTERN: full[0] + 1 if full else arch.num_layers + 1} | ({LOCAL_THETA: local.theta} if local else {})


@family(
    "gemma",
    classes=("GemmaModel", "GemmaForCausalLM"),
    gguf=GgufDialect(("gemma",), _gguf_gemma, (*GGUF_SHIFT, *GGUF_PRE_NORMS)),
)
def gemma(c: Reader) -> Arch:
    """The first files say "gelu" where the tanh approximation is meant."""
    key = "hidden_activation" if "hidden_activation" in c else "hidden_act"
    activation = read_activation(c, key, "gelu_pytorch_tanh")
    c.skip("hidden_act", "hidden_activation")
    return _gemma(c, kv_heads=16, activation=Activation.GELU_TANH if activation is Activation.GELU else activation)


@family(
    "gemma2",
    classes=("Gemma2Model", "Gemma2ForCausalLM"),
    gguf=GgufDialect(("gemma2",), _gguf_gemma2, GGUF_SANDWICH),
)
def gemma2(c: Reader) -> Arch:
    """Every other layer slides, the first one does."""
    arch, window = _sandwiched(c, (50.0, 30.0)), read_window(c, 4096)
    c.neutral("sliding_window_size", window)  # the first files have it twice
    return with_windows(c, arch, window, [index % 2 == 0 for index in range(arch.num_layers)])


@family(
    "gemma3_text",
    classes=("Gemma3TextModel", "Gemma3ForCausalLM"),
    gguf=GgufDialect(("gemma3",), _gguf_gemma3, GGUF_SANDWICH, _gguf_gemma3_keys),
)
def gemma3_text(c: Reader) -> Arch:
    """Five sliding layers with a rotation of their own, then a full one; q and k normalised per head."""
    full, local = _gemma3_ropes(c)
    every = c.size("sliding_window_pattern", c.size("_sliding_window_pattern", 6))
    if every < 1:
        raise c.error("sliding_window_pattern must be at least 1", every)
    arch = _sandwiched(c, (0.0, 0.0), rope=full)
    arch = with_windows(c, arch, read_window(c, 4096), [bool((index + 1) % every) for index in range(arch.num_layers)])
    layers = tuple(Layer(local if layer.window else full, layer.window) for layer in arch.layers)
    return arch.but(
        qk_norm=QKNorm.HEAD, layers=layers, max_position_embeddings=c.size("max_position_embeddings", 131_072)
    )


def _gemma3_ropes(c: Reader) -> tuple[Rope, Rope]:
    head_dim = c.size("head_dim", 256)
    tables, scaling = c.value("rope_parameters", {}), c.value("rope_scaling", {})
    if not isinstance(tables, dict) or not tables.keys() <= {"full_attention", "sliding_attention"}:
        raise c.error("rope_parameters must have the parts full_attention and sliding_attention", tables)
    of_full, of_local = (tables.get(kind) or {} for kind in ("full_attention", "sliding_attention"))
    full = read_rope(c, head_dim=head_dim, theta=1e6, table={**check_table(c, of_full), **check_table(c, scaling)})
    return full, read_rope(c, head_dim=head_dim, theta_key="rope_local_base_freq", table=of_local)
