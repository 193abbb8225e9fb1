"""Gemma 1 to 3 (text): norms that store w - 1, scaled embeddings, GELU gates; sandwich norms and windows from 2 on."""

from __future__ import annotations

import math
from typing import Any

from martlet.arch import Activation, Arch, Layer, Norm, Placement, QKNorm, Rope
from martlet.families.llama import decoder, read_activation, read_window, with_windows
from martlet.families.reader import Reader
from martlet.families.registry import family
from martlet.families.rope_config import check_table, read_rope


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


@family("gemma", classes=("GemmaModel", "GemmaForCausalLM"))
def gemma(c: Reader) -> Arch:
    """The first files say "gelu" where the tanh approximation is meant."""
    key = "hidden_activation" if "hidden_activation" in c else "hidden_act"
    activation = read_activation(c, key, "gelu_pytorch_tanh")
    c.skip("hidden_act", "hidden_activation")
    return _gemma(c, kv_heads=16, activation=Activation.GELU_TANH if activation is Activation.GELU else activation)


@family("gemma2", classes=("Gemma2Model", "Gemma2ForCausalLM"))
def gemma2(c: Reader) -> Arch:
    """Every other layer slides, the first one does."""
    arch = _sandwiched(c, (50.0, 30.0))
    return with_windows(c, arch, read_window(c, 4096), [index % 2 == 0 for index in range(arch.num_layers)])


@family("gemma3_text", classes=("Gemma3TextModel", "Gemma3ForCausalLM"))
def gemma3_text(c: Reader) -> Arch:
    """Five sliding layers with a rotation of their own, then a full one; q and k normalised per head."""
    full, local = _gemma3_ropes(c)
    every = c.size("sliding_window_pattern", c.size("_sliding_window_pattern", 6))
    if every < 1:
        raise c.error("sliding_window_pattern must be at least 1", every)
    arch = _sandwiched(c, (0.0, 0.0), rope=full)
    arch = with_windows(c, arch, read_window(c, 4096), [bool((index + 1) % every) for index in range(arch.num_layers)])
    layers = tuple(Layer(local if layer.window else full, layer.window) for layer in arch.layers)
    return arch.but(qk_norm=QKNorm.HEAD, layers=layers, max_position_embeddings=c.size("max_position_embeddings", 131_072))


def _gemma3_ropes(c: Reader) -> tuple[Rope, Rope]:
    head_dim = c.size("head_dim", 256)
    tables, scaling = c.value("rope_parameters", {}), c.value("rope_scaling", {})
    if not isinstance(tables, dict) or not tables.keys() <= {"full_attention", "sliding_attention"}:
        raise c.error("rope_parameters must have the parts full_attention and sliding_attention", tables)
    of_full, of_local = (tables.get(kind) or {} for kind in ("full_attention", "sliding_attention"))
    full = read_rope(c, head_dim=head_dim, theta=1e6, table={**check_table(c, of_full), **check_table(c, scaling)})
    return full, read_rope(c, head_dim=head_dim, theta_key="rope_local_base_freq", table=of_local)
