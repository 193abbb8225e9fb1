"""Writing GGUF version 3 files: metadata, and tensors whose bytes are given. Reading is in `gguf`."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from martlet.errors import ArgumentError
from martlet.formats.files import write_aside
from martlet.formats.gguf import ARRAY, BOOL, DEFAULT_ALIGNMENT, ELEMENTS, MAGIC, MAX_AXES, SCALARS, STRING
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.tensors import Stored, data_bytes, num_bytes

_CODE_OF_NUMPY = {np.dtype(kind): code for code, kind in SCALARS.items()}


def save_gguf(path: str | os.PathLike[str], metadata: Mapping[str, Any], tensors: Mapping[str, Stored]) -> None:
    """Write a GGUF file, aside and one tensor at a time. Shapes are row-major; block types are given as their bytes.

    Metadata takes str, bool, int (the smallest of u32, i32, u64, i64 that holds it), float (f32), numpy scalars (their
    own type), and lists or arrays of one of these (ints as i32 where they fit). ArgumentError for anything else.
    """
    alignment = int(metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    if alignment < 1 or alignment & (alignment - 1):
        raise ArgumentError("general.alignment", "must be a power of two", found=alignment)
    header = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        header += [_text(key), _value(key, value)]
    offset = 0
    for name, (dtype, shape, _) in tensors.items():
        header.append(_tensor(name, dtype, tuple(shape), offset))
        offset += _padded(num_bytes(dtype, tuple(shape)), alignment)
    start = b"".join(header)
    with write_aside(path) as file:
        file.write(start.ljust(_padded(len(start), alignment), b"\0"))
        for name, stored in tensors.items():
            data = data_bytes(name, stored)
            file.write(data)
            file.write(bytes(_padded(data.nbytes, alignment) - data.nbytes))


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _tensor(name: str, dtype: str, shape: tuple[int, ...], offset: int) -> bytes:
    code = BLOCKS[dtype].code if dtype in BLOCKS else ELEMENTS.get(dtype)
    if code is None:
        raise ArgumentError(f"tensor {name!r}", "GGUF cannot hold its type", found=dtype)
    if len(shape) > MAX_AXES:
        raise ArgumentError(f"tensor {name!r}", f"may have at most {MAX_AXES} axes", found=len(shape))
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return _text(name) + axes + struct.pack("<IQ", code, offset)


def _value(key: str, value: Any) -> bytes:
    """The type code and the bytes of a metadata value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, np.ndarray | Sequence):
        return struct.pack("<I", ARRAY) + _array(key, value)
    code, data = _scalar(key, value)
    return struct.pack("<I", code) + data


def _scalar(key: str, value: Any) -> tuple[int, bytes]:
    if isinstance(value, np.generic):
        if (code := _CODE_OF_NUMPY.get(value.dtype)) is not None:
            return code, value.tobytes()
    elif isinstance(value, bool):
        return BOOL, bytes([value])
    elif isinstance(value, int):
        for code in (4, 5, 10, 11):
            limits = np.iinfo(SCALARS[code])
            if limits.min <= value <= limits.max:
                return code, np.array(value, SCALARS[code]).tobytes()
    elif isinstance(value, float):
        return 6, struct.pack("<f", value)
    raise ArgumentError(
        f"GGUF key {key!r}", "needs text, a number, a truth value or a list of one of these", found=repr(value)[:80]
    )


def _array(key: str, value: Any) -> bytes:
    """The item type's code, the length and the items."""
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or value.dtype not in _CODE_OF_NUMPY:
            raise ArgumentError(
                f"GGUF key {key!r}", "needs a 1-D array of numbers", found=f"{value.dtype} {value.shape}"
            )
        return struct.pack("<IQ", _CODE_OF_NUMPY[value.dtype], len(value)) + value.tobytes()
    if all(isinstance(item, str) for item in value):
        return struct.pack("<IQ", STRING, len(value)) + b"".join(map(_text, value))
    if all(isinstance(item, list | tuple | np.ndarray) for item in value):
        return struct.pack("<IQ", ARRAY, len(value)) + b"".join(_array(key, item) for item in value)
    if all(isinstance(item, bool) for item in value):
        return _array(key, np.array(value, np.bool_))
    if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
        for kind in ("<i4", "<i8", "<u8"):
            limits = np.iinfo(kind)
            if limits.min <= min(value) and max(value) <= limits.max:
                return _array(key, np.array(value, kind))
    elif all(isinstance(item, float) for item in value):
        return _array(key, np.array(value, "<f4"))
    raise ArgumentError(f"GGUF key {key!r}", "needs a list of one kind of item", found=repr(value)[:80])
