"""Packing and kernels: each kind against its plain reading, each instruction set against the scalar one, to the bit."""

import numpy as np
import pytest

from martlet import engine
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.tensors import to_float32

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")
if engine.is_built():
    from martlet.engine.extension import native

QUANTIZED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"]
FLOATS = ["F32", "F16", "BF16"]
SETS = [s.name for s in engine.instruction_sets() if s.is_usable] if engine.is_built() else []


def random_rows(kind, n, k, seed=0):
    """Bytes of a matrix as files hold it, and its values."""
    rng = np.random.default_rng(seed)
    if kind in FLOATS:
        values = rng.standard_normal((n, k)).astype(np.float32)
        if kind == "F32":
            raw = values.view(np.uint8)
        elif kind == "F16":
            raw = values.astype(np.float16).view(np.uint8)
        else:
            raw = np.ascontiguousarray(values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        raw = np.ascontiguousarray(raw).reshape(-1)
        return raw, to_float32(raw, kind, (n, k))
    block = BLOCKS[kind]
    blocks = rng.integers(0, 256, (n * k // block.size, block.num_bytes), dtype=np.uint8)
    half = np.frombuffer(rng.uniform(0.001, 0.02, 2 * len(blocks)).astype(np.float16).tobytes(), np.uint8)
    places = {"Q6_K": [208], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2]}.get(kind, [0])
    for which, place in enumerate(places):
        blocks[:, place : place + 2] = half.reshape(2, -1, 2)[which]
    raw = blocks.reshape(-1)
    return raw, to_float32(raw, kind, (n, k))


@pytest.mark.parametrize("kind", FLOATS + QUANTIZED)
@pytest.mark.parametrize("n", [1, 16, 37])
def test_packing_keeps_every_value(kind, n):
    raw, values = random_rows(kind, n, 512)
    out, read = np.empty((n, 512), np.float32), np.empty((n, 512), np.float32)
    packed = native().pack(kind, raw, n, 512, None, 2)
    packed.unpack(out)
    native().read_rows(kind, raw, read)
    assert np.array_equal(out, values) and np.array_equal(read, values)
    order = np.random.default_rng(1).integers(0, n, 5)
    few = native().pack(kind, raw, 5, 512, order, 1)
    few.unpack(chosen := np.empty((5, 512), np.float32))
    assert np.array_equal(chosen, values[order])


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("k", [1, 2, 31, 33, 65])
def test_float_kinds_take_any_width(kind, k):
    raw, values = random_rows(kind, 19, k)
    x = np.random.default_rng(2).standard_normal((3, k)).astype(np.float32)
    if kind == "BF16":
        x = to_float32((x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(-1), "BF16", x.shape)
    y = np.empty((3, 32), np.float32)
    native().Kernels(SETS[-1]).matmul(native().pack(kind, raw, 19, k, None, 1), x, y)
    bound = (
        2**-23 * (k + 4) * (np.abs(x).astype(np.float64) @ np.abs(values.T))
    )  # k roundings of sums at most this large
    assert (np.abs(y[:, :19] - x.astype(np.float64) @ values.T) <= bound).all()
    assert not y[:, 19:].any()


@pytest.mark.parametrize("kind", QUANTIZED)
def test_products_stay_within_what_8_bit_activations_allow(kind):
    raw, values = random_rows(kind, 33, 512)
    x = np.random.default_rng(3).standard_normal((5, 512)).astype(np.float32)
    y = np.empty((5, 48), np.float32)
    native().Kernels(SETS[-1]).matmul(native().pack(kind, raw, 33, 512, None, 1), x, y)
    step = np.abs(x).reshape(5, 16, 32).max(2) / 127  # of each block; rounding is off by half a step at most
    bound = 0.5001 * np.repeat(step, 32, 1).astype(np.float64) @ np.abs(values.T) + 1e-4
    assert (np.abs(y[:, :33] - x.astype(np.float64) @ values.T) <= bound).all()


@pytest.mark.parametrize("kind", FLOATS + QUANTIZED)
@pytest.mark.parametrize("isa", SETS)
def test_instruction_sets_and_row_counts_agree_to_the_bit(kind, isa):
    raw, _ = random_rows(kind, 40, 512)
    packed = native().pack(kind, raw, 40, 512, None, 1)
    x = np.random.default_rng(4).standard_normal((17, 512)).astype(np.float32)
    want = np.empty((17, 48), np.float32)
    native().Kernels("scalar").matmul(packed, x, want)
    for count in (1, 2, 3, 5, 8, 17):
        y = np.empty((count, 48), np.float32)
        native().Kernels(isa).matmul(packed, x[:count], y)
        assert np.array_equal(y, want[:count])


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("n", [1, 3, 15, 16, 17, 31, 64, 577])
def test_norms_and_activations_agree_to_the_bit(isa, n):
    rng = np.random.default_rng(n)
    x, w, b = (rng.standard_normal(n).astype(np.float32) * 3 for _ in range(3))
    plain, here = native().Kernels("scalar"), native().Kernels(isa)
    for kind in ("rms", "rms_plus_one", "layer"):
        want, got = np.empty(n, np.float32), np.empty(n, np.float32)
        plain.norm(kind, x, w, b, 1e-5, want)
        here.norm(kind, x, w, b, 1e-5, got)
        assert np.array_equal(got, want)
    for name in ("silu", "gelu", "gelu_tanh", "relu"):
        want, got = np.empty(n, np.float32), np.empty(n, np.float32)
        plain.activate(name, x, w, want)
        here.activate(name, x, w, got)
        assert np.array_equal(got, want)


def test_activations_against_their_formulas():
    from math import erf

    x = np.concatenate([np.linspace(-30, 30, 4001), [0.0, -1e-30, 1e4, -1e4]]).astype(np.float32)
    wide = x.astype(np.float64)
    phi = np.array([0.5 * (1 + erf(v / 2**0.5)) for v in wide])
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    with np.errstate(over="ignore"):
        formulas = {
            "silu": wide / (1 + np.exp(-wide)),
            "gelu": wide * phi,
            "gelu_tanh": 0.5 * wide * (1 + np.tanh(inner)),
            "relu": np.maximum(wide, 0),
        }
    for name, want in formulas.items():
        y = np.empty_like(x)
        native().Kernels(SETS[-1]).activate(name, x, None, y)
        assert (np.abs(y - want) <= 4e-7 * np.maximum(1, np.abs(wide))).all(), name


def test_a_block_with_nan_spoils_its_products():
    raw, _ = random_rows("Q8_0", 16, 64)
    packed = native().pack("Q8_0", raw, 16, 64, None, 1)
    for bad in (np.nan, np.inf, -np.inf):
        x = np.ones((1, 64), np.float32)
        x[0, 40] = bad
        y = np.empty((1, 16), np.float32)
        native().Kernels(SETS[-1]).matmul(packed, x, y)
        assert np.isnan(y).all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiple of 256"):
        native().pack("Q4_K", np.zeros(144, np.uint8), 1, 128, None, 1)
    with pytest.raises(ValueError, match="too short"):
        native().pack("Q8_0", np.zeros(33, np.uint8), 1, 32, None, 1)
    with pytest.raises(ValueError, match="out of range"):
        native().pack("Q8_0", np.zeros(34, np.uint8), 1, 32, np.array([1]), 1)
    with pytest.raises(ValueError, match="no kernels for Q2_K"):
        native().pack("Q2_K", np.zeros(84, np.uint8), 1, 256, None, 1)
