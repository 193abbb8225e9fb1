"""Every block type against the `gguf` package's dequantizer, bit for bit."""

import gguf
import numpy as np
import pytest

from martlet.errors import ArgumentError, GgufError
from martlet.formats.gguf_blocks import BLOCKS, DECODED, THREADED_WEIGHTS
from martlet.formats.tensors import num_bytes, to_float32

# where a block's float16 scales lie
SCALES = dict.fromkeys(DECODED, (0, 2)) | dict.fromkeys(["Q4_1", "Q5_1", "Q4_K", "Q5_K"], (0, 4))
SCALES |= {"Q2_K": (80, 84), "Q3_K": (108, 110), "Q6_K": (208, 210)}


def random_blocks(dtype: str, count: int, seed: int = 0) -> np.ndarray:
    """Random bits everywhere, float16 scales of every kind but NaN (whose payload no one promises)."""
    block = BLOCKS[dtype]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (count, block.num_bytes), np.uint8)
    begin, end = SCALES[dtype]
    scales = rng.standard_normal((count, (end - begin) // 2)).astype(np.float16)
    scales[::7], scales[1::13] = 0.0, np.float16(6e-8)
    raw[:, begin:end] = scales.view(np.uint8)
    return raw.reshape(-1)


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


@pytest.mark.parametrize("dtype", DECODED)
@pytest.mark.parametrize("count", [1, 2, 3, 4097])
def test_values_are_the_oracles_bit_for_bit(dtype, count):
    raw = random_blocks(dtype, count)
    expected = gguf.quants.dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType[dtype])
    found = to_float32(raw, dtype, (1, count * BLOCKS[dtype].size))
    np.testing.assert_array_equal(bits(found), bits(expected))


def test_every_common_type_is_decoded():
    wanted = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS"
    assert set(DECODED) == set(wanted.split())


EXTREMES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]


@pytest.mark.parametrize("dtype", DECODED)
@pytest.mark.parametrize("scale", EXTREMES, ids=hex)
def test_extreme_scales(dtype, scale):
    """Zeros, subnormals, the largest, infinities and NaN as float16 scales; all other bits all kinds."""
    raw = random_blocks(dtype, 64, seed=scale).reshape(64, -1)
    begin, end = SCALES[dtype]
    raw[:, begin:end].view("<u2")[:] = scale
    if end - begin == 4:
        raw[::2, begin:end].view("<u2")[:, 1] = np.random.default_rng(scale).choice(EXTREMES, 32)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType[dtype])
    found = to_float32(raw.reshape(-1), dtype, expected.shape)
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), is_nan)
    np.testing.assert_array_equal(bits(found)[~is_nan], bits(expected)[~is_nan])


@pytest.mark.parametrize("dtype", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0])
def test_extreme_small_scales_and_weights(dtype, byte):
    raw = np.full((3, BLOCKS[dtype].num_bytes), byte, np.uint8)
    begin, end = SCALES[dtype]
    raw[:, begin:end].view("<f2")[:] = np.float16([[1.5], [-65504], [6e-8]])
    expected = gguf.quants.dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType[dtype])
    np.testing.assert_array_equal(bits(to_float32(raw.reshape(-1), dtype, expected.shape)), bits(expected))


@pytest.mark.parametrize(("dtype", "size"), [("F32", 4), ("F16", 2), ("BF16", 2)])
def test_plain_types_are_the_oracles(dtype, size):
    every = np.arange(65536, dtype="<u2").view(np.uint8)
    raw = every if size == 2 else np.repeat(every.reshape(-1, 2), 2, axis=0).reshape(-1)
    kind = gguf.GGMLQuantizationType[dtype]
    given = raw.view({"F32": "<f4", "F16": "<f2", "BF16": "u1"}[dtype]).reshape(1, -1)
    expected = gguf.quants.dequantize(given, kind).reshape(-1)
    found = to_float32(raw, dtype, (raw.size // size,))
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), is_nan)
    np.testing.assert_array_equal(bits(found)[~is_nan], bits(expected)[~is_nan])


@pytest.mark.parametrize("dtype", ["Q4_1", "Q6_K"])
def test_threads_change_no_bit(dtype):
    count = 2 * THREADED_WEIGHTS // BLOCKS[dtype].size + 5
    raw = random_blocks(dtype, count)
    whole = to_float32(raw, dtype, (count * BLOCKS[dtype].size,))
    cut = len(raw) // BLOCKS[dtype].num_bytes // 3
    part = to_float32(raw[: cut * BLOCKS[dtype].num_bytes], dtype, (cut * BLOCKS[dtype].size,))
    np.testing.assert_array_equal(bits(whole[: len(part)]), bits(part))


@pytest.mark.parametrize("dtype", BLOCKS)
def test_sizes_and_codes_are_ggmls(dtype):
    kind = gguf.GGMLQuantizationType[dtype]
    assert (BLOCKS[dtype].size, BLOCKS[dtype].num_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert BLOCKS[dtype].code == kind


def test_infinite_scales_give_no_warning():
    raw = random_blocks("Q4_0", 2)
    raw[:2] = np.array([np.inf], np.float16).view(np.uint8)
    raw[2:4] = 8  # weight zero times infinity
    assert np.isnan(to_float32(raw, "Q4_0", (64,))[0])


def test_out_is_filled_and_checked():
    raw = random_blocks("Q8_0", 4)
    out = np.empty((2, 64), np.float32)
    assert to_float32(raw, "Q8_0", (2, 64), out=out) is out
    np.testing.assert_array_equal(out, to_float32(raw, "Q8_0", (2, 64)))
    with pytest.raises(ArgumentError, match=r"out: must be C-contiguous float32 of shape \[2, 64\]"):
        to_float32(raw, "Q8_0", (2, 64), out=np.empty((64, 2), np.float32))


def test_a_type_without_values_is_named_with_those_that_have_them():
    with pytest.raises(
        GgufError, match=r"block type IQ2_XXS: is not supported; supported are F32, F16, BF16, Q4_0, Q4_1, .*IQ4_XS"
    ):
        to_float32(np.zeros(66, np.uint8), "IQ2_XXS", (256,))


def test_sizes_must_agree():
    with pytest.raises(ArgumentError, match="needs 34 bytes; found 33"):
        to_float32(np.zeros(33, np.uint8), "Q8_0", (32,))
    with pytest.raises(ArgumentError, match="last axis must be a multiple of 32"):
        num_bytes("Q8_0", (32, 31))
