"""Blocks of GGUF's types kept in safetensors: a matrix is bytes there, and config.json says of which type.

The layout: a matrix of `rows` by `columns` whose type is T is a U8 tensor of shape (rows, bytes of a row), each row the
blocks of T one after the other as GGUF has them. config.json's `quantization_config` is {"quant_method":
"martlet-blocks", "types": {tensor name: T}}; tensors that are not named there are plain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ConfigError, WeightsError
from martlet.formats.gguf_blocks import BLOCKS, DECODED
from martlet.formats.tensors import OpenFile, TensorInfo, TensorSource

METHOD = "martlet-blocks"
KEY = "quantization_config"


class PackedBlocks(TensorSource):
    """A source whose tensors named in `types` are blocks. WeightsError where bytes and types contradict each other."""

    def __init__(self, source: TensorSource, types: Mapping[str, str]) -> None:
        self.source, self.metadata, self.paths = source, source.metadata, source.paths
        missing = [name for name in types if name not in source]
        if missing:
            raise WeightsError(
                "checkpoint",
                f"config.json gives a type to {len(types)} tensors, which must be there",
                found=f"no {missing[0]}",
                remedy="Is config.json from the same checkpoint?",
            )
        self._infos = {name: self._read(source.info(name), types.get(name)) for name in source.names()}

    def _read(self, info: TensorInfo, kind: str | None) -> TensorInfo:
        if kind is None:
            if info.dtype == "U8":
                raise WeightsError(f"tensor {info.name}", "is bytes, so config.json must say of which type")
            return info
        block = BLOCKS[kind]
        rule = f"{kind} must be bytes of shape (rows, a multiple of {block.num_bytes})"
        if info.dtype != "U8" or len(info.shape) != 2 or info.shape[1] % block.num_bytes:
            raise WeightsError(f"tensor {info.name}", rule, found=f"{info.dtype} of shape {list(info.shape)}")
        rows, row_bytes = info.shape
        return TensorInfo(info.name, kind, (rows, row_bytes // block.num_bytes * block.size), info.num_bytes)

    def names(self) -> tuple[str, ...]:
        return tuple(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def info(self, name: str) -> TensorInfo:
        return self._infos[name]

    def raw(self, name: str) -> NDArray[np.uint8]:
        return self.source.raw(name)

    def place(self, name: str) -> tuple[OpenFile, int] | None:
        return self.source.place(name)

    def read(self, name: str, begin: int, out: NDArray[np.uint8]) -> None:
        self.source.read(name, begin, out)

    def close(self) -> None:
        self.source.close()


def is_packed(config: Mapping[str, Any]) -> bool:
    """Whether a config.json says that its weights are blocks laid out as here."""
    found = config.get(KEY)
    return isinstance(found, Mapping) and found.get("quant_method") == METHOD


def read_types(config: Mapping[str, Any]) -> dict[str, str]:
    """The types of a config.json that `is_packed`; ConfigError for what is not of this layout."""
    found = config[KEY]
    if found.keys() != {"quant_method", "types"} or not isinstance(found["types"], Mapping):
        raise ConfigError(
            f"config.json, {KEY}", "must have quant_method and types alone", found=", ".join(map(str, found))
        )
    for name, kind in found["types"].items():
        if kind not in DECODED:
            raise ConfigError(
                f"config.json, {KEY}", f"the type of {name} must be one of {', '.join(DECODED)}", found=repr(kind)[:40]
            )
    return dict(found["types"])


def packed_config(types: Mapping[str, str]) -> dict[str, Any]:
    """What `read_types` reads."""
    return {"quant_method": METHOD, "types": dict(types)}


def packed_shape(kind: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Shape of the bytes of a matrix."""
    block = BLOCKS[kind]
    return shape[0], shape[1] // block.size * block.num_bytes
