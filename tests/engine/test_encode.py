"""Encoding numbers: what comes back is near, nearer than plain rounding, and what cannot be is refused."""

import numpy as np
import pytest

from martlet import engine
from martlet.engine.encode import ENCODED, encode
from martlet.errors import ArgumentError
from martlet.formats.tensors import to_float32

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")

STEPS = {"Q8_0": 127, "Q4_0": 8, "Q5_0": 16, "Q4_1": 15 / 2, "Q5_1": 31 / 2}


def round_trip(x, kind):
    return to_float32(encode(x, kind, 2), kind, x.shape)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_floats_are_rounded_to_nearest(kind):
    x = np.random.default_rng(1).standard_normal((5, 33)).astype(np.float32)
    back = round_trip(x, kind)
    if kind == "F16":
        np.testing.assert_array_equal(back, x.astype(np.float16).astype(np.float32))
    else:
        np.testing.assert_allclose(back, x, rtol={"F32": 0, "BF16": 2**-8}[kind])


@pytest.mark.parametrize("kind", list(STEPS))
def test_the_error_is_below_that_of_plain_rounding(kind):
    x = np.random.default_rng(5).standard_normal((7, 96)).astype(np.float32)
    x[0, :32] = 0
    x[1, :32] = 3.25
    back = round_trip(x, kind)
    blocks, error = x.reshape(-1, 32), (back - x).reshape(-1, 32)
    if kind in ("Q4_1", "Q5_1"):
        step = (blocks.max(1) - blocks.min(1)) / (2 * STEPS[kind])
    else:
        step = np.abs(blocks).max(1) / STEPS[kind]
    # rounding to a grid is off by step^2 / 12 on average; blocks of 32 scatter about it
    assert (np.square(error).mean(1) <= 1.6 * step**2 / 12 + 1e-5 * blocks.max(1) ** 2).all()
    assert not back[0, :32].any()
    np.testing.assert_allclose(back[1, :32], 3.25, rtol=5e-3)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_what_lies_on_a_grid_is_found_again(kind):
    rng = np.random.default_rng(7)
    lowest, highest = {"Q8_0": (-127, 127), "Q4_0": (-8, 7), "Q5_0": (-16, 15), "Q4_1": (0, 15), "Q5_1": (0, 31)}[kind]
    q = rng.integers(lowest, highest + 1, (40, 32))
    q[:, 0], q[:, 1] = lowest, highest
    d = rng.uniform(0.01, 1, (40, 1)).astype(np.float16).astype(np.float32)
    m = rng.uniform(-4, 0, (40, 1)).astype(np.float16).astype(np.float32) if lowest == 0 else np.float32(0)
    x = (d * q + m).astype(np.float32)
    back = round_trip(x, kind)
    np.testing.assert_allclose(back, x, atol=float(np.abs(x).max()) * 2e-3)
    assert (back == x).mean() > 0.8


def test_threads_change_nothing():
    x = np.random.default_rng(9).standard_normal((33, 64)).astype(np.float32)
    for kind in ENCODED:
        np.testing.assert_array_equal(encode(x, kind, 1), encode(x, kind, 5))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match="numbers are encoded as"):
        encode(np.zeros((1, 256), np.float32), "Q4_K")
    with pytest.raises(ArgumentError, match="multiple of 32"):
        encode(np.zeros((1, 33), np.float32), "Q4_0")
