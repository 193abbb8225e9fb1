"""Rotary frequencies of an `Arch`'s layers, for every scaling. Pure numpy; both backends turn with these tables."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from martlet.arch import Rope, RopeScaling

Floats = NDArray[np.float32]


def frequencies(rope: Rope, head_dim: int, length: int) -> Floats:
    """Angle per position of each rotated pair, `(num_rotated / 2,)` float32, for a sequence of `length` tokens.

    The length matters for longrope (another table beyond `original_positions`) and dynamic scaling only.
    """
    rotated = rope.num_rotated(head_dim)
    # float32 throughout, in the order the reference computes it: the angles must agree to the bit at position 100,000
    exponents: Floats = np.arange(0, rotated, 2, dtype=np.int64).astype(np.float32) / np.float32(rotated)
    base = rope.theta
    if rope.scaling is RopeScaling.DYNAMIC and length > rope.original_positions:
        growth = rope.factor * length / rope.original_positions - (rope.factor - 1)
        base = rope.theta * growth ** (rotated / (rotated - 2))
    powers: Floats = np.power(np.float32(base), exponents, dtype=np.float32)
    plain: Floats = np.float32(1) / powers
    match rope.scaling:
        case RopeScaling.LINEAR:
            stretched: Floats = plain / np.float32(rope.factor)
            return stretched
        case RopeScaling.LLAMA3:
            return _llama3(rope, plain)
        case RopeScaling.YARN:
            return _yarn(rope, rotated, powers)
        case RopeScaling.LONGROPE:
            table = rope.long_factor if length > rope.original_positions else rope.short_factor
            longer: Floats = np.float32(1) / (np.asarray(table, np.float32) * powers)
            return longer
        case _:
            return plain


def turns_over(rope: Rope, length: int, grown: int) -> bool:
    """Whether keys cached at `length` tokens are turned wrongly once the sequence has `grown` tokens."""
    if rope.scaling is RopeScaling.LONGROPE:
        return length <= rope.original_positions < grown
    return rope.scaling is RopeScaling.DYNAMIC and grown > max(length, rope.original_positions)


def _llama3(rope: Rope, plain: Floats) -> Floats:
    """Llama 3.1's: wavelengths beyond the low bound are stretched whole, shorter than the high bound not at all."""
    wavelengths = np.float32(2 * math.pi) / plain
    longest = rope.original_positions / rope.low_freq_factor
    shortest = rope.original_positions / rope.high_freq_factor
    smooth = (rope.original_positions / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    blended = (1 - smooth) * plain / np.float32(rope.factor) + smooth * plain
    stretched = np.where(wavelengths > longest, plain / np.float32(rope.factor), plain)
    between = (wavelengths <= longest) & (wavelengths >= shortest)
    return np.where(between, blended, stretched).astype(np.float32)


def _yarn(rope: Rope, rotated: int, powers: Floats) -> Floats:
    """YaRN (arXiv 2309.00071, section 3.2): a ramp over dimensions between `beta_fast` and `beta_slow` turns."""

    def dimension(turns: float) -> float:
        return (rotated * math.log(rope.original_positions / (turns * 2 * math.pi))) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    width = high - low or 0.001  # a ramp of no width would divide by zero
    ramp = np.clip((np.arange(rotated // 2, dtype=np.float32) - np.float32(low)) / np.float32(width), 0, 1)
    kept = 1 - ramp
    stretched = np.float32(1) / (np.float32(rope.factor) * powers)
    blended: Floats = stretched * (1 - kept) + (np.float32(1) / powers) * kept
    return blended.astype(np.float32)


def yarn_attention_factor(factor: float, mscale: float = 0.0, mscale_all_dim: float = 0.0) -> float:
    """What YaRN multiplies cos and sin by when the config does not say."""

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if mscale and mscale_all_dim:
        return scale(mscale) / scale(mscale_all_dim)
    return scale(1.0)
