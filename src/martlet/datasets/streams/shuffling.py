"""Shuffles that are computed: over numbered rows a permutation, over others one within blocks of the stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets.order import BLOCK, WINDOW, Permutation
from martlet.datasets.streams.node import Context, Node, Positions, Row, Run, triple


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

    def start(self, state: Any, context: Context) -> Run:
        return _BlockRun(self._child, self._seed, self._size, state, context)


class _BlockRun(Run):
    def __init__(self, child: Node, seed: int, size: int, state: Any, context: Context) -> None:
        self._at, self._block, done = triple(state)
        self._run = child.run(self._at, context)
        self._seed, self._size, self._epoch = seed, size, context.epoch
        self._rows: list[Row] = []
        self._done = 0
        if done:
            self._fill()
            self._done = done

    def _fill(self) -> None:
        self._at = self._run.state()
        read: list[Row] = []
        for row in self._run:
            read.append(row)
            if len(read) == self._size:
                break
        order = Permutation(len(read), self._seed ^ (self._block << 20), self._epoch)
        numbers = order.rows(np.arange(len(read), dtype=np.int64)).tolist() if read else []
        self._rows, self._done = [read[number] for number in numbers], 0

    def __next__(self) -> Row:
        if self._done >= len(self._rows):
            if self._rows:
                self._block += 1
            self._fill()
            if not self._rows:
                raise StopIteration
        self._done += 1
        return self._rows[self._done - 1]

    def state(self) -> Any:
        if self._done >= len(self._rows):
            return [self._run.state(), self._block + bool(self._rows), 0]
        return [self._at, self._block, self._done]
