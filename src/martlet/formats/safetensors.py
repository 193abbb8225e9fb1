"""The safetensors format: a strict reader over a memory map, and a streaming writer. One file; `shards` reads many.

Layout: 8 bytes header length, little-endian; the header, a JSON object of name -> {dtype, shape, data_offsets}; the
data, every byte of which belongs to exactly one tensor. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError, SafetensorsError
from martlet.formats.files import parse_json, write_aside
from martlet.formats.tensors import (
    ELEMENT_BITS,
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    OpenFile,
    Stored,
    TensorInfo,
    TensorSource,
    data_bytes,
    is_too_large,
    num_bytes,
    num_elements,
    open_mapped,
)

MAX_HEADER_BYTES = 100_000_000
METADATA = "__metadata__"


class SafetensorsFile(TensorSource):
    """One safetensors file. The whole header is checked on opening; SafetensorsError says what is wrong with it.

    Among the checks: every byte of the data belongs to exactly one tensor, sizes agree with types and shapes, no name
    comes twice, and the file ends where its header says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.paths = (Path(path),)
        data, file = open_mapped(path, SafetensorsError)
        self._file: OpenFile | None = file
        subject = str(path)
        if data.size < 8:
            raise SafetensorsError(
                subject, "must begin with 8 bytes of header length", found=f"a file of {data.size} bytes"
            )
        length = int.from_bytes(data[:8].tobytes(), "little")
        if length > MAX_HEADER_BYTES:
            raise SafetensorsError(
                subject,
                f"the header may have at most {MAX_HEADER_BYTES} bytes",
                found=length,
                remedy="Is it a safetensors file?",
            )
        if 8 + length > data.size:
            raise SafetensorsError(
                subject, f"the header needs {length} bytes", found=f"{data.size - 8}", remedy="Is the file truncated?"
            )
        header = data[8 : 8 + length].tobytes()
        if not header.startswith(b"{"):
            raise SafetensorsError(subject, "the header must begin with '{'", found=repr(header[:1]))
        table = parse_json(header, f"{subject}, header", SafetensorsError)
        self.metadata: Mapping[str, str] = _metadata(subject, table.pop(METADATA, None))
        self._spans = {name: _entry(subject, name, entry) for name, entry in table.items()}
        _check_spans(subject, self._spans, data.size - 8 - length)
        self._begin = 8 + length
        self._data: NDArray[np.uint8] | None = data[self._begin :]

    def names(self) -> tuple[str, ...]:
        return tuple(self._spans)

    def __contains__(self, name: object) -> bool:
        return name in self._spans

    def info(self, name: str) -> TensorInfo:
        return self._spans[name][0]

    def raw(self, name: str) -> NDArray[np.uint8]:
        info, begin = self._spans[name]
        if self._data is None or self._file is None:
            raise SafetensorsError(str(self.paths[0]), "has been closed")
        self._file.check_holds(self._begin + begin + info.num_bytes, f"{self.paths[0]}, tensor {name!r}")
        return self._data[begin : begin + info.num_bytes]

    def place(self, name: str) -> tuple[OpenFile, int]:
        if self._file is None:
            raise SafetensorsError(str(self.paths[0]), "has been closed")
        return self._file, self._begin + self._spans[name][1]

    def close(self) -> None:
        self._data = self._file = None


def _metadata(subject: str, found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise SafetensorsError(subject, f"{METADATA} must map strings to strings")
    return found


def _entry(subject: str, name: str, entry: Any) -> tuple[TensorInfo, int]:
    """One entry of the header: the tensor, and where its bytes begin."""
    subject = f"{subject}, tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        keys = ", ".join(map(repr, islice(entry, 8))) if isinstance(entry, dict) else reprlib.repr(entry)
        raise SafetensorsError(subject, "must have exactly dtype, shape and data_offsets", found=keys or "nothing")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ELEMENT_BITS:
        raise SafetensorsError(subject, f"dtype must be one of {', '.join(ELEMENT_BITS)}", found=reprlib.repr(dtype))
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise SafetensorsError(
            subject, f"shape must be at most {MAX_DIMENSIONS} whole numbers", found=reprlib.repr(shape)
        )
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise SafetensorsError(subject, "data_offsets must be [begin, end]", found=reprlib.repr(offsets))
    begin, end = offsets
    count = num_elements(tuple(shape))
    if is_too_large(tuple(shape)):
        raise SafetensorsError(subject, f"may have at most {MAX_ELEMENTS} elements", found=f"shape {shape}")
    if count * ELEMENT_BITS[dtype] != 8 * (end - begin):
        rule = f"{dtype} of shape {shape} takes {count * ELEMENT_BITS[dtype] / 8:.15g} bytes"
        raise SafetensorsError(subject, rule, found=f"{end - begin} bytes at {offsets}")
    return TensorInfo(name, dtype, tuple(shape), end - begin), begin


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_spans(subject: str, spans: Mapping[str, tuple[TensorInfo, int]], available: int) -> None:
    reached, previous = 0, ""
    for info, begin in sorted(spans.values(), key=lambda span: (span[1], span[1] + span[0].num_bytes)):
        if begin < reached:
            raise SafetensorsError(f"{subject}, tensor {info.name!r}", f"must not overlap {previous!r}")
        if begin > reached:
            raise SafetensorsError(
                f"{subject}, tensor {info.name!r}", "no byte may lie between tensors", found=f"{begin - reached}"
            )
        reached, previous = begin + info.num_bytes, info.name
    if reached > available:
        raise SafetensorsError(
            subject, f"the tensors take {reached} bytes", found=f"{available}", remedy="Is the file truncated?"
        )
    if reached < available:
        raise SafetensorsError(subject, "no byte may follow the last tensor", found=f"{available - reached}")


def save_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file, aside and one tensor at a time. What was at `path` survives any failure.

    Tensors lie in order of falling element size, so that each is aligned to its own. ArgumentError for a tensor whose
    bytes are not what its type and shape say; SaveError for a disk that refuses.
    """
    with write_aside(path) as file:
        write_safetensors(file, tensors, metadata)


def write_safetensors(
    file: IO[bytes], tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None
) -> None:
    """The same into an open binary file."""
    header: dict[str, Any] = {}
    if metadata:
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise ArgumentError("metadata", "must map strings to strings")
        header[METADATA] = dict(metadata)
    for name, (dtype, _, _) in tensors.items():
        if name == METADATA:
            raise ArgumentError(f"tensor name {METADATA!r}", "is reserved")
        if dtype not in ELEMENT_BITS:
            raise ArgumentError(f"tensor {name!r}", "safetensors cannot hold its type", found=dtype)
    order = sorted(tensors, key=lambda name: (-ELEMENT_BITS[tensors[name][0]], name))
    end = 0
    for name in order:
        dtype, shape, _ = tensors[name]
        begin, end = end, end + num_bytes(dtype, tuple(shape))
        header[name] = {"dtype": dtype, "shape": [int(size) for size in shape], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ArgumentError("safetensors header", f"may have at most {MAX_HEADER_BYTES} bytes", found=len(text))
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in order:
        file.write(data_bytes(name, tensors[name]))
