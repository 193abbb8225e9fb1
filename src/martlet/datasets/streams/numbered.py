"""Steps that keep rows numbered: parts, repeats, rows put together, columns, functions of one row, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets.config import async_calls
from martlet.datasets.features import Features
from martlet.datasets.streams.node import CHUNK, Context, Node, Positions, Refilled, Row, Run, columns_of, pair


class Part(Node):
    """Rows `start` up to `stop`; `is_fixed`: the same rows in every epoch, by the order of epoch 0 below it."""

    passes = True

    def __init__(
        self, child: Node, start: int, stop: int | None, num_shards: int | None = None, *, is_fixed: bool = False
    ) -> None:
        self._num_shards, self._is_fixed = num_shards, is_fixed
        assert child.num_rows is not None
        stop = child.num_rows if stop is None else min(stop, child.num_rows)
        self._child, self._start = child, min(start, child.num_rows)
        self.num_rows, self.features = max(0, stop - self._start), child.features

    def children(self) -> list[Node]:
        return [self._child]

    @property
    def num_shards(self) -> int:
        return self._num_shards or super().num_shards

    def table(self, positions: Positions, epoch: int) -> pa.Table | None:
        return self._child.table(positions + self._start, 0 if self._is_fixed else epoch)

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        return self._child.rows(positions + self._start, 0 if self._is_fixed else epoch)


class Every(Node):
    """Every `step`-th row from `start`: a shard."""

    passes = True

    def __init__(self, child: Node, start: int, step: int, num_shards: int | None = None) -> None:
        self._num_shards = num_shards
        assert child.num_rows is not None
        self._child, self._start, self._step = child, start, step
        self.num_rows, self.features = max(0, -(-(child.num_rows - start) // step)), child.features

    def children(self) -> list[Node]:
        return [self._child]

    @property
    def num_shards(self) -> int:
        return self._num_shards or super().num_shards

    def table(self, positions: Positions, epoch: int) -> pa.Table | None:
        return self._child.table(positions * self._step + self._start, epoch)

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        return self._child.rows(positions * self._step + self._start, epoch)


class Again(Node):
    """All rows, so many times."""

    passes = True

    def __init__(self, child: Node, times: int) -> None:
        assert child.num_rows is not None
        self._child, self._count = child, child.num_rows
        self.num_rows, self.features = child.num_rows * times, child.features

    def children(self) -> list[Node]:
        return [self._child]

    def table(self, positions: Positions, epoch: int) -> pa.Table | None:
        return self._child.table(positions % self._count, epoch)

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        return self._child.rows(positions % self._count, epoch)


class _Several(Node):
    """Rows of several steps: `_placed` says of which step, and which row of it."""

    def __init__(self, children: Sequence[Node], features: Features | None) -> None:
        self._children, self.features = list(children), features

    def children(self) -> list[Node]:
        return self._children

    def _placed(self, positions: Positions) -> tuple[Positions, Positions]:
        raise NotImplementedError

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        which, within = self._placed(positions)
        runs = {
            number: self._children[number].rows(within[which == number], epoch) for number in np.unique(which).tolist()
        }
        names = list(self.features) if self.features is not None else None
        for number in which.tolist():
            row = next(runs[number])
            yield row if names is None or len(row) == len(names) else {name: row.get(name) for name in names}


class Joined(_Several):
    """All rows of the first, then of the second, ..."""

    def __init__(self, children: Sequence[Node], features: Features | None) -> None:
        super().__init__(children, features)
        self._starts = np.concatenate([[0], np.cumsum([child.num_rows for child in children])]).astype(np.int64)
        self.num_rows = int(self._starts[-1])

    def _placed(self, positions: Positions) -> tuple[Positions, Positions]:
        which = np.searchsorted(self._starts, positions, side="right") - 1
        return which, positions - self._starts[which]


class Alternated(_Several):
    """A row of each in turn, until one has given its last."""

    def __init__(self, children: Sequence[Node], features: Features | None) -> None:
        super().__init__(children, features)
        counts = [child.num_rows or 0 for child in children]
        shortest = min(counts)
        self.num_rows = (shortest - 1) * len(counts) + counts.index(shortest) + 1 if shortest else 0

    def _placed(self, positions: Positions) -> tuple[Positions, Positions]:
        return positions % len(self._children), positions // len(self._children)


class Beside(Node):
    """The columns of several steps with as many rows, side by side."""

    def __init__(self, children: Sequence[Node], features: Features | None) -> None:
        self._children, self.features = list(children), features
        self.num_rows = min(child.num_rows or 0 for child in children)

    def children(self) -> list[Node]:
        return self._children

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        for parts in zip(*(child.rows(positions, epoch) for child in self._children), strict=True):
            yield {name: value for part in parts for name, value in part.items()}


class Columns(Node):
    """Some columns, under other names perhaps: `names` is old to new."""

    def __init__(self, child: Node, names: Mapping[str, str], features: Features | None) -> None:
        self._child, self._names = child, dict(names)
        self.num_rows, self.features = child.num_rows, features

    def children(self) -> list[Node]:
        return [self._child]

    def table(self, positions: Positions, epoch: int) -> pa.Table | None:
        table = self._child.table(positions, epoch)
        return None if table is None else table.select(list(self._names)).rename_columns(list(self._names.values()))

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        return map(self.one, self._child.rows(positions, epoch))

    def one(self, row: Row) -> Row:
        return {new: row[old] for old, new in self._names.items()}

    def start(self, state: Any, context: Context) -> Run:
        return Each(self._child.run(state, context), self.one)

    def shuffled(self, seed: int, buffer_size: int, num_files: int) -> Node:
        if self.num_rows is not None:
            return super().shuffled(seed, buffer_size, num_files)
        return self.over([self._child.shuffled(seed, buffer_size, num_files)])

    def mixed(self, seed: int, num_files: int) -> Node:
        if self.num_rows is not None:
            return super().mixed(seed, num_files)
        return self.over([self._child.mixed(seed, num_files)])


class Applied(Node):
    """A function of one row (and its number): `call(row, number) -> row`; `many`: of rows that wait together."""

    def __init__(
        self,
        child: Node,
        call: Callable[[Row, int], Row],
        features: Features | None,
        counts: bool,
        many: Callable[[list[Row], list[int]], list[Row]] | None = None,
    ) -> None:
        self._child, self._call, self._counts, self._many = child, call, counts, many
        self.num_rows, self.features = child.num_rows, features

    def children(self) -> list[Node]:
        return [self._child]

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        if self._many is not None:
            yield from self._many(list(self._child.rows(positions, epoch)), positions.tolist())
            return
        for row, number in zip(self._child.rows(positions, epoch), positions.tolist(), strict=True):
            yield self._call(row, number)

    @property
    def splits(self) -> bool:  # type: ignore[override]
        return not self._counts

    def start(self, state: Any, context: Context) -> Run:
        if self._many is not None:
            return Several(self._child, self._many, state, context)
        if not self._counts:
            return Each(self._child.run(state, context), lambda row: self._call(row, 0))
        return Counted(self._child, self._call, state, context)

    def shuffled(self, seed: int, buffer_size: int, num_files: int) -> Node:
        if self.num_rows is not None or self._counts:
            return super().shuffled(seed, buffer_size, num_files)
        return self.over([self._child.shuffled(seed, buffer_size, num_files)])

    def mixed(self, seed: int, num_files: int) -> Node:
        if self.num_rows is not None or self._counts:
            return super().mixed(seed, num_files)
        return self.over([self._child.mixed(seed, num_files)])


class Each(Run):
    """A function of each row, where rows are not numbered."""

    def __init__(self, run: Run, call: Callable[[Row], Row]) -> None:
        self._run, self._call = run, call

    def __next__(self) -> Row:
        return self._call(next(self._run))

    def state(self) -> Any:
        return self._run.state()


class Counted(Run):
    """A function of each row and how many came before it."""

    def __init__(self, child: Node, call: Callable[[Row, int], Row], state: Any, context: Context) -> None:
        inner, self._count = pair(state)
        self._run, self._call = child.run(inner, context), call

    def __next__(self) -> Row:
        row = next(self._run)
        self._count += 1
        return self._call(row, self._count - 1)

    def state(self) -> Any:
        return [self._run.state(), self._count]


class Several(Refilled):
    """A function of some neighbouring rows at a time, and their numbers."""

    def __init__(
        self, child: Node, call: Callable[[list[Row], list[int]], list[Row]], state: Any, context: Context
    ) -> None:
        self._call = call
        super().__init__(child, state, context)

    def _more(self) -> tuple[list[Row], int] | None:
        rows = list(islice(self._run, async_calls()))
        return (self._call(rows, list(range(self._count, self._count + len(rows)))), len(rows)) if rows else None


class Lists(Node):
    """`size` rows as one, a list a column."""

    def __init__(self, child: Node, size: int, drops_last: bool, features: Features | None) -> None:
        assert child.num_rows is not None
        self._child, self._size, self._total = child, size, child.num_rows
        self.num_rows = child.num_rows // size if drops_last else -(-child.num_rows // size)
        self.features = features

    def children(self) -> list[Node]:
        return [self._child]

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        group = max(1, CHUNK // self._size)
        for first in range(0, len(positions), group):
            starts = positions[first : first + group] * self._size
            inside = (starts[:, None] + np.arange(self._size, dtype=np.int64)).ravel()
            rows = self._child.rows(inside[inside < self._total], epoch)
            for start in starts.tolist():
                yield columns_of(list(islice(rows, min(self._size, self._total - start))))
