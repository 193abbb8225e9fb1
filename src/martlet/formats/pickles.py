"""Weights out of `torch.save` files, without torch and without running anything: the zip layout and the older one.

Zip layout (torch 1.6 on): NAME/data.pkl, and NAME/data/KEY for each storage, none compressed. Older layout: pickles of
a magic number, a version, facts about the machine, the object and the storage keys; then each storage after its length.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import PickleError
from martlet.formats.pickle_machine import PickleMachine, Symbol, brief
from martlet.formats.tensors import (
    ELEMENT_BITS,
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    OpenFile,
    TensorInfo,
    TensorSource,
    is_too_large,
    num_elements,
    open_mapped,
)

if TYPE_CHECKING:
    import zipfile

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
}  # fmt: skip
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip


class _Storage:
    """Bytes that tensors share. Where they `begin` in the file comes later than the tensors in the older layout."""

    __slots__ = ("begin", "dtype", "num_bytes")

    def __init__(self, dtype: str, num_bytes: int, begin: int = 0) -> None:
        self.dtype, self.num_bytes, self.begin = dtype, num_bytes, begin


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A tensor: a strided view of a storage; `offset` and `strides` in elements, checked to lie inside."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        return not num_elements(self.shape) or self.strides == _contiguous(self.shape, self.strides)

    def of(self, held: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Its bytes out of its storage's."""
        size = ELEMENT_BITS[self.dtype] // 8
        begin = self.offset * size
        if self.is_contiguous:
            return held[begin : begin + num_elements(self.shape) * size]
        elements = np.lib.stride_tricks.as_strided(
            held[begin:], (*self.shape, size), (*(stride * size for stride in self.strides), 1), writeable=False
        )
        return np.ascontiguousarray(elements).reshape(-1)


class TorchPickleFile(TensorSource):
    """The state dict in a `torch.save` file (`pytorch_model.bin`, `.pt`, `.pth`): a flat dict of names to tensors.

    Names may share memory, as tied weights do; `raw` of each is a view where the tensor is contiguous and a copy
    where it is not. Entries that are plain numbers or text are in `metadata`. PickleError for anything that is more
    than weights (nothing is ever imported or called), for views that leave their storage, for big-endian and damage.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.paths = (Path(path),)
        data, file = open_mapped(path, PickleError)
        self._data: NDArray[np.uint8] | None = data
        self._file: OpenFile | None = file
        subject = str(path)
        if data[:4].tobytes() == b"PK\x03\x04":
            value = _read_zip(subject, data)
        else:
            value = _read_legacy(subject, data)
        self._views, self.metadata = _state_dict(subject, value)
        self._infos = {name: _info(name, view) for name, view in self._views.items()}

    def names(self) -> tuple[str, ...]:
        return tuple(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def info(self, name: str) -> TensorInfo:
        return self._infos[name]

    def raw(self, name: str) -> NDArray[np.uint8]:
        view, file, data = self._opened(name)
        begin, end = view.storage.begin, view.storage.begin + view.storage.num_bytes
        file.check_holds(end, f"{file.path}, tensor {name!r}")
        return view.of(data[begin:end])

    def place(self, name: str) -> tuple[OpenFile, int] | None:
        view, file, _ = self._opened(name)
        return (file, view.storage.begin + view.offset * ELEMENT_BITS[view.dtype] // 8) if view.is_contiguous else None

    def read(self, name: str, begin: int, out: NDArray[np.uint8]) -> None:
        view, file, _ = self._opened(name)
        if view.is_contiguous:
            return super().read(name, begin, out)
        held = np.empty(view.storage.num_bytes, np.uint8)
        file.read(view.storage.begin, held, f"{file.path}, tensor {name!r}")
        out[:] = view.of(held)[begin : begin + out.size]

    def _opened(self, name: str) -> tuple[_View, OpenFile, NDArray[np.uint8]]:
        if self._file is None or self._data is None:
            raise PickleError(str(self.paths[0]), "has been closed")
        return self._views[name], self._file, self._data

    def close(self) -> None:
        self._data = self._file = None


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """C order's strides for `shape`; an axis of one element may have any."""
    result, step = [], 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        result.append(stride if size == 1 else step)
        step *= size
    return tuple(reversed(result))


def _info(name: str, view: _View) -> TensorInfo:
    return TensorInfo(name, view.dtype, view.shape, num_elements(view.shape) * ELEMENT_BITS[view.dtype] // 8)


def _state_dict(subject: str, value: Any) -> tuple[dict[str, _View], dict[str, Any]]:
    remedy = "Save the state dict alone: torch.save(model.state_dict(), path)."
    if not isinstance(value, dict):
        kind = "a single tensor" if isinstance(value, _View) else f"a {type(value).__name__}"
        raise PickleError(subject, "must hold a dict of names to tensors", found=kind, remedy=remedy)
    views: dict[str, _View] = {}
    metadata: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, _View) and isinstance(name, str):
            views[name] = item
        elif isinstance(item, str | int | float | bool | None) and isinstance(name, str):
            metadata[name] = item
        else:
            kind = "a tensor" if isinstance(item, _View) else f"a {type(item).__name__}"
            raise PickleError(
                subject, "must hold a flat dict of names to tensors", found=f"{kind} under {name!r}", remedy=remedy
            )
    return views, metadata


def _symbols(subject: str) -> dict[str, Symbol]:
    """All that a pickle of weights may name. Each `build` makes a plain value."""

    def tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any, dtype: str | None = None) -> _View:
        return _view(subject, storage, dtype, offset, shape, strides)

    def tensor_v3(
        storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
    ) -> _View:
        word = _DTYPES.get(dtype.name.removeprefix("torch.")) if isinstance(dtype, Symbol) else None
        if word is None:
            raise PickleError(subject, "a tensor needs a type", found=brief(dtype))
        return tensor(storage, offset, shape, strides, dtype=word)

    def parameter(data: Any, *_: Any) -> _View:
        if not isinstance(data, _View):
            raise PickleError(subject, "a parameter must hold a tensor", found=type(data).__name__)
        return data

    def ordered(pairs: Any = (), /) -> dict[Any, Any]:
        if pairs:
            raise PickleError(subject, "an OrderedDict must start empty", found=type(pairs).__name__)
        return {}

    def size(values: Any = (), /) -> tuple[Any, ...]:
        if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
            raise PickleError(subject, f"a size must be at most {MAX_DIMENSIONS} numbers", found=brief(values))
        return tuple(values)

    found = {
        "collections OrderedDict": Symbol("OrderedDict", ordered),
        "torch Size": Symbol("torch.Size", size),
        "torch._utils _rebuild_tensor": Symbol("_rebuild_tensor", tensor),
        "torch._utils _rebuild_tensor_v2": Symbol("_rebuild_tensor_v2", tensor),
        "torch._utils _rebuild_tensor_v3": Symbol("_rebuild_tensor_v3", tensor_v3),
        "torch._utils _rebuild_parameter": Symbol("_rebuild_parameter", parameter),
        "torch._utils _rebuild_parameter_with_state": Symbol("_rebuild_parameter_with_state", parameter),
        "torch.storage UntypedStorage": Symbol("UntypedStorage"),
    }
    for name in _STORAGES:
        found[f"torch {name}"] = Symbol(name)
    for name in _DTYPES:
        found[f"torch {name}"] = Symbol(f"torch.{name}")
    return found


def _are_sizes(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _view(subject: str, storage: Any, dtype: str | None, offset: Any, shape: Any, strides: Any) -> _View:
    if not isinstance(storage, _Storage):
        raise PickleError(subject, "a tensor needs a storage", found=type(storage).__name__)
    if not (_are_sizes(shape) and _are_sizes(strides) and _are_sizes([offset]) and len(shape) == len(strides)):
        raise PickleError(subject, "a tensor needs an offset, sizes and strides", found=brief((offset, shape, strides)))
    if is_too_large(tuple(shape)):
        raise PickleError(subject, f"a tensor may have at most {MAX_ELEMENTS} elements", found=f"shape {list(shape)}")
    if len(shape) > MAX_DIMENSIONS:
        raise PickleError(subject, f"a tensor may have at most {MAX_DIMENSIONS} axes", found=len(shape))
    dtype = dtype or storage.dtype
    item = ELEMENT_BITS[dtype] // 8
    count, held = num_elements(tuple(shape)), storage.num_bytes // item
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count and (last >= held or count > held):
        raise PickleError(
            subject, f"a tensor of shape {list(shape)}, strides {list(strides)} at {offset} must lie in its storage",
            found=f"a storage of {held} elements",
        )  # fmt: skip
    if not count:
        offset, strides = 0, (0,) * len(shape)
    strides = [0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True)]
    return _View(storage, dtype, offset, tuple(shape), tuple(strides))


def _storage_id(subject: str, found: Any, extra: int) -> tuple[str, str, int]:
    """(key, dtype, number of bytes) of ('storage', type, key, device, number of elements[, view])."""
    fits = (
        isinstance(found, tuple) and len(found) == 5 + extra and found[0] == "storage" and isinstance(found[1], Symbol)
    )
    if not fits or not isinstance(found[2], str) or not _are_sizes([found[4]]):
        raise PickleError(subject, "a persistent id must name a storage", found=brief(found))
    dtype = "U8" if found[1].name == "UntypedStorage" else _STORAGES.get(found[1].name)
    if dtype is None:
        raise PickleError(subject, "a persistent id must name a storage", found=repr(found[1]))
    return found[2], dtype, found[4] * (ELEMENT_BITS[dtype] // 8)


def _read_zip(subject: str, data: NDArray[np.uint8]) -> Any:
    entries = _entries(subject, data)
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickleError(subject, "a torch archive must hold one data.pkl", found=f"{len(pickles)}")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in entries or any(name.startswith(f"{prefix}code/") for name in entries):
        raise PickleError(
            subject, "holds a TorchScript program, and no code of it was run", remedy="Save the state dict."
        )
    order = f"{prefix}byteorder"
    if order in entries and (said := data[_stored(subject, data, entries[order])].tobytes()) != b"little":
        raise PickleError(subject, "must be little-endian", found=repr(said[:20]))
    storages: dict[str, _Storage] = {}

    def load(found: Any) -> _Storage:
        key, dtype, size = _storage_id(subject, found, 0)
        if key not in storages:
            name = f"{prefix}data/{key}"
            if name not in entries:
                raise PickleError(subject, f"the archive must hold {name}", remedy="Is the file damaged?")
            held = _stored(subject, data, entries[name])
            if held.stop - held.start < size:
                raise PickleError(subject, f"storage {key} needs {size} bytes", found=held.stop - held.start)
            storages[key] = _Storage(dtype, size, held.start)
        if (storages[key].dtype, storages[key].num_bytes) != (dtype, size):
            raise PickleError(subject, f"storage {key} must have one type and size", found=f"{dtype}, {size} bytes")
        return storages[key]

    content = data[_stored(subject, data, entries[pickles[0]])]
    return PickleMachine(content.data, 0, subject, _symbols(subject), load).run()


def _entries(subject: str, data: NDArray[np.uint8]) -> Mapping[str, zipfile.ZipInfo]:
    import zipfile  # with its compressors it costs more to import than all of this room

    try:
        with zipfile.ZipFile(_MappedBytes(data)) as archive:
            infos = archive.infolist()
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        OverflowError,
        EOFError,
        struct.error,
        OSError,
    ) as problem:
        raise PickleError(
            subject, "must be a whole zip archive", found=str(problem), remedy="Is it truncated?"
        ) from problem
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.filename in entries:
            raise PickleError(subject, "an archive entry may appear only once", found=repr(info.filename)[:200])
        entries[info.filename] = info
    return entries


class _MappedBytes(io.RawIOBase):
    """A memory map as the file that `zipfile` wants, without reading it whole."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data, self._position = data, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self._position, self._data.size)[whence]
        if position < 0:
            raise ValueError(f"a negative position {position}")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        end = self._data.size if size is None or size < 0 else self._position + size
        result = self._data[self._position : end].tobytes()
        self._position += len(result)
        return result


def _stored(subject: str, data: NDArray[np.uint8], entry: zipfile.ZipInfo) -> slice:
    """Where an uncompressed entry's bytes lie. Compressed ones are refused: torch writes none, bombs are."""
    place = f"{subject}, {entry.filename[:200]}"
    if entry.compress_type != 0 or entry.file_size != entry.compress_size or entry.flag_bits & 1:
        raise PickleError(place, "must be stored as it is", found="a compressed or encrypted entry")
    header = data[entry.header_offset : entry.header_offset + 30].tobytes() if entry.header_offset >= 0 else b""
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise PickleError(place, "must have a header in the archive", found="none", remedy="Is the file damaged?")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    begin = entry.header_offset + 30 + name_length + extra_length
    if begin + entry.file_size > data.size:
        raise PickleError(place, f"needs {entry.file_size} bytes at {begin}", found=f"a file of {data.size}")
    return slice(begin, begin + entry.file_size)


def _read_legacy(subject: str, data: NDArray[np.uint8]) -> Any:
    """The layout before torch 1.6: five pickles, then the storages."""
    if data[:1].tobytes() != b"\x80":
        raise PickleError(subject, "must be a torch.save file", found=repr(data[:8].tobytes()))
    storages: dict[str, _Storage] = {}

    def load(found: Any) -> _Storage:
        key, dtype, size = _storage_id(subject, found, 1)
        if found[5] is not None:
            raise PickleError(
                subject, "views of storages are not read", remedy="Save it again with torch 1.6 or later."
            )
        storage = storages.setdefault(key, _Storage(dtype, size))
        if (storage.dtype, storage.num_bytes) != (dtype, size):
            raise PickleError(subject, f"storage {key} must have one type and size", found=f"{dtype}, {size} bytes")
        return storage

    position, symbols = 0, _symbols(subject)

    def next_pickle() -> Any:
        nonlocal position
        machine = PickleMachine(data.data, position, subject, symbols, load)
        value = machine.run()
        position = machine.position
        return value

    if next_pickle() != LEGACY_MAGIC:
        raise PickleError(
            subject, "must be a torch.save file of weights", found="another pickle", remedy="No code of it was run."
        )
    if (version := next_pickle()) != LEGACY_VERSION:
        raise PickleError(subject, f"the layout's version must be {LEGACY_VERSION}", found=brief(version))
    facts = next_pickle()
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise PickleError(subject, "must be little-endian")
    value, keys = next_pickle(), next_pickle()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != storages.keys():
        raise PickleError(subject, "must list the storages of its tensors", found=brief(keys))
    for key in keys:
        storage = storages[key]
        size = ELEMENT_BITS[storage.dtype] // 8
        held = int.from_bytes(data[position : position + 8].tobytes(), "little")
        begin = position + 8
        if held * size != storage.num_bytes or begin + storage.num_bytes > data.size:
            raise PickleError(
                subject, f"storage {key} needs {storage.num_bytes} bytes at {begin}",
                found=f"a file of {data.size}, and a length of {held} elements", remedy="Is the file truncated?",
            )  # fmt: skip
        storage.begin = begin
        position = begin + storage.num_bytes
    return value
