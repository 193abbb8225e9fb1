"""An `Arch` in GGUF's words: the keys of its architecture, and its tables of rotation. Reading them is `gguf`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.arch import Arch, Norm, Rope, RopeScaling
from martlet.errors import ConfigError, GgufError, UnsupportedError
from martlet.families.config import Config
from martlet.families.gguf import LAYER_EPS, RMS_EPS
from martlet.families.registry import GgufDialect
from martlet.formats.tensors import TensorSource
from martlet.rope import frequencies

CLOSE = 1e-6  # a float32 of a file is this near, relatively, to the number it was
Tables = dict[str, NDArray[np.float32]]


def arch_metadata(arch: Arch, dialect: GgufDialect) -> tuple[dict[str, Any], Tables]:
    """Keys that say what `arch` is, and the tensors of divisors that stand for some scalings of the rotation.

    What the keys have no words for is left out: `check_said` finds it.
    """
    short: dict[str, Any] = {
        "block_count": arch.num_layers,
        "context_length": arch.max_position_embeddings,
        "embedding_length": arch.hidden_size,
        "feed_forward_length": arch.intermediate_size,
        "attention.head_count": arch.num_attention_heads,
        "attention.head_count_kv": arch.num_key_value_heads,
        "attention.key_length": arch.head_dim,
        "attention.value_length": arch.head_dim,
        "vocab_size": arch.vocab_size,
        LAYER_EPS if arch.norm is Norm.LAYER else RMS_EPS: arch.norm_eps,
    }
    if windows := {layer.window for layer in arch.layers if layer.window}:
        short["attention.sliding_window"] = max(windows)
    for key, cap in (("attn", arch.attn_softcap), ("final", arch.logit_softcap)):
        if cap:
            short[f"{key}_logit_softcapping"] = cap
    tables: Tables = {}
    if rope := main_rope(arch):
        more, tables = _rope(rope, arch)
        short |= more
    short |= dialect.keys(arch)
    name = dialect.names[0]
    return {"general.architecture": name} | {f"{name}.{key}": value for key, value in short.items()}, tables


def main_rope(arch: Arch) -> Rope | None:
    """The rotation of the layers that see everything, if there are such; else of any that turns."""
    turning = [layer for layer in arch.layers if layer.rope]
    seeing = [layer for layer in turning if not layer.window]
    return (seeing or turning)[0].rope if turning else None


def _rope(rope: Rope, arch: Arch) -> tuple[dict[str, Any], Tables]:
    keys: dict[str, Any] = {
        "rope.dimension_count": rope.num_rotated(arch.head_dim),
        "rope.freq_base": rope.theta,
    }
    tables: Tables = {}
    match rope.scaling:
        case RopeScaling.LINEAR:
            keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
        case RopeScaling.YARN:
            keys |= {"rope.scaling.type": "yarn", "rope.scaling.factor": rope.factor}
            keys["rope.scaling.original_context_length"] = rope.original_positions
            # No attn_factor: llama.cpp multiplies by it what it computes itself.
            for ours, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)):
                if (found := getattr(rope, ours)) != usual:
                    keys[f"rope.scaling.yarn_{ours}"] = found
        case RopeScaling.LLAMA3:
            plain = frequencies(Rope(rope.theta, rope.fraction), arch.head_dim, 0)
            tables["rope_freqs.weight"] = plain / frequencies(rope, arch.head_dim, 0)
        case RopeScaling.LONGROPE:
            keys["rope.scaling.original_context_length"] = rope.original_positions
            keys["rope.scaling.attn_factor"] = rope.attention_factor
            tables["rope_factors_long.weight"] = np.asarray(rope.long_factor, np.float32)
            tables["rope_factors_short.weight"] = np.asarray(rope.short_factor, np.float32)
        case _:
            pass
    return keys, tables


def check_said(arch: Arch, metadata: Mapping[str, Any], dialect: GgufDialect, source: TensorSource) -> None:
    """UnsupportedError naming what of `arch` is lost by its keys: they are read back, and every field compared."""
    name = dialect.names[0]
    subject = f"GGUF architecture {name}"
    if arch.tied and not dialect.ties:
        raise UnsupportedError(
            subject, "must have an output head of its own: llama.cpp reads no other", found="a tied one"
        )
    try:
        back = Config(dialect.config(metadata, source)).arch
    except (GgufError, ConfigError) as problem:
        raise UnsupportedError(subject, f"cannot say this model: {problem.rule}", found=problem.found) from problem
    for field in fields(Arch):
        if field.name in ("layers", "dropout", "attn_scale"):
            continue
        said, meant = getattr(back, field.name), getattr(arch, field.name)
        if said != meant and not (isinstance(meant, float) and math.isclose(said, meant, rel_tol=CLOSE)):
            raise _lost(subject, f"{field.name} {meant!r}", repr(said))
    if not math.isclose(back.score_scale, arch.score_scale, rel_tol=CLOSE):
        raise _lost(subject, f"scores multiplied by {arch.score_scale:g}", f"{back.score_scale:g}")
    for index, (said_layer, layer) in enumerate(zip(back.layers, arch.layers, strict=True)):
        if said_layer.window != layer.window:
            raise _lost(subject, f"a window of {layer.window} in layer {index}", str(said_layer.window))
        if not _turns_alike(said_layer.rope, layer.rope, arch):
            scaling = layer.rope.scaling if layer.rope else "no rotation"
            raise _lost(subject, f"the rotation of layer {index} ({scaling})", repr(said_layer.rope))


def _turns_alike(one: Rope | None, other: Rope | None, arch: Arch) -> bool:
    """Whether two rotations are the same numbers at every length there is."""
    if one is None or other is None:
        return one is other
    if one.num_rotated(arch.head_dim) != other.num_rotated(arch.head_dim):
        return False
    if not math.isclose(one.attention_factor, other.attention_factor, rel_tol=CLOSE):
        return False
    ends = {1, arch.max_position_embeddings, one.original_positions or 1, other.original_positions or 1}
    return all(
        np.allclose(frequencies(one, arch.head_dim, n), frequencies(other, arch.head_dim, n), rtol=1e-5, atol=0)
        for n in sorted(ends | {end + 1 for end in ends})
    )


def _lost(subject: str, what: str, found: str) -> UnsupportedError:
    return UnsupportedError(
        subject, f"has no words for {what}", found=f"{found} when read back", remedy="Save the model as a folder."
    )
