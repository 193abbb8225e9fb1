"""exp of numbers up to 0 from additions and multiplications alone, so that every machine draws the same tokens.

native/sampling/choose.cpp computes it in the same order: both backends choose the same ids from the same scores."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_TERMS = [1.0 / math.factorial(n) for n in range(13, -1, -1)]
_LOG2_E, _LOG_2_HIGH, _LOG_2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10


def exponential(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(x) for x <= 0 to within two units in the last place; 0 below -708; NaN stays.

    e^x = 2^k e^r with |r| <= log(2) / 2, and the Taylor polynomial of e^r to r^13.
    """
    clipped = np.maximum(x, -708.0)
    k = np.rint(clipped * _LOG2_E)
    r = (clipped - k * _LOG_2_HIGH) - k * _LOG_2_LOW
    total = np.full_like(r, _TERMS[0])
    for term in _TERMS[1:]:
        total *= r
        total += term
    with np.errstate(invalid="ignore"):  # NaN has no exponent, and is NaN already
        total *= ((k.astype(np.int64) + 1023) << 52).view(np.float64)
    total[x < -708.0] = 0.0
    return total


def sum_in_order(x: NDArray[np.float64]) -> np.float64:
    """The sum from first to last, as a loop adds."""
    return np.float64(np.cumsum(x)[-1])
