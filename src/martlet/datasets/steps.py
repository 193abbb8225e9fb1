"""What map, filter and the column verbs do to a block of rows. Where blocks come from and go to is not known here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets.dataset import Dataset
from martlet.datasets.features import Features
from martlet.datasets.formatting import PLAIN, Format, python_lists
from martlet.datasets.kinds import Json, LargeList, List
from martlet.datasets.lazy import LazyBatch, LazyRow, named_columns
from martlet.datasets.outputs import Kinds, cast_table, columns_of, joined, rows_as_columns
from martlet.datasets.selection import Positions
from martlet.datasets.stored import Stored, digest
from martlet.datasets.tables import Rows, dict_maker
from martlet.errors import MapError

ASYNC_CALLS = 1000  # coroutines of one block that run at a time


@dataclass(frozen=True)
class Function:
    """A function and how it is called, shared by map and filter."""

    call: Callable[..., Any] = field(repr=False)
    batched: bool = False
    batch_size: int | None = 1000  # None: all rows
    with_indices: bool = False
    with_rank: bool = False
    inputs: tuple[str, ...] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    form: Format = PLAIN
    key: str = ""  # of the function, its arguments and its closure; "" where no key is needed

    @property
    def name(self) -> str:
        """What errors and plans call it."""
        return getattr(self.call, "__qualname__", None) or type(self.call).__name__

    @property
    def group(self) -> int | None:
        """Rows that must come together: 1 for a function of a row, None for all."""
        return self.batch_size if self.batched else 1

    def words(self) -> str:
        """Key of how it is called."""
        form = (self.form.kind, self.form.columns, self.form.with_all, sorted(self.form.options.items(), key=str))
        return repr((self.batched, self.group, self.with_indices, self.with_rank, self.inputs, form))

    def __call__(self, given: Any, at: Any, rank: int) -> Any:
        """Calls it: `given` is a row, a batch, or a tuple of the columns in `inputs`."""
        args = given if self.inputs is not None else (given,)
        if self.with_indices:
            args = (*args, at)
        if self.with_rank:
            args = (*args, rank)
        return self.call(*args, **self.kwargs)


class Block:
    """Neighbouring rows of a step's input: a table, and the number of the first row."""

    def __init__(self, table: pa.Table, features: Features, first: int) -> None:
        self.table, self.features, self.first = table, features, first
        self.rows = Rows(table)
        self.names: list[str] = table.column_names
        self.filled = 0

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def lists(self, names: list[str], begin: int, end: int) -> list[list[Any]]:
        """Columns as Python sees them."""
        columns = [self.names.index(name) for name in names]
        return python_lists(self.rows.span(begin, end, columns), names, self.features)

    def whole_row(self, at: int) -> dict[str, Any]:
        """A row with all its columns."""
        self.filled += 1
        values = self.rows.one(at, range(len(self.names)))
        return self.features.decode_example(dict(zip(self.names, values, strict=True)))

    def dataset(self, form: Format) -> Dataset:
        """The block as a dataset in a format."""
        new = Dataset(Stored(self.table, self.features))
        new._form = form
        return new


class RowCalls:
    """Calls of a function of one row. The columns it names are read ahead, all of them if it looks at all."""

    def __init__(self, function: Function, names: list[str]) -> None:
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function.call)
        self.plain: list[Any] | None = None  # the rows of the last call, where all of each was read ahead
        self.ahead = list(function.inputs) if function.inputs is not None else named_columns(function.call, names)

    def given(self, block: Block) -> Iterable[Any]:
        """What the function is given, row by row."""
        function = self.function
        if function.form.kind is not None:
            rows = block.dataset(function.form)
            return rows if function.inputs is None else (tuple(row[name] for name in function.inputs) for row in rows)
        lists = block.lists(self.ahead, 0, len(block))
        if function.inputs is not None:
            return zip(*lists, strict=True) if lists else (() for _ in range(len(block)))
        if len(self.ahead) == len(block.names):
            return dict_maker(tuple(block.names))([lists[self.ahead.index(name)] for name in block.names])
        return self._lazy_rows(block, dict_maker(tuple(self.ahead))(lists) if lists else [{}] * len(block))

    def _lazy_rows(self, block: Block, plain: list[dict[str, Any]]) -> Iterable[LazyRow]:
        for at, values in enumerate(plain):
            row = LazyRow(values)
            row.block, row.at = block, at
            yield row

    def __call__(self, block: Block, rank: int) -> list[Any]:
        """What the function returns, row by row."""
        function, given = self.function, self.given(block)
        self.plain = given if isinstance(given, list) and function.inputs is None else None
        if self.is_async:
            out: list[Any] = asyncio.run(self._gathered(block, given, rank))
        elif not function.with_indices and not function.with_rank and function.inputs is None:
            call, kwargs = function.call, function.kwargs
            out = [call(row, **kwargs) for row in given] if kwargs else [call(row) for row in given]
        else:
            out = [function(row, at, rank) for at, row in enumerate(given, block.first)]
        if block.filled * 2 > len(block) and function.inputs is None and function.form.kind is None:
            self.ahead = list(block.names)
        return out

    async def _gathered(self, block: Block, given: Iterable[Any], rank: int) -> list[Any]:
        gate = asyncio.Semaphore(ASYNC_CALLS)

        async def one(row: Any, at: int) -> Any:
            async with gate:
                return await self.function(row, at, rank)

        return list(await asyncio.gather(*(one(row, at) for at, row in enumerate(given, block.first))))


class BatchCalls:
    """Calls of a function of a batch."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function.call)

    def given(self, block: Block) -> Any:
        """What the function is given."""
        function = self.function
        form = function.form
        if form.kind in ("arrow", "pandas", "polars", "custom"):
            batch = block.dataset(form)[:]
        elif form.kind is not None:
            whole = block.dataset(form)
            names = whole._named(form)[0]
            batch = LazyBatch(names, lambda name: whole._column_at(name, slice(None)))
        else:
            batch = LazyBatch(block.names, lambda name: block.lists([name], 0, len(block))[0])
        return batch if function.inputs is None else tuple(batch[name] for name in function.inputs)

    def __call__(self, given: Any, block: Block, rank: int) -> Any:
        """What the function returns."""
        indices = list(range(block.first, block.first + len(block)))
        output = self.function(given, indices, rank)
        return asyncio.run(output) if self.is_async else output


@dataclass(frozen=True)
class MapStep:
    """New columns by a function; old ones stay unless removed or returned again."""

    function: Function
    removed: tuple[str, ...] = ()
    features: Features | None = None
    drop_last: bool = False
    on_mixed_types: str | None = None
    keeps_kinds: bool = True  # a column that is returned again keeps its kind if its values fit

    @property
    def key(self) -> str:
        """The key of the step."""
        fixed = self.features.to_dict() if self.features is not None else None
        return digest(
            "map",
            self.function.key,
            self.function.words(),
            repr((self.removed, fixed, self.drop_last, self.on_mixed_types, self.keeps_kinds)),
        )

    @property
    def keeps_count(self) -> bool:
        """Whether it surely gives a row for a row."""
        return not self.function.batched

    @property
    def is_local(self) -> bool:
        """Whether a row's result depends on that row alone."""
        return not self.function.batched and not self.function.with_indices

    def words(self) -> str:
        """The step, as a plan shows it."""
        size = f", batches of {self.function.batch_size}" if self.function.batched else ""
        return f"map {self.function.name}{size}"

    def make(self, features: Features) -> Any:
        """The work on rows with these features."""
        return _MapWork(self, features)


def without(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The row but for some columns."""
    return {name: value for name, value in row.items() if name not in names}


class _MapWork:
    def __init__(self, step: MapStep, features: Features) -> None:
        self.step, self.features = step, features
        self.kinds = Kinds(step.features, features if step.keeps_kinds else None, step.on_mixed_types)
        self.calls: Any = (
            BatchCalls(step.function) if step.function.batched else RowCalls(step.function, list(features))
        )

    def __call__(self, block: Block, rank: int, where: str) -> tuple[pa.Table, Features] | None:
        """The block's result; None where the function is for its side effects (it returned None)."""
        columns = (
            self._of_batch(block, rank, where) if self.step.function.batched else self._of_rows(block, rank, where)
        )
        if columns is None:
            return block.table, block.features
        kept = {name: block.table.column(name) for name in block.names if name not in self.step.removed}
        unordered = {**kept, **columns}
        order = [name for name in block.names if name in unordered] + [n for n in unordered if n not in block.names]
        if self.step.features is not None:
            order = [name for name in self.step.features if name in unordered] + [
                n for n in order if n not in self.step.features
            ]
        merged = {name: unordered[name] for name in order}
        counts = {name: len(values) for name, values in columns.items()}
        if kept.keys() - columns.keys() and any(count != len(block) for count in counts.values()):
            found = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
            remedy = "If the function changes the number of rows, give remove_columns=ds.column_names."
            raise MapError(where, f"columns that stay have {len(block)} rows", found=found, remedy=remedy)
        if self.step.features is not None:
            return self.kinds.table(merged, where)
        for name in kept.keys() - columns.keys():
            self.kinds.known[name] = block.features[name]
        return self._table(merged, columns, block, where)

    def _table(
        self, merged: dict[str, Any], new: Mapping[str, Any], block: Block, where: str
    ) -> tuple[pa.Table, Features]:
        arrays, features = [], Features()
        for name, values in merged.items():
            arrays.append(self.kinds.array(name, values, where) if name in new else values)
            features[name] = self.kinds.known[name]
        if len({len(array) for array in arrays}) > 1:
            found = ", ".join(f"{name!r} has {len(array)}" for name, array in zip(merged, arrays, strict=True))
            raise MapError(where, "the columns that the function returns must be equally long", found=found)
        return pa.Table.from_arrays(arrays, schema=features.arrow_schema), features

    def _of_rows(self, block: Block, rank: int, where: str) -> dict[str, Any] | None:
        rows, removed = self.calls(block, rank), self.step.removed
        if removed and self.calls.plain is not None:
            # a row that is handed back is what stays of it
            rows = [
                without(row, removed) if row is own else row for row, own in zip(rows, self.calls.plain, strict=True)
            ]
        if not any(isinstance(row, LazyRow) for row in rows):
            return rows_as_columns(rows, where, block.first)
        changeable = {name for name, kind in block.features.items() if isinstance(kind, dict | List | LargeList | Json)}
        written: set[str] = set()
        for row in rows:
            written.update(getattr(row, "written", ()))
        names = [name for name in block.names if name in written or (name in changeable and name in self.calls.ahead)]
        order: list[str] = [name for row in rows if isinstance(row, LazyRow) for name in row if name in written]
        names += [name for name in dict.fromkeys(order) if name not in block.names]
        names = [name for name in names if name not in removed]
        rows = [{name: row[name] for name in names if name in row} if isinstance(row, LazyRow) else row for row in rows]
        return rows_as_columns(rows, where, block.first) if names else {}

    def _of_batch(self, block: Block, rank: int, where: str) -> dict[str, Any] | None:
        given = self.calls.given(block)
        output = self.calls(given, block, rank)
        if isinstance(output, LazyBatch):
            stays = output.looked_at() - set(self.step.removed)
            output = {name: output[name] for name in output if name in stays}
        return columns_of(output, where)


@dataclass(frozen=True)
class FilterStep:
    """Rows for which a function is true."""

    function: Function

    @property
    def key(self) -> str:
        """The key of the step."""
        return digest("filter", self.function.key, self.function.words())

    keeps_count = False

    @property
    def is_local(self) -> bool:
        """Whether a row's result depends on that row alone."""
        return not self.function.batched and not self.function.with_indices

    def words(self) -> str:
        """The step, as a plan shows it."""
        return f"filter {self.function.name}"

    def make(self, features: Features) -> Any:
        """The work on rows with these features."""
        return _FilterWork(self, features)


class _FilterWork:
    def __init__(self, step: FilterStep, features: Features) -> None:
        self.step = step
        self.calls: Any = (
            BatchCalls(step.function) if step.function.batched else RowCalls(step.function, list(features))
        )

    def mask(self, block: Block, rank: int, where: str) -> np.ndarray[Any, Any]:
        """Which rows stay."""
        if self.step.function.batched:
            output = self.calls(self.calls.given(block), block, rank)
            output = output.to_pylist() if hasattr(output, "to_pylist") else output
            if isinstance(output, Mapping) or not hasattr(output, "__len__"):
                rule = "a batched filter must return a list of truth values"
                raise MapError(where, rule, found=type(output).__name__)
            if len(output) != len(block):
                raise MapError(
                    where, f"a filter of {len(block)} rows must return as many truth values", found=len(output)
                )
        else:
            output = self.calls(block, rank)
        return np.fromiter((bool(value) for value in output), bool, len(block))

    def __call__(self, block: Block, rank: int, where: str) -> tuple[pa.Table, Features]:
        """The rows that stay."""
        return block.table.filter(pa.array(self.mask(block, rank, where))), block.features


@dataclass(frozen=True)
class ColumnsStep:
    """Some columns, in an order, under other names."""

    names: tuple[str, ...]
    renamed: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key of the step."""
        return digest("columns", repr((self.names, self.renamed)))

    keeps_count = is_local = True

    def words(self) -> str:
        """The step, as a plan shows it."""
        return f"columns {', '.join(self.renamed)}"

    def make(self, features: Features) -> Any:
        """The work on rows with these features."""

        def work(block: Block, rank: int, where: str) -> tuple[pa.Table, Features]:
            stored = Stored(block.table, block.features).columns(self.names, self.renamed)
            return stored.table, stored.features

        return work


@dataclass(frozen=True)
class CastStep:
    """Columns cast to features."""

    features: Features

    @property
    def key(self) -> str:
        """The key of the step."""
        return digest("cast", repr(self.features.to_dict()))

    keeps_count = is_local = True

    def words(self) -> str:
        """The step, as a plan shows it."""
        return f"cast to {', '.join(f'{name}: {kind!r}' for name, kind in self.features.items())}"

    def make(self, features: Features) -> Any:
        """The work on rows with these features."""
        return lambda block, rank, where: (cast_table(block.table, self.features), self.features)


Step = MapStep | FilterStep | ColumnsStep | CastStep


def group_of(step: Step) -> int | None:
    """Rows that must come together for a step."""
    return step.function.group if isinstance(step, MapStep | FilterStep) else 1


class Chain:
    """Steps one after another over blocks of rows. Blocks hold whole batches of every batched step."""

    def __init__(self, steps: tuple[Step, ...], features: Features) -> None:
        self.steps = steps
        self._works: list[Any] = [None] * len(steps)
        self.is_starved = False  # a map was given no rows, so its columns are not known
        self._features = features

    def __call__(self, block: Block, rank: int) -> tuple[pa.Table, Features]:
        """The block's result. MapError names the rows; `CountChanged` says that the chain must be cut."""
        table, features, counts_kept = block.table, block.features, True
        for number, step in enumerate(self.steps):
            if not counts_kept and not step.is_local:
                raise CountChanged(number)
            if self._works[number] is None:
                self._works[number] = step.make(features)
            before = table.num_rows
            self.is_starved |= isinstance(step, MapStep) and not before
            table, features = self._step(number, step, Block(table, features, block.first), rank)
            counts_kept = counts_kept and table.num_rows == before and not isinstance(step, FilterStep)
        return table, features

    def _step(self, number: int, step: Step, block: Block, rank: int) -> tuple[pa.Table, Features]:
        work, size = self._works[number], group_of(step)
        if not isinstance(step, MapStep | FilterStep) or not step.function.batched or size is None:
            return (
                work(block, rank, _where(step, block))
                if len(block) or isinstance(step, ColumnsStep | CastStep)
                else (block.table, block.features)
            )
        parts = []
        for begin in range(0, len(block), size):
            end = min(begin + size, len(block))
            if end - begin < size and isinstance(step, MapStep) and step.drop_last:
                break
            part = Block(block.table.slice(begin, end - begin), block.features, block.first + begin)
            parts.append(work(part, rank, _where(step, part)))
        if not parts:
            return block.table.slice(0, 0), block.features
        return parts[0] if len(parts) == 1 else joined(parts, _where(step, block))


class CountChanged(Exception):
    """A step gave more or fewer rows than it got, and step `number` after it needs whole batches."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _where(step: Step, block: Block) -> str:
    return f"{step.words()}, rows {block.first:,} to {block.first + len(block) - 1:,}"


def masked(step: FilterStep, work: Any, block: Block, rank: int) -> Positions:
    """Numbers of the rows that a filter keeps."""
    size = step.function.group
    if not step.function.batched or size is None:
        return np.flatnonzero(work.mask(block, rank, _where(step, block)))
    out = []
    for begin in range(0, len(block), size):
        part = Block(block.table.slice(begin, min(size, len(block) - begin)), block.features, block.first + begin)
        out.append(begin + np.flatnonzero(work.mask(part, rank, _where(step, part))))
    return np.concatenate(out) if out else np.empty(0, np.int64)
