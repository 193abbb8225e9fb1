"""GGUF block types: their sizes, and their values as float32. Knows no files.

A block is `size` weights in `num_bytes` bytes. Layouts are ggml's (`block_q4_1` and so on); each function below opens
with the formula. Values are those of ggml's reference dequantiser to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from martlet.errors import GgufError

# N blocks; columns are bytes or weights of one block
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

CHUNK_WEIGHTS = 1 << 17  # 512 KiB of float32: in and out of a chunk stay in the second-level cache
THREADED_WEIGHTS = 1 << 20  # below this a thread costs more than it saves


@dataclass(frozen=True, slots=True)
class Block:
    """One block type. `decode` fills (N, size) float32 from (N, num_bytes) bytes; None: sizes known, values not."""

    code: int
    size: int
    num_bytes: int
    decode: Callable[[Bytes, Floats], None] | None = None


def decode(raw: Bytes, dtype: str, out: Floats) -> None:
    """Fill flat `out` with the weights of whole blocks `raw`. GgufError for a type whose values are not known here."""
    block = BLOCKS[dtype]
    if block.decode is None:
        raise GgufError(
            f"block type {dtype}",
            f"is not supported; supported are F32, F16, BF16, {', '.join(DECODED)}",
            remedy="Take a file quantised to one of these.",
        )
    kernel = block.decode
    blocks, rows = raw.reshape(-1, block.num_bytes), out.reshape(-1, block.size)
    step = CHUNK_WEIGHTS // block.size

    def run(begin: int, end: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # hostile scales may be infinite
            for start in range(begin, end, step):
                stop = min(start + step, end)
                kernel(blocks[start:stop], rows[start:stop])

    count, num_threads = len(blocks), min(os.cpu_count() or 1, 8)
    if out.size < THREADED_WEIGHTS or num_threads == 1:
        run(0, count)
        return
    from concurrent.futures import ThreadPoolExecutor

    cuts = [count * i // num_threads for i in range(num_threads + 1)]
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(run, cuts[:-1], cuts[1:]))


def _half(blocks: Bytes, begin: int, end: int) -> Floats:
    """Columns begin..end as float16 scales, widened."""
    return np.ascontiguousarray(blocks[:, begin:end]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, out: NDArray[np.generic]) -> None:
    """Low nibbles to the first half of the last axis, high nibbles to the second."""
    half = packed.shape[-1]
    np.bitwise_and(packed, 15, out=out[..., :half], casting="unsafe")
    np.right_shift(packed, 4, out=out[..., half:], casting="unsafe")


def _q4_0(blocks: Bytes, out: Floats) -> None:
    """d * (q - 8): d f16, 16 bytes of nibbles, weights 0-15 low and 16-31 high."""
    _nibbles(blocks[:, 2:], out)
    out -= 8
    out *= _half(blocks, 0, 2)


def _q4_1(blocks: Bytes, out: Floats) -> None:
    """d * q + m: d f16, m f16, 16 bytes of nibbles."""
    scales = _half(blocks, 0, 4)
    _nibbles(blocks[:, 4:], out)
    out *= scales[:, :1]
    out += scales[:, 1:]


def _fifth_bits(blocks: Bytes, begin: int) -> Bytes:
    """Four bytes of one bit a weight, as 0 or 16."""
    bits = np.unpackbits(np.ascontiguousarray(blocks[:, begin : begin + 4]), axis=1, bitorder="little")
    return np.left_shift(bits, 4, out=bits)


def _q5_0(blocks: Bytes, out: Floats) -> None:
    """d * (q - 16): d f16, 4 bytes of fifth bits, 16 bytes of nibbles."""
    _nibbles(blocks[:, 6:], out)
    out += _fifth_bits(blocks, 2)
    out -= 16
    out *= _half(blocks, 0, 2)


def _q5_1(blocks: Bytes, out: Floats) -> None:
    """d * q + m: d f16, m f16, 4 bytes of fifth bits, 16 bytes of nibbles."""
    scales = _half(blocks, 0, 4)
    _nibbles(blocks[:, 8:], out)
    out += _fifth_bits(blocks, 4)
    out *= scales[:, :1]
    out += scales[:, 1:]


def _q8_0(blocks: Bytes, out: Floats) -> None:
    """d * q: d f16, 32 signed bytes."""
    np.multiply(blocks[:, 2:].view(np.int8), _half(blocks, 0, 2), out=out)


def _two_bits(packed: Bytes) -> Bytes:
    """(..., n) bytes to (..., 4, n) values of two bits, lowest first."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8(3)


def _q2_k(blocks: Bytes, out: Floats) -> None:
    """(d * s) * q - (dmin * m), s and m a nibble for each 16 weights: 16 bytes of them, 64 of two bits, d, dmin f16."""
    count = len(blocks)
    scales, d = blocks[:, :16], _half(blocks, 80, 84)
    multipliers = d[:, :1] * (scales & 15)
    minima = d[:, 1:] * (scales >> 4)
    weights = out.reshape(count, 16, 16)
    q = _two_bits(blocks[:, 16:80].reshape(count, 2, 32)).reshape(count, 16, 16)
    np.multiply(q, multipliers[..., None], out=weights)
    weights -= minima[..., None]


def _q3_k(blocks: Bytes, out: Floats) -> None:
    """(d * (s - 32)) * (q - (high bit ? 0 : 4)), s six bits for each 16 weights: 32 bytes of high bits, 64 of two bits,
    12 of scales (8 of low nibbles, 4 of high pairs), d f16."""
    count = len(blocks)
    scales = np.empty((count, 16), np.uint8)
    _nibbles(blocks[:, 96:104], scales)
    scales |= _two_bits(blocks[:, 104:108]).reshape(count, 16) << 4
    multipliers = _half(blocks, 108, 110) * (scales.view(np.int8) - np.int8(32))
    high = (blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)
    q = _two_bits(blocks[:, 32:96].reshape(count, 2, 32)).reshape(count, 8, 32)
    q |= high << 2
    signed = q.view(np.int8)
    signed -= 4
    np.multiply(signed.reshape(count, 16, 16), multipliers[..., None], out=out.reshape(count, 16, 16))


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """d * s and dmin * m of each 32 weights, from d, dmin f16 and 12 bytes of six-bit s and m: bytes 0-3 hold s 0-3,
    4-7 hold m 0-3, 8-11 the low nibbles of s and m 4-7, whose top pairs sit on top of bytes 0-7."""
    d, packed = _half(blocks, 0, 4), blocks[:, 4:16]
    scales, minima = np.empty((len(blocks), 8), np.uint8), np.empty((len(blocks), 8), np.uint8)
    scales[:, :4] = packed[:, 0:4] & 63
    minima[:, :4] = packed[:, 4:8] & 63
    scales[:, 4:] = (packed[:, 8:12] & 15) | ((packed[:, 0:4] >> 2) & 48)
    minima[:, 4:] = (packed[:, 8:12] >> 4) | ((packed[:, 4:8] >> 2) & 48)
    return d[:, :1] * scales, d[:, 1:] * minima


def _q4_k(blocks: Bytes, out: Floats) -> None:
    """(d * s) * q - (dmin * m): scales as above, 128 bytes of nibbles, 32 weights low then 32 high of each 32 bytes."""
    count = len(blocks)
    multipliers, minima = _scales_and_minima(blocks)
    _nibbles(blocks[:, 16:].reshape(count, 4, 32), out.reshape(count, 4, 64))
    weights = out.reshape(count, 8, 32)
    weights *= multipliers[..., None]
    weights -= minima[..., None]


def _q5_k(blocks: Bytes, out: Floats) -> None:
    """As Q4_K, with 32 bytes before the nibbles: bit i of byte j is the fifth bit of weight j of group i."""
    count = len(blocks)
    multipliers, minima = _scales_and_minima(blocks)
    q = np.empty((count, 8, 32), np.uint8)
    _nibbles(blocks[:, 48:].reshape(count, 4, 32), q.reshape(count, 4, 64))
    q |= ((blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)) << 4
    weights = out.reshape(count, 8, 32)
    np.multiply(q, multipliers[..., None], out=weights)
    weights -= minima[..., None]


def _q6_k(blocks: Bytes, out: Floats) -> None:
    """(d * s) * (q - 32), s a signed byte for each 16 weights: 128 bytes of nibbles, 64 of high pairs, 16 s, d f16."""
    count = len(blocks)
    multipliers = _half(blocks, 208, 210) * blocks[:, 192:208].view(np.int8)
    q = np.empty((count, 2, 128), np.uint8)
    _nibbles(blocks[:, :128].reshape(count, 2, 64), q)
    q |= _two_bits(blocks[:, 128:192].reshape(count, 2, 32)).reshape(count, 2, 128) << 4
    signed = q.view(np.int8)
    signed -= 32
    np.multiply(signed.reshape(count, 16, 16), multipliers[..., None], out=out.reshape(count, 16, 16))


# the sixteen unevenly spaced values of the IQ4 types
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def _iq4_nl(blocks: Bytes, out: Floats) -> None:
    """d * value[q]: d f16, 16 bytes of nibbles."""
    q = np.empty(out.shape, np.uint8)
    _nibbles(blocks[:, 2:], q)
    np.take(IQ4_VALUES, q, out=out, mode="clip")
    out *= _half(blocks, 0, 2)


def _iq4_xs(blocks: Bytes, out: Floats) -> None:
    """(d * (s - 32)) * value[q], s six bits for each 32 weights: d f16, 2 bytes of high pairs, 4 of low nibbles,
    128 bytes of nibbles, 16 weights low then 16 high of each 16 bytes."""
    count = len(blocks)
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)
    low = (blocks[:, 4:8, None] >> np.array([0, 4], np.uint8)).reshape(count, 8) & 15
    scales = (low | ((high & 3) << 4).astype(np.uint8)).view(np.int8) - np.int8(32)
    q = np.empty((count, 8, 32), np.uint8)
    _nibbles(blocks[:, 8:].reshape(count, 8, 16), q)
    weights = out.reshape(count, 8, 32)
    np.take(IQ4_VALUES, q, out=weights, mode="clip")
    weights *= (_half(blocks, 0, 2) * scales)[..., None]


# Block types of ggml.h that files hold, with their codes; plain elements are in `gguf.ELEMENTS`.
BLOCKS: dict[str, Block] = {
    "Q4_0": Block(2, 32, 18, _q4_0),
    "Q4_1": Block(3, 32, 20, _q4_1),
    "Q5_0": Block(6, 32, 22, _q5_0),
    "Q5_1": Block(7, 32, 24, _q5_1),
    "Q8_0": Block(8, 32, 34, _q8_0),
    "Q2_K": Block(10, 256, 84, _q2_k),
    "Q3_K": Block(11, 256, 110, _q3_k),
    "Q4_K": Block(12, 256, 144, _q4_k),
    "Q5_K": Block(13, 256, 176, _q5_k),
    "Q6_K": Block(14, 256, 210, _q6_k),
    "IQ2_XXS": Block(16, 256, 66),
    "IQ2_XS": Block(17, 256, 74),
    "IQ3_XXS": Block(18, 256, 98),
    "IQ1_S": Block(19, 256, 50),
    "IQ4_NL": Block(20, 32, 18, _iq4_nl),
    "IQ3_S": Block(21, 256, 110),
    "IQ2_S": Block(22, 256, 82),
    "IQ4_XS": Block(23, 256, 136, _iq4_xs),
    "IQ1_M": Block(29, 256, 56),
    "TQ1_0": Block(34, 256, 54),
    "TQ2_0": Block(35, 256, 66),
    "MXFP4": Block(39, 32, 17),
    "NVFP4": Block(40, 64, 36),
    "Q1_0": Block(41, 128, 18),
}

# Types whose values can be had.
DECODED: tuple[str, ...] = tuple(name for name, block in BLOCKS.items() if block.decode is not None)
