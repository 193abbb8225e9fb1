"""The GGUF format, versions 2 and 3: a lazy reader over a memory map. `gguf_writer` writes, `gguf_blocks` has values.

Layout, all little-endian: "GGUF", u32 version, u64 tensor count, u64 key count; the keys (string, u32 type, value); the
tensors (string, u32 number of axes, u64 each axis with the fastest first, u32 type, u64 offset); padding; the data.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import GgufError
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.tensors import (
    MAX_ELEMENTS,
    OpenFile,
    TensorInfo,
    TensorSource,
    is_too_large,
    num_bytes,
    open_mapped,
)

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_AXES = 4  # GGML_MAX_DIMS
MAX_NAME_BYTES = 65535
MAX_ARRAY_DEPTH = 8

# Types of plain elements: ggml's code by our word.
ELEMENTS = {"F32": 0, "F16": 1, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28, "BF16": 30}
TYPE_OF_CODE = {code: name for name, code in ELEMENTS.items()} | {block.code: name for name, block in BLOCKS.items()}

# Metadata value types: code -> numpy type. 8 is a string, 9 an array.
SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"
}  # fmt: skip
BOOL, STRING, ARRAY = 7, 8, 9
_STRUCTS = {code: struct.Struct("<" + letter) for code, letter in zip(SCALARS, "BbHhIif?Qqd", strict=True)}
_U8, _U32, _U64 = struct.Struct("<B"), struct.Struct("<I"), struct.Struct("<Q")


class GgufFile(TensorSource):
    """One GGUF file. Every count, length, type and offset is checked on opening; GgufError names the one that lies.

    `metadata` is read key by key when asked for: numbers as int, float and bool, strings as str, arrays of strings as
    lists, arrays of numbers as numpy arrays. Shapes are row-major: GGUF's axes reversed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.paths = (Path(path),)
        data, file = open_mapped(path, GgufError)
        self._file: OpenFile | None = file
        cursor = _Cursor(str(path), data)
        num_tensors = _read_preamble(cursor)
        self.metadata: Mapping[str, Any] = Metadata(cursor, cursor.count("key count", 13))
        alignment = _alignment(str(path), self.metadata)
        self._spans: dict[str, tuple[TensorInfo, int]] = {}
        if num_tensors * 24 > cursor.remaining:
            raise cursor.wrong("tensor count", f"{num_tensors} tensors do not fit", f"{cursor.remaining} bytes left")
        for _ in range(num_tensors):
            info, offset = _read_tensor(cursor, alignment)
            if info.name in self._spans:
                raise cursor.wrong(f"tensor {info.name!r}", "a name may appear only once", "it twice")
            self._spans[info.name] = info, offset
        begin = -(-cursor.position // alignment) * alignment
        _check_spans(str(path), self._spans, max(data.size - begin, 0))
        self._begin = begin
        self._data: NDArray[np.uint8] | None = data[begin:]
        self.version = cursor.version

    def names(self) -> tuple[str, ...]:
        return tuple(self._spans)

    def __contains__(self, name: object) -> bool:
        return name in self._spans

    def info(self, name: str) -> TensorInfo:
        return self._spans[name][0]

    def raw(self, name: str) -> NDArray[np.uint8]:
        info, begin = self._spans[name]
        if self._data is None or self._file is None:
            raise GgufError(str(self.paths[0]), "has been closed")
        self._file.check_holds(self._begin + begin + info.num_bytes, f"{self.paths[0]}, tensor {name!r}")
        return self._data[begin : begin + info.num_bytes]

    def place(self, name: str) -> tuple[OpenFile, int]:
        if self._file is None:
            raise GgufError(str(self.paths[0]), "has been closed")
        return self._file, self._begin + self._spans[name][1]

    def close(self) -> None:
        self._data = self._file = None


class Metadata(Mapping[str, Any]):
    """The key-values of a GGUF file, each decoded on first use and then kept."""

    def __init__(self, cursor: _Cursor, count: int) -> None:
        self._cursor = cursor
        self._places: dict[str, tuple[int, int]] = {}  # key -> type code, and where its value begins
        self._values: dict[str, Any] = {}
        for _ in range(count):
            key = cursor.string("a key", MAX_NAME_BYTES)
            if key in self._places:
                raise cursor.wrong(f"key {key!r}", "may appear only once", "it twice")
            code = cursor.number(_U32, f"key {key!r}")
            begin = cursor.position
            cursor.skip(key, code)
            self._places[key] = code, begin

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = self._cursor.value(key, *self._places[key])
        return self._values[key]

    def take(self, key: str) -> Any:
        """A value for who has it alone: a vocabulary's strings take ten times the file's bytes, and are not kept."""
        return self._values[key] if key in self._values else self._cursor.value(key, *self._places[key])

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def type_code(self, key: str) -> int:
        """GGUF's code for the type of a key's value."""
        return self._places[key][0]


class _Cursor:
    """A position in the header, and reads that cannot leave the file."""

    def __init__(self, path: str, data: NDArray[np.uint8]) -> None:
        self.path, self.array, self.bytes, self.position = path, data, data.data, 0
        self.size = data.size
        self.version = 0
        self._starts: dict[int, NDArray[np.int64]] = {}  # of an array's strings, from its first: where each length is

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def wrong(self, subject: str, rule: str, found: object = None, remedy: str = "") -> GgufError:
        return GgufError(f"{self.path}, {subject}", rule, found=found, remedy=remedy)

    def truncated(self, subject: str, needed: int) -> GgufError:
        return self.wrong(
            subject, f"needs {needed} bytes at {self.position}", f"{max(self.remaining, 0)} before the end of the file",
            "Is the file truncated?",
        )  # fmt: skip

    def number(self, kind: struct.Struct, subject: str) -> int:
        if self.remaining < kind.size:
            raise self.truncated(subject, kind.size)
        (value,) = kind.unpack_from(self.bytes, self.position)
        self.position += kind.size
        return int(value)

    def count(self, subject: str, smallest: int) -> int:
        """A u64 number of things of which the smallest takes `smallest` bytes."""
        count = self.number(_U64, subject)
        if count * smallest > self.remaining:
            raise self.wrong(
                subject, f"{count} of at least {smallest} bytes must fit in the file", f"{self.remaining} bytes left"
            )
        return count

    def string(self, subject: str, longest: int) -> str:
        length = self.number(_U64, subject)
        if length > longest:
            raise self.wrong(subject, f"may have at most {longest} bytes", length)
        if length > self.remaining:
            raise self.truncated(subject, length)
        self.position += length
        return self.text(subject, self.position - length, self.position)

    def text(self, subject: str, begin: int, end: int) -> str:
        try:
            return str(self.bytes[begin:end], "utf-8")
        except UnicodeDecodeError as problem:
            raise self.wrong(subject, "must be UTF-8", f"damage at byte {begin + problem.start}") from problem

    def skip(self, key: str, code: int, depth: int = 0) -> None:
        """Step over a value, checking its sizes but not decoding it."""
        subject = f"key {key!r}"
        if code in SCALARS:
            needed = np.dtype(SCALARS[code]).itemsize
        elif code == STRING:
            needed = self.number(_U64, subject)
        elif code == ARRAY:
            return self._skip_array(key, depth)
        else:
            raise self.wrong(subject, "its value type must be 0 to 12", code)
        if needed > self.remaining:
            raise self.truncated(subject, needed)
        self.position += needed

    def _skip_array(self, key: str, depth: int) -> None:
        subject = f"key {key!r}"
        if depth >= MAX_ARRAY_DEPTH:
            raise self.wrong(subject, f"arrays may nest {MAX_ARRAY_DEPTH} deep at most")
        code = self.number(_U32, f"{subject}, item type")
        if code in SCALARS:
            size = np.dtype(SCALARS[code]).itemsize
            count = self.count(f"{subject}, length", size)
            self.position += size * count
        elif code == STRING:
            self._skip_strings(subject, self.count(f"{subject}, length", 8))
        elif code == ARRAY:
            for _ in range(self.count(f"{subject}, length", 12)):
                self._skip_array(key, depth + 1)
        else:
            raise self.wrong(f"{subject}, item type", "must be 0 to 12", code)

    def _skip_strings(self, subject: str, count: int) -> None:
        """Notes where each begins. Lengths are looked at as one byte first: hardly a vocabulary has a longer token."""
        data, position = self.bytes, self.position
        starts: list[int] = []
        note = starts.append
        with contextlib.suppress(IndexError):
            for _ in range(count):
                note(position)
                position += 8 + data[position]
            if position <= self.size:
                found = np.array(starts, np.int64)
                if not any(self.array[found + byte].any() for byte in range(1, 8)):
                    self._starts[self.position] = found - self.position
                    self.position = position
                    return
        self._skip_long_strings(subject, count)

    def _skip_long_strings(self, subject: str, count: int) -> None:
        unpack, data, position = _U64.unpack_from, self.bytes, self.position
        starts: list[int] = []
        note = starts.append
        try:
            for _ in range(count):
                note(position)
                position += 8 + unpack(data, position)[0]
        except (struct.error, OverflowError) as problem:  # the read, or its position, is beyond the end
            raise self.truncated(subject, position - self.position + 8) from problem
        if position > self.size:
            raise self.truncated(subject, position - self.position)
        self._starts[self.position] = np.array(starts, np.int64) - self.position
        self.position = position

    def value(self, key: str, code: int, begin: int) -> Any:
        """Decode a value that `skip` has passed. The cursor stays where it is."""
        place, self.position = self.position, begin
        try:
            return self._decode(f"key {key!r}", code)
        finally:
            self.position = place

    def _decode(self, subject: str, code: int) -> Any:
        if code == BOOL:
            return self._truth(subject, self.number(_U8, subject))
        if code in _STRUCTS:
            kind = _STRUCTS[code]
            (value,) = kind.unpack_from(self.bytes, self.position)
            self.position += kind.size
            return value
        if code == STRING:
            return self.string(subject, self.size)
        item, count = self.number(_U32, subject), self.number(_U64, subject)
        if item == STRING:
            return self._decode_strings(subject, count)
        if item == ARRAY:
            return [self._decode(subject, ARRAY) for _ in range(count)]
        item_type = np.dtype(SCALARS[item])
        begin, self.position = self.position, self.position + count * item_type.itemsize
        if item == BOOL and count and self.array[begin : self.position].max() > 1:
            raise self.wrong(subject, "a truth value must be 0 or 1", int(self.array[begin : self.position].max()))
        return self.array[begin : self.position].view(item_type).copy()

    def _truth(self, subject: str, value: int) -> bool:
        if value > 1:
            raise self.wrong(subject, "a truth value must be 0 or 1", value)
        return bool(value)

    def _decode_strings(self, subject: str, count: int) -> list[str]:
        """All at once where no string has a zero byte: zeros in the lengths' places part them."""
        if not count:
            return []
        begin, starts = self.position, self._starts[self.position]
        last = begin + int(starts[-1])
        self.position = last + 8 + int(_U64.unpack_from(self.bytes, last)[0])
        data = self.array[begin : self.position]
        parted, kept = data.copy(), np.ones(data.size, np.bool_)
        parted[starts] = 0
        for byte in range(1, 8):
            kept[starts + byte] = False
        joined = parted[kept].tobytes()
        if joined.count(0) == count:
            try:
                return joined[1:].decode().split("\0")
            except UnicodeDecodeError:
                pass  # which of them it is, is said below
        return self._decode_each(subject, data.tobytes(), starts)

    def _decode_each(self, subject: str, data: bytes, starts: NDArray[np.int64]) -> list[str]:
        ends = [*starts[1:].tolist(), len(data)]
        result: list[str] = []
        try:
            for begin, end in zip(starts.tolist(), ends, strict=True):
                result.append(data[begin + 8 : end].decode())
        except UnicodeDecodeError as problem:
            raise self.wrong(f"{subject}, item {len(result)}", "must be UTF-8", problem.object[:40]) from problem
        return result


def _read_preamble(cursor: _Cursor) -> int:
    """Magic, version and the tensor count, which is returned."""
    if cursor.bytes[:4] != MAGIC:
        raise GgufError(cursor.path, "must begin with 'GGUF'", found=repr(bytes(cursor.bytes[:4])))
    cursor.position = 4
    version = cursor.number(_U32, "version")
    if version and version & 0xFFFF == 0:
        raise cursor.wrong(
            "version", "must be little-endian", "a big-endian file", "Convert it on the machine it was made for."
        )
    if version not in VERSIONS:
        raise cursor.wrong("version", "must be 2 or 3", version)
    cursor.version = version
    return cursor.number(_U64, "tensor count")


def _alignment(path: str, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise GgufError(f"{path}, general.alignment", "must be a power of two", found=repr(alignment)[:40])
    return alignment


def _read_tensor(cursor: _Cursor, alignment: int) -> tuple[TensorInfo, int]:
    name = cursor.string("a tensor's name", MAX_NAME_BYTES)
    subject = f"tensor {name!r}"
    num_axes = cursor.number(_U32, subject)
    if num_axes > MAX_AXES:
        raise cursor.wrong(subject, f"may have at most {MAX_AXES} axes", num_axes)
    shape = tuple(cursor.number(_U64, subject) for _ in range(num_axes))[::-1]
    code, offset = cursor.number(_U32, subject), cursor.number(_U64, subject)
    dtype = TYPE_OF_CODE.get(code)
    if dtype is None:
        raise cursor.wrong(subject, f"its type must be one of {', '.join(TYPE_OF_CODE.values())}", f"code {code}")
    if is_too_large(shape):
        raise cursor.wrong(subject, f"may have at most {MAX_ELEMENTS} elements", f"shape {list(shape)}")
    if dtype in BLOCKS and (shape[-1] if shape else 1) % BLOCKS[dtype].size:
        rule = f"rows of {dtype} must be a multiple of {BLOCKS[dtype].size} long"
        raise cursor.wrong(subject, rule, f"shape {list(shape)}")
    if offset % alignment:
        raise cursor.wrong(subject, f"its offset must be a multiple of {alignment}", offset)
    return TensorInfo(name, dtype, shape, num_bytes(dtype, shape)), offset


def _check_spans(path: str, spans: Mapping[str, tuple[TensorInfo, int]], available: int) -> None:
    reached, previous = 0, ""
    for info, begin in sorted(spans.values(), key=lambda span: (span[1], span[0].num_bytes)):
        subject = f"{path}, tensor {info.name!r}"
        if begin + info.num_bytes > available:
            raise GgufError(
                subject, f"its {info.num_bytes} bytes at {begin} must lie in the file",
                found=f"{available} bytes of data", remedy="Is the file truncated?",
            )  # fmt: skip
        if begin < reached:
            raise GgufError(subject, f"must not overlap {previous!r}")
        reached, previous = begin + info.num_bytes, info.name
