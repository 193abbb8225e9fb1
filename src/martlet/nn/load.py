"""Checkpoint tensors -> the parameters of a module: memory-mapped where the bytes are right as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from martlet.arch import tensors
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.tensors import TensorInfo, TensorSource, to_float32
from martlet.nn.decoder import CausalLM, Decoder
from martlet.nn.devices import STORED, DeviceMap, device_of
from martlet.nn.draws import mix
from martlet.nn.packed import PackedLinear
from martlet.weights import Piece

PART_WEIGHTS = 1 << 22  # 16 MiB of float32


def read_tensor(source: TensorSource, name: str, packed_as: torch.dtype = torch.float32) -> Tensor:
    """One checkpoint tensor: a view of the map for plain dtypes, the values as `packed_as` for packed ones."""
    info = source.info(name)
    raw = source.raw(name)
    dtype = STORED.get(info.dtype)
    if dtype is None:
        return _unpack(raw, info, packed_as)
    if info.num_bytes == 0:
        return torch.empty(info.shape, dtype=dtype)
    if raw.ctypes.data % dtype.itemsize:
        raw = np.array(raw)  # torch wants aligned numbers
    return torch.frombuffer(raw, dtype=dtype).reshape(info.shape)


def _unpack(raw: NDArray[np.uint8], info: TensorInfo, dtype: torch.dtype) -> Tensor:
    """Values of a packed tensor in `dtype`, with a bounded part of them in float32 at a time."""
    block = BLOCKS.get(info.dtype)
    if dtype == torch.float32 or block is None:
        return torch.from_numpy(to_float32(raw, info.dtype, info.shape)).to(dtype)
    out = torch.empty(info.shape, dtype=dtype)
    flat = out.view(-1)
    blocks = raw.reshape(-1, block.num_bytes)
    step = PART_WEIGHTS // block.size
    scratch = np.empty(min(step, len(blocks)) * block.size, np.float32)
    for begin in range(0, len(blocks), step):
        part = blocks[begin : begin + step]
        values = scratch[: len(part) * block.size]
        to_float32(part.reshape(-1), info.dtype, values.shape, out=values)
        flat[begin * block.size :][: len(values)] = torch.from_numpy(values)
    return out


def stored_dtype(source: TensorSource, pieces: Mapping[str, Piece]) -> torch.dtype:
    """The dtype most weights are stored in; float32 for packed ones."""
    counts: dict[torch.dtype, int] = {}
    for piece in pieces.values():
        info = source.info(piece.source)
        dtype = STORED.get(info.dtype, torch.float32)
        if dtype.is_floating_point:
            counts[dtype] = counts.get(dtype, 0) + int(np.prod(info.shape))
    return max(counts, key=lambda dtype: counts[dtype]) if counts else torch.float32


def fill(
    module: nn.Module, source: TensorSource, pieces: Mapping[str, Piece], dtype: torch.dtype, placed: DeviceMap
) -> None:
    """Gives every parameter in `pieces` its tensor, in `dtype`, on its device. One plain on the CPU stays in the map.

    Where the file packs others the plain ones are copied: the map can go, and the file be moved or cut.
    """
    is_packed = any(source.info(piece.source).dtype not in STORED for piece in pieces.values())
    for name, shape in tensors(module.arch, module.parts).items():  # type: ignore[arg-type]
        if name not in pieces:
            continue
        own = own_name(module, name)
        device = device_of(own, placed)
        packed = module.get_submodule(own.rpartition(".")[0])
        if isinstance(packed, PackedLinear) and own.endswith(".weight"):
            packed.fill(source, pieces[name])
            packed.packed = packed.packed.to(device)
            continue
        if device.type == "meta":
            value = torch.empty(shape, dtype=dtype, device="meta")
        else:
            piece = pieces[name]
            # what is added is added in float32, before the rounding
            value = piece.take(read_tensor(source, piece.source, torch.float32 if piece.added else dtype))
            value = value.to(dtype=dtype, device=device, copy=is_packed and source.info(piece.source).dtype in STORED)
            value = value if value.is_contiguous() else value.contiguous()
        _assign(module, own, value)
    tie(module)


def own_name(module: nn.Module, name: str) -> str:
    """Our name of a tensor as the module has it: a body alone is what other models have under "model."."""
    return name.removeprefix("model.") if isinstance(module, Decoder) else name


def tie(module: nn.Module) -> None:
    """A tied head is the embedding table."""
    if isinstance(module, CausalLM):
        module.tie_weights()


def fill_new(module: nn.Module, names: Iterable[str], dtype: torch.dtype, placed: DeviceMap, std: float) -> None:
    """Fresh weights for the named tensors: matrices normal with `std`, biases zero, norms one.

    The draws are a function of torch's seed and of the tensor's name; torch's generator is not moved.
    """
    for name in names:
        own = own_name(module, name)
        shape = module.get_parameter(own).shape
        generator = torch.Generator().manual_seed(mix(torch.initial_seed(), *name.encode()) >> 1)
        if len(shape) > 1:
            value = torch.empty(shape).normal_(0.0, std, generator=generator)
        else:
            value = torch.zeros(shape) if name.endswith(".bias") else torch.ones(shape)
        _assign(module, own, value.to(dtype=dtype, device=device_of(own, placed)))


def fill_random(module: nn.Module, dtype: torch.dtype, std: float) -> None:
    """Fresh weights, as `from_config` gives: matrices normal with `std`, norms one, biases zero."""
    for name, parameter in module.named_parameters():
        value = torch.empty(parameter.shape, dtype=dtype)
        if parameter.ndim > 1:
            value.normal_(0.0, std)
        else:
            value.fill_(0.0 if name.endswith(".bias") or _is_plus_one(module, name) else 1.0)
        _assign(module, name, value)
    tie(module)


def _is_plus_one(module: nn.Module, name: str) -> bool:
    return bool(getattr(module.get_submodule(name.rpartition(".")[0]), "plus_one", False))


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    parent = module.get_submodule(owner)
    setattr(parent, leaf, nn.Parameter(value, requires_grad=True))
