"""Nested state (optimizers, schedulers, counters) as safetensors beside JSON: exact numbers, and no pickles."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from martlet.errors import CheckpointError, UnsupportedError
from martlet.formats.files import read_json, write_json
from martlet.formats.safetensors import SafetensorsFile, save_safetensors
from martlet.formats.tensors import TensorSource
from martlet.nn.devices import STORED

PACKED = "torchao.optim."  # where tensors of 8 and 4 bits that optimizers keep come from
WORDS = {dtype: word for word, dtype in STORED.items()}


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors by name, each as it is. SaveError if the disk refuses."""
    stored = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in WORDS:
            raise UnsupportedError(f"state tensor {name!r}", "safetensors cannot hold its type", found=tensor.dtype)
        stored[name] = (WORDS[tensor.dtype], tuple(tensor.shape), _bytes_of(tensor))
    save_safetensors(path, stored)


def _bytes_of(tensor: Tensor) -> Any:
    return lambda: tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def read_tensor(source: TensorSource, name: str) -> Tensor:
    """A copy of one tensor of an open file, on the CPU."""
    info = source.info(name)
    out = torch.empty(info.shape, dtype=STORED[info.dtype])
    if info.num_bytes:
        out.view(-1).view(torch.uint8)[:] = torch.frombuffer(bytearray(source.raw(name)), dtype=torch.uint8)
    return out


def save_tree(folder: Path, name: str, tree: Any) -> None:
    """Writes `tree` (dicts, lists, tuples, numbers, text, None, tensors) as NAME.json and NAME.safetensors."""
    tensors: dict[str, Tensor] = {}
    write_json(folder / f"{name}.json", {"tree": _packed(tree, name, tensors)})
    save_tensors(folder / f"{name}.safetensors", tensors)


def load_tree(folder: Path, name: str) -> Any:
    """What `save_tree` wrote. CheckpointError if the two files do not belong together."""
    source = SafetensorsFile(folder / f"{name}.safetensors")
    try:
        return _unpacked(read_json(folder / f"{name}.json")["tree"], source)
    except KeyError as problem:
        raise CheckpointError(str(folder), f"{name}.json and {name}.safetensors must be of one save") from problem
    finally:
        source.close()


def _packed(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, torch.dtype):
        return {"dtype": str(tree).removeprefix("torch.")}
    if isinstance(tree, Tensor) and type(tree).__module__.startswith(PACKED):
        names, context = tree.__tensor_flatten__()  # type: ignore[attr-defined]
        inner = {name: getattr(tree, name) for name in names}
        made = (type(tree).__module__, type(tree).__qualname__)
        return {"packed": [*made, _packed(inner, path, tensors), _packed(context, path, tensors)]}
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, Mapping):
        items = [[_key(key, path), _packed(value, f"{path}.{key}", tensors)] for key, value in tree.items()]
        return {"dict": items}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_packed(value, f"{path}.{index}", tensors) for index, value in enumerate(tree)]}
    raise UnsupportedError(f"state {path!r}", "must be made of numbers, text, tensors and containers", found=type(tree))


def _key(key: Any, path: str) -> Any:
    if not isinstance(key, str | int):
        raise UnsupportedError(f"state {path!r}", "keys must be text or whole numbers", found=type(key).__name__)
    return key


def _unpacked(tree: Any, source: TensorSource) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return read_tensor(source, value)
    if kind == "dtype":
        return getattr(torch, value)
    if kind == "packed":
        module, name, inner, context = value
        if not module.startswith(PACKED):  # a file must not choose what is imported
            raise CheckpointError("checkpoint", f"packed tensors must be of {PACKED}", found=repr(module))
        made: Any = getattr(importlib.import_module(module), name)
        return made.__tensor_unflatten__(_unpacked(inner, source), _unpacked(context, source), None, None)
    if kind == "dict":
        return {key: _unpacked(item, source) for key, item in value}
    items = [_unpacked(item, source) for item in value]
    return items if kind == "list" else tuple(items)
