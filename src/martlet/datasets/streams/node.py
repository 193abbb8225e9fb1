"""What every step of a stream promises: rows from a state on, or, where rows are numbered, rows at positions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from martlet.datasets.features import Features

Row = dict[str, Any]
Positions = NDArray[np.int64]
CHUNK = 1024  # positions read at a time, once a stream is under way


@dataclass(frozen=True)
class Context:
    """Who iterates: of `count` workers (or ranks times workers) number `index`, in this epoch."""

    epoch: int = 0
    index: int = 0
    count: int = 1

    @property
    def whole(self) -> Context:
        """The same, of all rows."""
        return replace(self, index=0, count=1)


class Run:
    """Rows, one after the other. `state()` is where the next comes from: JSON, of a size that rows do not change."""

    def __next__(self) -> Row:
        raise NotImplementedError

    def state(self) -> Any:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Row]:
        return self

    def lists(self, num_rows: int) -> dict[str, list[Any]] | None:
        """The next so many rows as columns, fewer at the end; None when there are no more."""
        rows = []
        for _ in range(num_rows):
            try:
                rows.append(next(self))
            except StopIteration:
                break
        return columns_of(rows) if rows else None


def pair(state: Any) -> tuple[Any, int]:
    """The state of what is below, and a count; from the start, none and 0."""
    return (None, 0) if state is None else (state[0], int(state[1]))


def triple(state: Any) -> tuple[Any, int, int]:
    """The state of what is below at the start of a block, the block's number, and how much of it was handed out."""
    return (None, 0, 0) if state is None else (state[0], int(state[1]), int(state[2]))


def shares(total: int, count: int, index: int, contiguous: bool) -> range:
    """Which of `total` files, or shards, are part `index` of `count`."""
    if not contiguous:
        return range(index, total, count)
    each, rest = divmod(total, count)
    start = index * each + min(index, rest)
    return range(start, start + each + (index < rest))


def columns_of(rows: list[Row]) -> dict[str, list[Any]]:
    """Rows as columns; a key that a row lacks is None there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


class Node:
    """A step. `num_rows` is known where rows are numbered; then `rows` and `table` read any of them."""

    num_rows: int | None = None
    features: Features | None = None
    splits = True  # whether workers may each run the step over their part of what is below it
    passes = False  # whether its rows are those below it, each as it is

    def children(self) -> list[Node]:
        return []

    def run(self, state: Any, context: Context) -> Run:
        """Rows from a state on (None: from the start), for one of the workers."""
        if self.num_rows is not None:
            return Numbered(self, state, context)
        if context.count > 1 and not self.splits:
            return Strided(self, state, context)
        return self.start(state, context)

    def start(self, state: Any, context: Context) -> Run:
        raise NotImplementedError

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        raise NotImplementedError

    def table(self, positions: Positions, epoch: int) -> pa.Table | None:
        """The rows in Arrow; None if they pass through Python on their way."""
        return None

    def shuffled(self, seed: int, buffer_size: int, num_files: int) -> Node:
        """The step over shuffled rows, in the best way there is."""
        from martlet.datasets.streams.shuffling import BlockShuffled

        mixed = self.mixed(seed, num_files)
        return mixed if self.num_rows is not None else BlockShuffled(mixed, seed, buffer_size)

    def mixed(self, seed: int, num_files: int) -> Node:
        """The same rows before those of a buffer are shuffled: numbered ones permuted, files in an order of (seed,
        epoch), `num_files` of them read in turn. Steps that count what comes before a row keep the order below them.
        """
        from martlet.datasets.streams.shuffling import Shuffled

        return Shuffled(self, seed) if self.num_rows is not None else self

    def over(self, children: list[Node]) -> Node:
        """The same step over other steps."""
        new = copy.copy(self)
        new.__dict__.update({"_children": children} if "_children" in self.__dict__ else {"_child": children[0]})
        return new

    def sharded(self, count: int, index: int, contiguous: bool) -> Node:
        """Part `index` of `count`: of numbered rows by number, else whole files where there are enough, or every so
        manyth row.
        """
        from martlet.datasets.streams.numbered import Every, Part
        from martlet.datasets.streams.unnumbered import Sharded

        if self.num_rows is None:
            return Sharded(self, count, index)
        num_shards = max(1, len(shares(self.num_shards, count, index, contiguous)))
        if not contiguous:
            return Every(self, index, count, num_shards)
        mine = shares(self.num_rows, count, index, contiguous)
        return Part(self, mine.start, mine.stop, num_shards)

    def decoding(self, features: Features) -> Node | None:
        """The same rows, media decoded or not as `features` say; None where a step needs them as they are."""
        children = [child.decoding(features) for child in self.children()] if self.passes else []
        if not children or None in children:
            return None
        new = self.over([child for child in children if child is not None])
        new.features = features
        return new

    @property
    def num_shards(self) -> int:
        """Files, or parts, that can be read on their own."""
        return min((child.num_shards for child in self.children()), default=1)


class Numbered(Run):
    """Every `count`-th row from `index` on, by number: the state is how many were handed out."""

    def __init__(self, node: Node, state: Any, context: Context) -> None:
        assert node.num_rows is not None
        self._node, self._context = node, context
        self._done = int(state or 0)
        self._total = max(0, -(-(node.num_rows - context.index) // context.count))
        self._rows: Iterator[Row] = iter(())
        self._columns: dict[str, list[Any]] | None = None  # rows that were read and are not handed out, as columns
        self._ready = 0
        self._chunk = 16

    def _positions(self, count: int) -> Positions:
        numbers = np.arange(self._done, self._done + count, dtype=np.int64)
        return numbers * self._context.count + self._context.index

    def _read(self, wanted: int) -> bool:
        """Some rows ahead: as columns where no Python is run for them, else as an iterator. False at the end."""
        count = min(max(wanted, self._chunk), self._total - self._done)
        if count <= 0:
            return False
        self._chunk, self._ready = min(CHUNK, self._chunk * 4), count
        table = self._node.table(self._positions(count), self._context.epoch)
        if table is None:
            self._rows = self._node.rows(self._positions(count), self._context.epoch)
        else:
            self._columns = lists_of(table, self._node.features)
        return True

    def __next__(self) -> Row:
        if not self._ready and not self._read(1):
            raise StopIteration
        if self._columns is not None:
            self._rows, self._columns = iter(as_rows(self._columns, self._ready)), None
        row = next(self._rows)
        self._ready -= 1
        self._done += 1
        return row

    def lists(self, num_rows: int) -> dict[str, list[Any]] | None:
        if not self._ready and not self._read(min(num_rows, self._total)):
            return None
        if self._columns is None or self._ready < min(num_rows, self._total - self._done):
            return super().lists(num_rows)
        count = min(num_rows, self._ready)
        found = {name: values[:count] for name, values in self._columns.items()}
        self._columns = {name: values[count:] for name, values in self._columns.items()}
        self._ready -= count
        self._done += count
        if not self._ready:
            self._columns = None
        return found

    def arrow(self, num_rows: int) -> pa.Table | None:
        """The next rows as a table, if they need no Python."""
        count = min(num_rows, self._total - self._done)
        if self._ready or count <= 0:
            return None
        table = self._node.table(self._positions(count), self._context.epoch)
        if table is not None:
            self._done += count
        return table

    def state(self) -> Any:
        return self._done


class Refilled(Run):
    """Rows made some at a time, by `_more`, of the rows below.

    The state is where those at hand start, how much came before them, and how many of them were handed out: going on
    makes them again.
    """

    def __init__(self, child: Node, state: Any, context: Context) -> None:
        self._at, self._count, done = triple(state)
        self._run = child.run(self._at, context)
        self._rows: list[Row] = []
        self._taken = self._done = 0
        if done:
            self._refill()
            self._done = done

    def _more(self) -> tuple[list[Row], int] | None:
        """The next rows, and how much they add to the count; None at the end."""
        raise NotImplementedError

    def _refill(self) -> bool:
        self._count += self._taken
        self._at, self._rows, self._done, self._taken = self._run.state(), [], 0, 0
        made = self._more()
        if made is not None:
            self._rows, self._taken = made
        return made is not None

    def __next__(self) -> Row:
        while self._done >= len(self._rows):
            if not self._refill():
                raise StopIteration
        self._done += 1
        return self._rows[self._done - 1]

    def state(self) -> Any:
        if self._done >= len(self._rows):
            return [self._run.state(), self._count + self._taken, 0]
        return [self._at, self._count, self._done]


class Strided(Run):
    """Every `count`-th row of a step that only makes sense over all rows: each worker runs all of it."""

    def __init__(self, node: Node, state: Any, context: Context) -> None:
        inner, self._seen = pair(state)
        self._run, self._context = node.run(inner, context.whole), context

    def __next__(self) -> Row:
        while True:
            row = next(self._run)
            self._seen += 1
            if (self._seen - 1) % self._context.count == self._context.index:
                return row

    def state(self) -> Any:
        return [self._run.state(), self._seen]


def lists_of(table: pa.Table, features: Features | None) -> dict[str, list[Any]]:
    """A table as columns of Python values, decoded."""
    from martlet.datasets.formatting import python_lists
    from martlet.datasets.tables import Rows

    names = table.column_names
    known = features if features is not None else Features.from_arrow_schema(table.schema)
    lists = Rows(table).span(0, table.num_rows, range(len(names)))
    return dict(zip(names, python_lists(lists, names, known), strict=True))


def rows_of(table: pa.Table, features: Features | None) -> list[Row]:
    """A table as rows of Python values, decoded."""
    return as_rows(lists_of(table, features), table.num_rows)


def as_rows(columns: dict[str, list[Any]], num_rows: int) -> list[Row]:
    """Columns as rows."""
    from martlet.datasets.tables import dict_maker

    return dict_maker(tuple(columns))(list(columns.values())) if columns else [{} for _ in range(num_rows)]
