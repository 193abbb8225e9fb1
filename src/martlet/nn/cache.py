"""Keys and values of past tokens, one growing buffer a row and layer. The engine has pages; this is the plain form."""

# K key/value heads, L tokens held, H head width

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

FIRST_TOKENS = 64


class RowCache:
    """What one row's past tokens left in every layer. Buffers double when full, so appending is cheap."""

    def __init__(self, num_layers: int) -> None:
        self.length = 0
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers

    def append(self, layer: int, key_KTH: Tensor, value_KTH: Tensor) -> tuple[Tensor, Tensor]:
        """Adds a layer's new keys and values; returns all of that layer's, `(K, L, H)`. `advance` moves the end."""
        end = self.length + key_KTH.shape[1]
        key, value = self.keys[layer], self.values[layer]
        if key is None or value is None or key.shape[1] < end:
            key, value = (_grown(old, new, end) for old, new in ((key, key_KTH), (value, value_KTH)))
            self.keys[layer], self.values[layer] = key, value
        key[:, self.length : end] = key_KTH
        value[:, self.length : end] = value_KTH
        return key[:, :end], value[:, :end]

    def advance(self, num_tokens: int) -> None:
        """All layers have been given `num_tokens` more."""
        self.length += num_tokens

    def truncate(self, length: int) -> None:
        """Forgets the tokens from position `length` on."""
        self.length = min(self.length, length)

    def fork(self) -> RowCache:
        """A row of its own with the same past."""
        other = RowCache(len(self.keys))
        other.length = self.length
        other.keys = [None if key is None else key[:, : self.length].clone() for key in self.keys]
        other.values = [None if value is None else value[:, : self.length].clone() for value in self.values]
        return other


class KVCache:
    """The rows of one batch, as `past_key_values` carries them from one call of a model to the next.

    Made without sizes it is empty, and the first call that gets it gives it its rows; `config` may be passed as to
    Hugging Face's `DynamicCache`, and says nothing that is needed.
    """

    def __init__(self, num_rows: int = 0, num_layers: int = 0, *, config: Any = None) -> None:
        self.rows: list[RowCache] = []
        self.open(num_rows, num_layers)

    def open(self, num_rows: int, num_layers: int) -> None:
        """Empty rows in place of what was there."""
        self.rows = [RowCache(num_layers) for _ in range(num_rows)]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens the longest row holds, in every layer alike."""
        return max((row.length for row in self.rows), default=0)

    def __len__(self) -> int:
        """Layers."""
        return len(self.rows[0].keys) if self.rows else 0

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, copies `(rows, heads, tokens, width)`; rows that are shorter end in zeros."""
        for layer in range(len(self)):
            yield self[layer]

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor]:
        length = self.get_seq_length()
        padded = []
        for kind in ("keys", "values"):
            held = [(getattr(row, kind)[layer], row.length) for row in self.rows]
            if any(buffer is None for buffer, _ in held):
                raise IndexError(f"layer {layer} of the cache is empty")
            out = held[0][0].new_zeros((len(held), held[0][0].shape[0], length, held[0][0].shape[2]))
            for place, (buffer, count) in enumerate(held):
                out[place, :, :count] = buffer[:, :count]
            padded.append(out)
        return padded[0], padded[1]

    def crop(self, length: int) -> None:
        """Keeps the first `length` tokens of every row; a negative length drops that many."""
        for row in self.rows:
            row.truncate(length if length >= 0 else row.length + length)

    def reorder_cache(self, rows: Tensor) -> None:
        """Row r becomes a copy of row `rows[r]`."""
        self.rows = [self.rows[int(row)].fork() for row in rows]


DynamicCache = KVCache


def _grown(old: Tensor | None, new: Tensor, num_tokens: int) -> Tensor:
    heads, _, width = new.shape
    if old is None:  # a prompt fills its buffer; what follows it doubles
        return torch.empty((heads, max(num_tokens, FIRST_TOKENS), width), dtype=new.dtype, device=new.device)
    grown = torch.empty((heads, max(num_tokens, 2 * old.shape[1]), width), dtype=old.dtype, device=old.device)
    grown[:, : old.shape[1]] = old
    return grown
