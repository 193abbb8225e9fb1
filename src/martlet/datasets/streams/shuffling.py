"""Shuffles that are computed: over numbered rows a permutation, over others one within blocks of the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets.order import BLOCK, WINDOW, Permutation
from martlet.datasets.streams.node import Context, Node, Positions, Refilled, Row, Run


class Shuffled(Node):
    """All rows in an order that belongs to (seed, epoch): the same for any number of workers; the state is a number."""

    passes = True

    def __init__(self, child: Node, seed: int) -> None:
        self._child, self._seed = child, seed
        self.num_rows, self.features = child.num_rows, child.features

    def children(self) -> list[Node]:
        return [self._child]

    def _placed(self, positions: Positions, epoch: int) -> Positions:
        assert self.num_rows is not None
        block, window = getattr(self._child, "shuffle_shape", (BLOCK, WINDOW))
        return Permutation(self.num_rows, self._seed, epoch, block=block, window=window).rows(positions)

    def table(self, positions: Positions, epoch: int) -> pa.Table | None:
        return self._child.table(self._placed(positions, epoch), epoch)

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        return self._child.rows(self._placed(positions, epoch), epoch)


class BlockShuffled(Node):
    """Each `buffer_size` rows of a stream of unknown length in an order of (seed, epoch, block).

    The state is where the block starts and how much of it was handed out: going on reads the block again.
    """

    splits, passes = False, True

    def __init__(self, child: Node, seed: int, buffer_size: int) -> None:
        self._child, self._seed, self._size = child, seed, buffer_size
        self.features = child.features

    def children(self) -> list[Node]:
        return [self._child]

    def sharded(self, count: int, index: int, contiguous: bool) -> Node:
        if self.num_shards < count:
            return super().sharded(count, index, contiguous)
        return self.over([self._child.sharded(count, index, contiguous)])

    def start(self, state: Any, context: Context) -> Run:
        return _BlockRun(self._child, self._seed, self._size, state, context)


class _BlockRun(Refilled):
    """What came before is counted in blocks."""

    def __init__(self, child: Node, seed: int, size: int, state: Any, context: Context) -> None:
        self._seed, self._size, self._epoch = seed, size, context.epoch
        super().__init__(child, state, context)

    def _more(self) -> tuple[list[Row], int] | None:
        read = list(islice(self._run, self._size))
        if not read:
            return None
        order = Permutation(len(read), self._seed ^ (self._count << 20), self._epoch)
        return [read[number] for number in order.rows(np.arange(len(read), dtype=np.int64)).tolist()], 1


@dataclass(frozen=True)
class Mix:
    """How files are read under a shuffle: in an order of (seed, epoch), `width` of them in turn."""

    seed: int
    width: int

    def run(self, num_files: int, opened: Callable[[int, int], Iterator[Row]], state: Any, context: Context) -> Run:
        """Rows of `num_files` files; `opened(number, skipped)` gives the rows of one, after the first so many."""
        order = Permutation(num_files, self.seed, context.epoch)
        return _MixRun(order, range(context.index, num_files, context.count), self.width, opened, state)


class _MixRun(Run):
    """A row of each open file in turn; a file that ends makes room for the next.

    The state is a place in the order and a row of each open file, the next place, and whose turn it is.
    """

    def __init__(
        self, order: Permutation, places: range, width: int, opened: Callable[[int, int], Iterator[Row]], state: Any
    ) -> None:
        self._order, self._places, self._opened = order, places, opened
        if state is None:
            width = min(width, len(places))
            state = [[[place, 0] for place in range(width)], width, 0]
        self._lanes: list[list[int]] = [list(lane) for lane in state[0]]
        self._next, self._turn = int(state[1]), int(state[2])
        self._rows: list[Iterator[Row] | None] = [None] * len(self._lanes)

    def __next__(self) -> Row:
        while self._lanes:
            lane = self._lanes[self._turn]
            rows = self._rows[self._turn]
            if rows is None:
                rows = self._rows[self._turn] = self._opened(self._order.row(self._places[lane[0]]), lane[1])
            row = next(rows, None)
            if row is not None:
                lane[1] += 1
                self._turn = (self._turn + 1) % len(self._lanes)
                return row
            self._rows[self._turn] = None
            if self._next < len(self._places):
                lane[:] = [self._next, 0]
                self._next += 1
                continue
            del self._lanes[self._turn], self._rows[self._turn]
            self._turn = self._turn % len(self._lanes) if self._lanes else 0
        raise StopIteration

    def state(self) -> Any:
        return [[list(lane) for lane in self._lanes], self._next, self._turn]
