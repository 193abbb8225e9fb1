"""A shuffle that is computed, not stored: which row stands at a position is a pure function of (rows, seed, epoch)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError

BLOCK = 1024  # rows that stay neighbours on the disk
WINDOW = 64  # blocks whose rows are mixed: the reads of a window stay within so many stretches
_ROUNDS = 8
_MASK = (1 << 64) - 1


class Permutation:
    """All of `num_rows` rows once, in an order that belongs to (seed, epoch); O(1) state, any position at any time.

    The blocks are permuted, and within each window of 65,536 positions the rows: reads stay nearly sequential. Fewer
    rows than two windows are permuted whole. A Feistel network, walked until it lands inside (Black & Rogaway 2002).
    """

    def __init__(self, num_rows: int, seed: int, epoch: int = 0, *, block: int = BLOCK, window: int = WINDOW) -> None:
        if num_rows < 0 or block < 1 or window < 1:
            raise ArgumentError("a permutation", "needs rows >= 0 and sizes >= 1", found=(num_rows, block, window))
        self.num_rows, self.seed, self.epoch, self.block = num_rows, seed, epoch, block
        self._key = _mixed(_mixed(seed) + epoch)
        self._span = block * window
        self._windows = max(1, num_rows // self._span)
        self._whole = self._windows == 1
        self._blocks = 0 if self._whole else num_rows // block
        # The rows that fill no block come last of the blocks, so which rows these are is drawn too.
        self._shift = 0 if self._whole else _mixed(self._key) % num_rows

    def __len__(self) -> int:
        return self.num_rows

    def row(self, position: int) -> int:
        """The row at one position."""
        if self._whole:
            return _walk(position, self.num_rows, self._key)
        window = min(position // self._span, self._windows - 1)
        first = window * self._span
        size = self.num_rows - first if window == self._windows - 1 else self._span
        slot = first + _walk(position - first, size, _mixed(self._key ^ (window + 1)))
        block, within = divmod(slot, self.block)
        if block < self._blocks:
            slot = _walk(block, self._blocks, _mixed(self._key + 7)) * self.block + within
        return (slot + self._shift) % self.num_rows

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows at positions, in their order."""
        if self._whole:
            return _walk_all(positions, self.num_rows, self._key)
        windows = np.minimum(positions // self._span, self._windows - 1)
        slots = np.empty(len(positions), np.int64)
        for window in np.unique(windows).tolist():
            first = window * self._span
            size = self.num_rows - first if window == self._windows - 1 else self._span
            here = windows == window
            slots[here] = first + _walk_all(positions[here] - first, size, _mixed(self._key ^ (window + 1)))
        in_block = slots < self._blocks * self.block
        block, within = np.divmod(slots[in_block], self.block)
        slots[in_block] = _walk_all(block, self._blocks, _mixed(self._key + 7)) * self.block + within
        return (slots + self._shift) % self.num_rows


def _mixed(x: int) -> int:
    """splitmix64's finalizer."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK  # seeds of more than 64 bits, and negative ones, wrap
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _halves(size: int) -> tuple[int, int]:
    """Bits of the left and the right half: the smallest power of two that holds `size`."""
    bits = max(2, math.ceil(math.log2(max(2, size))), (size - 1).bit_length())
    return bits - bits // 2, bits // 2


def _walk(value: int, size: int, key: int) -> int:
    high, low = _halves(size)
    keys = [_mixed(key + round_) for round_ in range(_ROUNDS)]
    while True:
        left, right, a, b = value >> low, value & ((1 << low) - 1), high, low
        for round_key in keys:
            x = (right ^ round_key) & _MASK
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
            left, right = right, left ^ ((x ^ (x >> 31)) & ((1 << a) - 1))
            a, b = b, a
        value = (left << low) | right
        if value < size:
            return value


def _walk_all(values: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    high, low = _halves(size)
    keys = [np.uint64(_mixed(key + round_)) for round_ in range(_ROUNDS)]
    out = values.astype(np.uint64)
    open_ = np.arange(len(out))
    while len(open_):
        moved = _rounds(out[open_], high, low, keys)
        out[open_] = moved
        open_ = open_[moved >= size]
    return out.astype(np.int64)


def _rounds(values: NDArray[np.uint64], high: int, low: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    left, right = values >> np.uint64(low), values & np.uint64((1 << low) - 1)
    for turn, key in enumerate(keys):
        x = right ^ key
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mask = np.uint64((1 << (high if turn % 2 == 0 else low)) - 1)
        left, right = right, left ^ ((x ^ (x >> np.uint64(31))) & mask)
    return (left << np.uint64(low)) | right
