"""Tensors as files hold them: names, types, shapes and raw bytes; and their values as float32. Knows no file layout."""

from __future__ import annotations

import math
import mmap
import os
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError, FormatError
from martlet.formats import gguf_blocks
from martlet.formats.files import reason

MAX_DIMENSIONS = 32  # numpy 1.x has no more
MAX_ELEMENTS = 2**58  # their bytes in any type are a signed 64-bit number

# Bits of one element, by the safetensors word for its type.
ELEMENT_BITS: dict[str, int] = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

_NUMPY: dict[str, str] = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip

# (exponent bits, mantissa bits, bias, kind); the OCP 8-bit formats and the "finite, no negative zero" ones of AMD
_FLOAT8: dict[str, tuple[int, int, int, str]] = {
    "F8_E5M2": (5, 2, 15, "ieee"),
    "F8_E4M3": (4, 3, 7, "fn"),
    "F8_E5M2FNUZ": (5, 2, 16, "fnuz"),
    "F8_E4M3FNUZ": (4, 3, 8, "fnuz"),
}


# A tensor to be saved: its type, shape and bytes (anything with the buffer protocol), or a call that gives the bytes,
# so that a big model is written with one tensor in memory at a time.
Data: TypeAlias = bytes | bytearray | memoryview | NDArray[Any]
Stored: TypeAlias = tuple[str, tuple[int, ...], Data | Callable[[], Data]]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor. `dtype` is the safetensors word or the GGUF block type, `shape` row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


class TensorSource(ABC):
    """Named tensors of one file, or of several files read as one. Opening reads headers only.

    `metadata` holds what the file says about itself: the safetensors `__metadata__`, or the GGUF key-values.
    Arrays handed out stay valid after `close()`, for as long as they are referenced.
    """

    metadata: Mapping[str, Any]
    paths: tuple[Path, ...]

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Every tensor's name, in the order of the file."""

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """Type, shape and size of one tensor; reads no data. KeyError if there is no such tensor."""

    @abstractmethod
    def raw(self, name: str) -> NDArray[np.uint8]:
        """One tensor's bytes, little-endian and in C order: 1-D uint8, a view of a private copy-on-write memory map.

        Writing to it changes neither the file nor what other processes see. FormatError where the file has become
        shorter since it was opened; looking at the view of a file that becomes so later ends the process.
        """

    def place(self, name: str) -> tuple[OpenFile, int] | None:
        """The file that holds one tensor's bytes and where they begin; None where they are not a file's own."""
        return None

    def read(self, name: str, begin: int, out: NDArray[np.uint8]) -> None:
        """Copies one tensor's bytes from `begin` on into `out`; from the file where there is one, not from its map.

        FormatError where the file has become shorter since it was opened: looking at its map would end the process.
        """
        if (place := self.place(name)) is None:
            out[:] = self.raw(name)[begin : begin + out.size]
        else:
            file, offset = place
            file.read(offset + begin, out, f"{file.path}, tensor {name!r}")

    @abstractmethod
    def close(self) -> None:
        """Let go of the file. Idempotent."""

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __len__(self) -> int:
        return len(self.names())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenFile:
    """A file that stays open for as long as this is referenced, for reading at any place of it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        with open(path, "rb") as file:
            self.descriptor = os.dup(file.fileno())
        self._close = weakref.finalize(self, os.close, self.descriptor)

    def read(self, begin: int, out: NDArray[np.uint8], subject: str) -> None:
        """Fills `out` with the bytes from `begin` on; FormatError where the file ends before."""
        view, done = out.data, 0
        while done < len(view):
            try:
                got = os.preadv(self.descriptor, [view[done:]], begin + done)
            except OSError as problem:
                raise FormatError(subject, "cannot be read", found=reason(problem)) from problem
            if not got:
                raise became_shorter(subject)
            done += got

    def check_holds(self, end: int, subject: str) -> None:
        """FormatError where the file has fewer than `end` bytes by now."""
        if os.fstat(self.descriptor).st_size < end:
            raise became_shorter(subject)


def became_shorter(subject: str) -> FormatError:
    return FormatError(
        subject,
        "its bytes must all be there",
        found="a file that has become shorter since it was opened",
        remedy="Is it being written again?",
    )


def open_mapped(path: str | os.PathLike[str], error: type[FormatError]) -> tuple[NDArray[np.uint8], OpenFile]:
    """A whole file as a writable, private, copy-on-write uint8 array, empty for an empty file; and the file itself."""
    try:
        file = OpenFile(path)
        size = os.fstat(file.descriptor).st_size
        if size == 0:
            return np.empty(0, np.uint8), file
        if sys.platform == "linux":
            # without NORESERVE the kernel refuses a writable private map of a file larger than memory
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)
            mapped = mmap.mmap(file.descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        else:
            mapped = mmap.mmap(file.descriptor, size, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as problem:
        raise error(str(path), "cannot be opened", found=reason(problem)) from problem
    return np.frombuffer(mapped, np.uint8), file


def num_elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def is_too_large(shape: tuple[int, ...]) -> bool:
    """More than numpy and torch can index. They multiply the other axes even where one is empty."""
    return math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; ArgumentError for an unknown type or a shape that does not fill whole blocks."""
    count = num_elements(shape)
    if (bits := ELEMENT_BITS.get(dtype)) is not None:
        if count * bits % 8:
            raise ArgumentError(f"{dtype} tensor", "must fill whole bytes", found=f"shape {list(shape)}")
        return count * bits // 8
    if (block := gguf_blocks.BLOCKS.get(dtype)) is not None:
        if (shape[-1] if shape else 1) % block.size:
            raise ArgumentError(
                f"{dtype} tensor", f"the last axis must be a multiple of {block.size}", found=f"shape {list(shape)}"
            )
        return count // block.size * block.num_bytes
    known = ", ".join([*ELEMENT_BITS, *gguf_blocks.BLOCKS])
    raise ArgumentError(f"tensor type {dtype!r}", "is not known", remedy=f"Known are {known}.")


def data_bytes(name: str, stored: Stored) -> memoryview:
    """The bytes of a tensor to be saved, checked against its type and shape; calls its data if that is a function."""
    dtype, shape, data = stored
    view = memoryview(data() if callable(data) else data)  # type: ignore[arg-type]  # Buffer is new in 3.12
    if not view.c_contiguous or view.format.startswith((">", "!")):
        raise ArgumentError(f"tensor {name!r}", "needs little-endian bytes in C order")
    if view.nbytes != (expected := num_bytes(dtype, shape)):
        raise ArgumentError(
            f"tensor {name!r}", f"{dtype} of shape {list(shape)} needs {expected} bytes", found=f"{view.nbytes}"
        )
    return view.cast("B") if view.nbytes else memoryview(b"")


def to_float32(
    raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...], *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The values of `raw` bytes as float32 of `shape`: exact for every type of 24 significant bits or fewer.

    F64, I32 and I64 round to nearest. Without `out`, F32 comes back as a view of `raw`; everything else is new.
    `out` is a C-contiguous float32 array of `shape`, which is filled and returned.
    FormatError for a type that has no values here, ArgumentError for sizes that do not agree.
    """
    shape = tuple(shape)
    expected = num_bytes(dtype, shape)
    if raw.dtype != np.uint8 or raw.ndim != 1 or raw.size != expected:
        raise ArgumentError(
            f"{dtype} tensor of shape {list(shape)}", f"needs {expected} bytes", found=f"{raw.size} of {raw.dtype}"
        )
    if out is None:
        if dtype == "F32":
            return raw.view("<f4").reshape(shape)
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ArgumentError(
            "out", f"must be C-contiguous float32 of shape {list(shape)}", found=f"{out.dtype} {list(out.shape)}"
        )
    flat = out.reshape(-1)
    if dtype in _NUMPY:
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(flat, raw.view(_NUMPY[dtype]), casting="unsafe")
    elif dtype == "BF16":
        np.left_shift(raw.view("<u2"), 16, out=flat.view(np.uint32), dtype=np.uint32)
    elif dtype in _FLOAT8 or dtype == "F8_E8M0":
        np.take(float8_table(dtype), raw, out=flat)
    elif dtype in ELEMENT_BITS:
        known = ", ".join([*_NUMPY, "BF16", *_FLOAT8, "F8_E8M0", *gguf_blocks.DECODED])
        raise FormatError(f"tensor type {dtype}", f"has no values here; supported are {known}")
    else:
        gguf_blocks.decode(raw, dtype, flat)
    return out


def float8_table(dtype: str) -> NDArray[np.float32]:
    """The 256 values of an 8-bit float type. OCP 8-bit floating point and microscaling (MX) specifications."""
    codes = np.arange(256)
    if dtype == "F8_E8M0":
        values = np.exp2(codes.astype(np.float64) - 127)
        values[255] = np.nan
        return values.astype(np.float32)
    exponent_bits, mantissa_bits, bias, kind = _FLOAT8[dtype]
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = np.where(
        exponent == 0, np.exp2(1.0 - bias) * mantissa, np.exp2(exponent.astype(np.float64) - bias) * (1 + mantissa)
    )
    values = np.where(codes >= 128, -values, values)
    if kind == "ieee":
        top = exponent == (1 << exponent_bits) - 1
        values = np.where(top, np.where(mantissa == 0, np.copysign(np.inf, values), np.nan), values)
    elif kind == "fn":
        values[[127, 255]] = np.nan
    else:
        values[128] = np.nan
    return values.astype(np.float32)
