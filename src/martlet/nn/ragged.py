"""Padded tensors at the door, ragged rows inside: where each token of a batch lies."""

# B rows, P padded width, T tokens of all rows end to end

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from martlet.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows laid end to end. `past` is how many tokens of each row the cache already holds."""

    lengths: tuple[int, ...]
    past: tuple[int, ...]
    positions_T: Tensor
    types_T: Tensor | None = None  # segments (token_type_ids); None: all 0
    groups: dict[torch.device, Any] = field(default_factory=dict, compare=False, repr=False)  # of attention, by device

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each row among the T tokens."""
        out, start = [], 0
        for length in self.lengths:
            out.append((start, start + length))
            start += length
        return out


def ragged_rows(lengths: tuple[int, ...], past: tuple[int, ...], device: torch.device) -> Ragged:
    """Rows whose tokens follow on from what the cache holds."""
    if len(lengths) == 1:
        return Ragged(lengths, past, torch.arange(past[0], past[0] + lengths[0], device=device))
    positions = [torch.arange(before, before + new) for before, new in zip(past, lengths, strict=True)]
    return Ragged(lengths, past, torch.cat(positions).to(device))


@dataclass(frozen=True, slots=True)
class Padding:
    """A padded batch's real tokens: their flat places among B * P, or all of them."""

    num_rows: int
    width: int
    flat_T: Tensor | None  # None: no padding

    def strip(self, x_BP: Tensor) -> Tensor:
        """The real tokens of a `(B, P, ...)` tensor, end to end: `(T, ...)`."""
        flat = x_BP.reshape(self.num_rows * self.width, *x_BP.shape[2:])
        return flat if self.flat_T is None else flat[self.flat_T]

    def restore(self, x_T: Tensor) -> Tensor:
        """`(T, ...)` back to `(B, P, ...)`, zeros at padding."""
        if self.flat_T is None:
            return x_T.reshape(self.num_rows, self.width, *x_T.shape[1:])
        out = x_T.new_zeros((self.num_rows * self.width, *x_T.shape[1:]))
        return out.index_copy(0, self.flat_T, x_T).reshape(self.num_rows, self.width, *x_T.shape[1:])


def find_padding(shape: tuple[int, int], mask_BP: Tensor | None) -> tuple[Padding, tuple[int, ...]]:
    """Where the real tokens are (mask 1), and how many each row has. A row of padding alone is an error."""
    rows, width = shape
    if mask_BP is None:
        return Padding(rows, width, None), (width,) * rows
    if mask_BP.ndim != 2 or mask_BP.shape[0] != rows or mask_BP.shape[1] < width:
        raise ArgumentError(
            "attention_mask",
            f"must have a row for each of {rows} rows and a column for each token",
            found=f"shape {list(mask_BP.shape)} for input of shape {list(shape)}",
        )
    real = mask_BP[:, mask_BP.shape[1] - width :].bool()
    lengths = tuple(int(n) for n in real.sum(1).tolist())
    if width and 0 in lengths:
        raise ArgumentError(
            "attention_mask", "every row must have a real token (1)", found=f"row {lengths.index(0)} all 0"
        )
    if all(length == width for length in lengths):
        return Padding(rows, width, None), lengths
    return Padding(rows, width, real.reshape(-1).nonzero().squeeze(1)), lengths
