"""A model's vocabulary made longer or shorter: rows of the embedding table and of the head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from martlet.errors import ArgumentError


def round_up(size: int, multiple: int | None) -> int:
    """The least multiple that holds `size` rows; `size` itself without one."""
    if multiple is not None and (isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1):
        raise ArgumentError("pad_to_multiple_of", "must be an integer of at least 1", found=repr(multiple))
    return size if multiple is None else -(-size // multiple) * multiple


def resized_embedding(table: nn.Embedding, size: int) -> nn.Embedding:
    """A table of `size` rows; the ones that are new begin as the mean of the old ones."""
    weight = _resized(table.weight, size)
    resized = nn.Embedding(size, table.embedding_dim, _weight=weight.detach())
    resized.weight.requires_grad_(table.weight.requires_grad)
    return resized


def resized_head(head: nn.Linear, size: int) -> nn.Linear:
    """A head of `size` scores; the ones that are new begin as the mean of the old ones, their bias too."""
    resized = nn.Linear(head.in_features, size, head.bias is not None, device="meta")
    resized.weight = nn.Parameter(_resized(head.weight, size), requires_grad=head.weight.requires_grad)
    if head.bias is not None:
        resized.bias = nn.Parameter(_resized(head.bias, size), requires_grad=head.bias.requires_grad)
    return resized


def _resized(rows: Tensor, size: int) -> Tensor:
    with torch.no_grad():
        kept = rows[:size].clone()
        if size <= len(rows):
            return kept
        mean = rows.float().mean(0, keepdim=True).to(rows.dtype)
        return torch.cat((kept, mean.expand(size - len(rows), *rows.shape[1:])))
