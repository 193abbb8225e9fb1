"""Steps after which rows have no numbers: filters, functions of batches, draws; and parts of such streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from martlet.datasets.config import batches_beside
from martlet.datasets.features import Features
from martlet.datasets.streams.node import Context, Node, Refilled, Row, Run, columns_of, pair
from martlet.errors import DatasetError

Columns = dict[str, list[Any]]
Many = Callable[[Sequence[tuple[Columns, int]]], list[Columns]]
DRAWS = 1000  # drawn at a time, as Hugging Face's library does: the same seed gives the same order


class Filtered(Node):
    """The rows for which `call(row, number)` is true."""

    def __init__(self, child: Node, call: Callable[[Row, int], bool], counts: bool) -> None:
        self._child, self._call, self._counts = child, call, counts
        self.features, self.splits = child.features, not counts

    def children(self) -> list[Node]:
        return [self._child]

    def sharded(self, count: int, index: int, contiguous: bool) -> Node:
        if self._counts:
            return super().sharded(count, index, contiguous)
        return Filtered(self._child.sharded(count, index, contiguous), self._call, False)

    def start(self, state: Any, context: Context) -> Run:
        return _FilteredRun(self._child, self._call, state, context)

    def shuffled(self, seed: int, buffer_size: int, num_files: int) -> Node:
        if self._counts:
            return super().shuffled(seed, buffer_size, num_files)
        return self.over([self._child.shuffled(seed, buffer_size, num_files)])

    def mixed(self, seed: int, num_files: int) -> Node:
        return self if self._counts else self.over([self._child.mixed(seed, num_files)])


class _FilteredRun(Run):
    def __init__(self, child: Node, call: Callable[[Row, int], bool], state: Any, context: Context) -> None:
        inner, self._count = pair(state)
        self._run, self._call = child.run(inner, context), call

    def __next__(self) -> Row:
        while True:
            row = next(self._run)
            self._count += 1
            if self._call(row, self._count - 1):
                return row

    def state(self) -> Any:
        return [self._run.state(), self._count]


class Batched(Node):
    """A function of `size` rows as columns, and the number of the first: what it returns are the rows.

    `many` is the same of several batches, whose coroutines wait side by side.
    """

    def __init__(
        self,
        child: Node,
        call: Callable[[Columns, int], Columns],
        size: int | None,
        drops_last: bool,
        features: Features | None,
        counts: bool,
        many: Many | None = None,
    ) -> None:
        self._child, self.call, self.size, self.drops_last = child, call, size, drops_last
        self._counts, self.features, self.splits, self.many = counts, features, not counts, many

    def children(self) -> list[Node]:
        return [self._child]

    def sharded(self, count: int, index: int, contiguous: bool) -> Node:
        if self._counts:
            return super().sharded(count, index, contiguous)
        return self.over([self._child.sharded(count, index, contiguous)])

    def start(self, state: Any, context: Context) -> Run:
        return _BatchedRun(self, state, context)

    def shuffled(self, seed: int, buffer_size: int, num_files: int) -> Node:
        if self._counts:
            return super().shuffled(seed, buffer_size, num_files)
        return self.over([self._child.shuffled(seed, buffer_size, num_files)])

    def mixed(self, seed: int, num_files: int) -> Node:
        return self if self._counts else self.over([self._child.mixed(seed, num_files)])


class _BatchedRun(Refilled):
    """What came before is counted in rows below."""

    def __init__(self, node: Batched, state: Any, context: Context) -> None:
        self._node = node
        self._beside = batches_beside(node.size) if node.many is not None else 1
        super().__init__(node.children()[0], state, context)

    def _more(self) -> tuple[list[Row], int] | None:
        node, taken = self._node, 0
        batches: list[tuple[Columns, int]] = []
        while len(batches) < self._beside and (columns := self._run.lists(node.size or 1 << 62)) is not None:
            count = len(next(iter(columns.values()), []))
            if node.drops_last and node.size is not None and count < node.size:
                break
            batches.append((columns, self._count + taken))
            taken += count
        if not batches:
            return None
        made = node.many(batches) if node.many is not None else [node.call(*batches[0])]
        rows = [
            dict(zip(columns, values, strict=True))
            for columns in made
            for values in zip(*columns.values(), strict=True)
        ]
        return rows, taken


class Limited(Node):
    """After the first `skip` rows, at most `take`: counted over all workers' rows, in the order of epoch 0."""

    splits, passes = False, True

    def __init__(self, child: Node, skip: int, take: int | None) -> None:
        self._child, self._skip, self._take, self.features = child, skip, take, child.features

    def children(self) -> list[Node]:
        return [self._child]

    def start(self, state: Any, context: Context) -> Run:
        return _LimitedRun(self._child, self._skip, self._take, state, context)


class _LimitedRun(Run):
    def __init__(self, child: Node, skip: int, take: int | None, state: Any, context: Context) -> None:
        inner, self._seen = pair(state)
        self._run, self._skip = child.run(inner, replace(context, epoch=0)), skip
        self._stop = None if take is None else skip + take

    def __next__(self) -> Row:
        while self._seen < self._skip:
            next(self._run)
            self._seen += 1
        if self._stop is not None and self._seen >= self._stop:
            raise StopIteration
        row = next(self._run)
        self._seen += 1
        return row

    def state(self) -> Any:
        return [self._run.state(), self._seen]


class Repeated(Node):
    """All rows again and again: `times` times, or for ever."""

    passes = True

    def __init__(self, child: Node, times: int | None) -> None:
        self._child, self._times, self.features = child, times, child.features

    def children(self) -> list[Node]:
        return [self._child]

    def start(self, state: Any, context: Context) -> Run:
        return _RepeatedRun(self._child, self._times, state, context)

    def shuffled(self, seed: int, buffer_size: int, num_files: int) -> Node:
        return self.over([self._child.shuffled(seed, buffer_size, num_files)])

    def mixed(self, seed: int, num_files: int) -> Node:
        return self.over([self._child.mixed(seed, num_files)])


class _RepeatedRun(Run):
    def __init__(self, child: Node, times: int | None, state: Any, context: Context) -> None:
        inner, self._pass = pair(state)
        self._child, self._times, self._context = child, times, context
        self._run = child.run(inner, context)

    def __next__(self) -> Row:
        is_fresh = False
        while self._times is None or self._pass < self._times:
            try:
                return next(self._run)
            except StopIteration:
                if is_fresh:  # a pass without a row: there will be none in the next either
                    raise
                self._pass, is_fresh = self._pass + 1, True
                self._run = self._child.run(None, self._context)
        raise StopIteration

    def state(self) -> Any:
        return [self._run.state(), self._pass]


class Sharded(Node):
    """Part `index` of `count`, dealt out as to ranks: whole files where there are enough, else every so manyth row."""

    passes = True

    def __init__(self, child: Node, count: int, index: int) -> None:
        self._child, self._count, self._index, self.features = child, count, index, child.features

    def children(self) -> list[Node]:
        return [self._child]

    @property
    def num_shards(self) -> int:
        return max(1, len(range(self._index, self._child.num_shards, self._count)))

    def run(self, state: Any, context: Context) -> Run:
        index = self._index + self._count * context.index
        return self._child.run(state, Context(context.epoch, index, self._count * context.count))


class Chained(Node):
    """All rows of the first, then of the second, ..., where they are not numbered."""

    passes = True

    def __init__(self, children: Sequence[Node], features: Features | None) -> None:
        self._children, self.features = list(children), features

    def children(self) -> list[Node]:
        return self._children

    def mixed(self, seed: int, num_files: int) -> Node:
        return self.over([child.mixed(seed + number, num_files) for number, child in enumerate(self._children)])

    def start(self, state: Any, context: Context) -> Run:
        return _ChainedRun(self._children, self.features, state, context)


class _ChainedRun(Run):
    def __init__(self, children: list[Node], features: Features | None, state: Any, context: Context) -> None:
        self._number, inner = (0, None) if state is None else (int(state[0]), state[1])
        self._children, self._context, self._names = children, context, list(features) if features else None
        self._run = children[self._number].run(inner, context)

    def __next__(self) -> Row:
        while True:
            try:
                row = next(self._run)
                return row if self._names is None else {name: row.get(name) for name in self._names}
            except StopIteration:
                if self._number + 1 >= len(self._children):
                    raise
                self._number += 1
                self._run = self._children[self._number].run(None, self._context)

    def state(self) -> Any:
        return [self._number, self._run.state()]


class Drawn(Node):
    """Rows of several streams in turn, or drawn with probabilities, until `stopping` says so."""

    splits = False

    def __init__(
        self,
        children: Sequence[Node],
        probabilities: list[float] | None,
        seed: int | None,
        stopping: str,
        features: Any,
    ) -> None:
        self._children, self._probabilities = list(children), probabilities
        self._seed = seed if seed is not None else int(np.random.default_rng().integers(1 << 31))
        self._stopping, self.features = stopping, features

    def children(self) -> list[Node]:
        return self._children

    def mixed(self, seed: int, num_files: int) -> Node:
        return self.over([child.mixed(seed + number, num_files) for number, child in enumerate(self._children)])

    def start(self, state: Any, context: Context) -> Run:
        return _DrawnRun(self, state, context)

    def draws(self, number: int) -> list[int]:
        """The draws `number` times DRAWS and after."""
        count = len(self._children)
        if self._probabilities is None:
            return [(number * DRAWS + place) % count for place in range(DRAWS)]
        generator = np.random.default_rng(self._seed)
        for _ in range(number):
            generator.choice(count, size=DRAWS, p=self._probabilities)
        drawn: list[int] = generator.choice(count, size=DRAWS, p=self._probabilities).tolist()
        return drawn

    @property
    def stopping(self) -> str:
        return self._stopping


class _DrawnRun(Run):
    """One row of each stream is read ahead, to know whether it was the last."""

    def __init__(self, node: Drawn, state: Any, context: Context) -> None:
        count = len(node.children())
        states, place, exhausted = state or ([None] * count, 0, [False] * count)
        self._place = int(place)
        self._node, self._context, self._exhausted = node, context, list(exhausted)
        self._runs = [child.run(each, context) for child, each in zip(node.children(), states, strict=True)]
        self._states: list[Any] = list(states)
        self._next: list[Row | None] = [None] * count
        self._is_read = [False] * count
        self._draws = node.draws(self._place // DRAWS)
        self._names = list(node.features) if node.features is not None else None

    def _ahead(self, number: int) -> None:
        self._states[number] = self._runs[number].state()
        self._next[number] = next(self._runs[number], None)
        self._is_read[number] = True

    def _is_over(self) -> bool:
        return any(self._exhausted) if self._node.stopping == "first_exhausted" else all(self._exhausted)

    def __next__(self) -> Row:
        while not self._is_over():
            number = self._draws[self._place % DRAWS]
            self._place += 1
            if self._place % DRAWS == 0:
                self._draws = self._node.draws(self._place // DRAWS)
            is_once = self._node.stopping == "all_exhausted_without_replacement"
            if self._exhausted[number] and is_once:
                continue
            if not self._is_read[number]:
                self._ahead(number)
            row = self._next[number]
            self._ahead(number)
            if self._next[number] is None:
                self._exhausted[number] = True
                if not is_once:
                    self._runs[number] = self._node.children()[number].run(None, self._context)
                    self._states[number], self._is_read[number] = None, False
            if row is not None:
                return row if self._names is None else {name: row.get(name) for name in self._names}
            if all(self._exhausted):
                break
        raise StopIteration

    def state(self) -> Any:
        return [list(self._states), self._place, list(self._exhausted)]


class Zipped(Node):
    """The columns of several steps side by side, where rows are not numbered; all must end together."""

    splits = False

    def __init__(self, children: Sequence[Node], features: Features | None) -> None:
        self._children, self.features = list(children), features

    def children(self) -> list[Node]:
        return self._children

    def start(self, state: Any, context: Context) -> Run:
        return _ZippedRun(self._children, state, context)


class _ZippedRun(Run):
    def __init__(self, children: list[Node], state: Any, context: Context) -> None:
        states, self._count = ([None] * len(children), 0) if state is None else (state[0], int(state[1]))
        self._runs = [child.run(each, context.whole) for child, each in zip(children, states, strict=True)]

    def __next__(self) -> Row:
        parts = [next(run, None) for run in self._runs]
        if all(part is None for part in parts):
            raise StopIteration
        whole: Row = {}
        for number, part in enumerate(parts):
            if part is None:
                found = f"number {number} ended after {self._count}"
                raise DatasetError("concatenate_datasets()", "side by side, all need as many rows", found=found)
            if twice := sorted(whole.keys() & part.keys()):
                rule = "side by side, names must differ"
                raise DatasetError("concatenate_datasets()", rule, found=", ".join(twice))
            whole.update(part)
        self._count += 1
        return whole

    def state(self) -> Any:
        return [[run.state() for run in self._runs], self._count]


class Gathered(Node):
    """`size` rows as one, a list a column, where rows are not numbered."""

    splits = False

    def __init__(self, child: Node, size: int, drops_last: bool, features: Features | None) -> None:
        self._child, self._size, self._drops_last, self.features = child, size, drops_last, features

    def children(self) -> list[Node]:
        return [self._child]

    def start(self, state: Any, context: Context) -> Run:
        return _GatheredRun(self._child.run(state, context), self._size, self._drops_last)


class _GatheredRun(Run):
    def __init__(self, run: Run, size: int, drops_last: bool) -> None:
        self._run, self._size, self._drops_last = run, size, drops_last

    def __next__(self) -> Row:
        rows = []
        for row in self._run:
            rows.append(row)
            if len(rows) == self._size:
                break
        if not rows or (self._drops_last and len(rows) < self._size):
            raise StopIteration
        return columns_of(rows)

    def state(self) -> Any:
        return self._run.state()


class Grouped(Node):
    """Neighbouring rows that agree in the columns `keys` as one row, a list a column."""

    splits = False

    def __init__(self, child: Node, keys: Sequence[str], features: Features | None) -> None:
        self._child, self._keys, self.features = child, list(keys), features

    def children(self) -> list[Node]:
        return [self._child]

    def start(self, state: Any, context: Context) -> Run:
        return _GroupedRun(self._child.run(state, context), self._keys)


class _GroupedRun(Run):
    """One row is read ahead, to know where a group ends: the state is where that row comes from."""

    def __init__(self, run: Run, keys: list[str]) -> None:
        self._run, self._keys = run, keys
        self._at: Any = run.state()
        self._ahead: Row | None = None

    def __next__(self) -> Row:
        row = self._ahead if self._ahead is not None else next(self._run)
        rows, key = [], [row[name] for name in self._keys]
        found: Row | None = row
        while found is not None and [found[name] for name in self._keys] == key:
            rows.append(found)
            self._at = self._run.state()
            found = next(self._run, None)
        self._ahead = found
        return columns_of(rows)

    def state(self) -> Any:
        return self._at
