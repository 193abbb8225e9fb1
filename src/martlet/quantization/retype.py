"""A GGUF file's tensors stored in other types, its metadata kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.engine.encode import encode
from martlet.formats.gguf_writer import save_gguf
from martlet.formats.tensors import Stored, TensorInfo, TensorSource, to_float32

# llama.cpp's word for a file that is mostly of one type (llama_ftype)
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}
QUANTIZATION_VERSION = 2


def retype_gguf(
    source: TensorSource,
    path: str | os.PathLike[str],
    kind_of: Callable[[TensorInfo], str],
    said: Callable[[str], None] = lambda name: None,
) -> None:
    """Writes `source`, a GGUF file, with each tensor in the type that `kind_of` says; `said(name)` before each."""
    tensors: dict[str, Stored] = {}
    counts: dict[str, int] = {}
    for name in source.names():
        info = source.info(name)
        kind = kind_of(info)
        counts[kind] = counts.get(kind, 0) + int(np.prod(info.shape))
        tensors[name] = (kind, info.shape, _Data(source, info, kind, said))
    save_gguf(path, retyped_metadata(source.metadata, counts), tensors)


def retyped_metadata(metadata: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """Metadata of one whole file whose numbers are mostly of the commonest type in `counts`."""
    kept = {key: value for key, value in metadata.items() if not key.startswith("split.")}
    kept["general.file_type"] = FILE_TYPES[max(counts, key=lambda kind: counts[kind])]
    kept["general.quantization_version"] = QUANTIZATION_VERSION
    return kept


class _Data:
    """Bytes of one tensor, made when they are written."""

    def __init__(self, source: TensorSource, info: TensorInfo, kind: str, said: Callable[[str], None]) -> None:
        self.source, self.info, self.kind, self.said = source, info, kind, said

    def __call__(self) -> NDArray[np.uint8]:
        self.said(self.info.name)
        raw = self.source.raw(self.info.name)
        if self.kind == self.info.dtype:
            return raw
        return encode_tensor(to_float32(raw, self.info.dtype, self.info.shape), self.kind)


def encode_tensor(values: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    """The bytes of a tensor of any number of axes."""
    columns = values.shape[-1] if values.ndim else 1
    return encode(values.reshape(-1, columns), kind)
