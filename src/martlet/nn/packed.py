"""Frozen matrices kept in blocks of int8 or int4 (QLoRA, Dettmers et al. 2023): unpacked part by part for a product.

y = x W' + b, W unpacked in rows; the gradient is x's alone. Blocks are GGUF's: a file's own stay as they are.
"""

# O rows out, I columns in

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from martlet.arch import tensors
from martlet.errors import ArgumentError, UnsupportedError
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.tensors import TensorSource, to_float32
from martlet.nn.decoder import Decoder
from martlet.weights import Piece

KINDS = {"int8": "Q8_0", "int4": "Q4_0"}
GROUP = 32  # weights to a scale
PART_WEIGHTS = 1 << 21  # unpacked at a time: 8 MiB of float32
PLAIN = ("F32", "F16", "BF16")


class _PackedProduct(torch.autograd.Function):
    """x W', unpacking W in the forward pass and again in the backward pass; it is never kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        out = x.new_empty((*x.shape[:-1], layer.out_features))
        for begin, part in layer.parts(x.dtype, x.device):
            out[..., begin : begin + len(part)] = x @ part.T
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        out: Tensor | None = None
        for begin, part in ctx.layer.parts(grad.dtype, grad.device):
            product = grad[..., begin : begin + len(part)] @ part
            out = product if out is None else out.add_(product)
        assert out is not None
        return out, None


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in blocks and does not learn."""

    packed: Tensor  # (O, bytes of a row)

    def __init__(self, in_features: int, out_features: int, bias: bool, kind: str) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kind = in_features, out_features, kind
        block = BLOCKS[kind]
        self.register_buffer(
            "packed", torch.empty((out_features, in_features // block.size * block.num_bytes), dtype=torch.uint8)
        )
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def parts(self, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[int, Tensor]]:
        """First row and values of a bounded number of rows at a time."""
        step = max(1, PART_WEIGHTS // self.in_features)
        raw = self.packed.cpu().numpy()
        for begin in range(0, self.out_features, step):
            rows = np.ascontiguousarray(raw[begin : begin + step])
            values = to_float32(rows.reshape(-1), self.kind, (len(rows), self.in_features))
            yield begin, torch.from_numpy(values).to(device=device, dtype=dtype)

    @property
    def weight(self) -> Tensor:
        """All of it unpacked, float32: a copy."""
        return torch.cat([part for _, part in self.parts(torch.float32, self.packed.device)])

    def forward(self, x: Tensor) -> Tensor:
        apply: Any = _PackedProduct.apply
        out: Tensor = apply(x, self)
        return out if self.bias is None else out + self.bias

    def fill(self, source: TensorSource, piece: Piece) -> None:
        """Takes the blocks of a checkpoint's tensor, or makes them of its numbers."""
        info = source.info(piece.source)
        if info.dtype == self.kind:
            rows = source.raw(piece.source).reshape(info.shape[0], -1)
            taken = np.ascontiguousarray(rows if piece.rows is None else rows[piece.rows])
        else:
            values = piece.take(to_float32(source.raw(piece.source), info.dtype, info.shape))
            taken = quantize_rows(np.ascontiguousarray(values, np.float32), self.kind)
        self.packed = torch.from_numpy(taken if taken.flags.writeable else taken.copy())


def quantize_rows(values_OI: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    """Rows in blocks of 32 numbers to a float16 scale, as ggml's reference makes them.

    Q8_0: d = max|x| / 127, q = round(x / d). Q4_0: d = (the number of largest size) / -8, q = trunc(x / d + 8.5).
    """
    groups = values_OI.reshape(-1, GROUP)
    if kind == "Q8_0":
        scale = np.abs(groups).max(1) / 127
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
        scaled = groups * inverse[:, None]
        whole = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8).view(np.uint8)
    else:
        largest = np.take_along_axis(groups, np.abs(groups).argmax(1)[:, None], 1)[:, 0]
        scale = largest / -8
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
        codes = np.minimum((groups * inverse[:, None] + 8.5).astype(np.uint8), 15)
        whole = codes[:, :16] | (codes[:, 16:] << 4)
    blocks = np.concatenate((scale.astype("<f2").reshape(-1, 1).view(np.uint8), whole), 1)
    return blocks.reshape(len(values_OI), -1)


def pack_layers(model: nn.Module, source: TensorSource, pieces: Mapping[str, Piece], quantize: str) -> None:
    """Puts `PackedLinear`s in place of the blocks' matrices, before they are filled.

    `quantize` "int8" or "int4" is for those stored as floats; those stored in blocks stay as they are. A matrix whose
    rows are no multiple of 32 stays a float one.
    """
    if quantize not in KINDS:
        raise ArgumentError("quantize", f"must be one of {', '.join(KINDS)}", found=repr(quantize))
    for name, shape in tensors(model.arch, model.parts).items():  # type: ignore[arg-type]
        if not name.startswith("model.layers.") or len(shape) != 2 or name not in pieces:
            continue
        stored, piece = source.info(pieces[name].source).dtype, pieces[name]
        kind = KINDS[quantize] if stored in PLAIN else stored
        if shape[1] % BLOCKS[kind].size:
            continue
        if stored not in PLAIN and (piece.transposed or piece.added):
            raise UnsupportedError(f"tensor {piece.source}", f"{stored} blocks cannot be transposed or shifted")
        path = (name.removeprefix("model.") if isinstance(model, Decoder) else name).removesuffix(".weight")
        owner, _, leaf = path.rpartition(".")
        old = model.get_submodule(path)
        with torch.device("meta"):
            made = PackedLinear(shape[1], shape[0], old.bias is not None, kind)
        setattr(model.get_submodule(owner), leaf, made)
