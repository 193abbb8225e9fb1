"""What map, filter and the column verbs do to a block of rows. Where blocks come from and go to is not known here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import is_
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets.calls import BatchCalls, Block, Function, RowCalls
from martlet.datasets.features import Features
from martlet.datasets.kinds import Json, LargeList, List
from martlet.datasets.lazy import LazyBatch
from martlet.datasets.outputs import Kinds, cast_table, columns_of, joined, rows_as_columns
from martlet.datasets.selection import Positions
from martlet.datasets.stored import Stored, digest
from martlet.errors import MapError, MartletError


@dataclass(frozen=True)
class MapStep:
    """New columns by a function; old ones stay unless removed or returned again."""

    function: Function
    removed: tuple[str, ...] = ()
    features: Features | None = None
    drop_last: bool = False
    on_mixed_types: str | None = None
    keeps_kinds: bool = True  # a column that is returned again keeps its kind if its values fit
    takes_nulls: bool = True

    @property
    def key(self) -> str:
        """The key of the step."""
        fixed = self.features.to_dict() if self.features is not None else None
        return digest(
            "map",
            self.function.key,
            self.function.words(),
            repr((self.removed, fixed, self.drop_last, self.on_mixed_types, self.keeps_kinds, self.takes_nulls)),
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


class _MapWork:
    def __init__(self, step: MapStep, features: Features) -> None:
        self.step, self.features = step, features
        self.names: list[str] = []  # of the columns that came out so far
        self.made = Features()  # of the last block, and their schema
        self.schema = self.made.arrow_schema
        self.kinds = Kinds(step.features, features if step.keeps_kinds else None, step.on_mixed_types)
        self.calls: Any = (
            BatchCalls(step.function) if step.function.batched else RowCalls(step.function, list(features))
        )

    def __call__(self, block: Block, rank: int, where: str) -> tuple[pa.Table, Features]:
        """The block's result; the block itself where the function is for its side effects (it returned None)."""
        table, features = self._made(block, rank, where)
        if table.num_rows:
            self.names = self.names or list(features)
            if set(self.names) != set(features):
                rule = "the function must return the same columns for all rows"
                found = f"the columns {', '.join(features)}, and {', '.join(self.names)} before"
                raise MapError(where, rule, found=found)
        lacking = [] if self.step.takes_nulls else [name for name in table.column_names if table[name].null_count]
        if lacking:
            raise MapError(where, "disable_nullable lets no value be missing", found=", ".join(map(repr, lacking)))
        return table, features

    def _made(self, block: Block, rank: int, where: str) -> tuple[pa.Table, Features]:
        made = self._of_batch(block, rank, where) if self.step.function.batched else self._of_rows(block, rank, where)
        if made is None:
            return block.table, block.features
        columns, gone = made
        stays = [] if gone is None else [name for name in block.names if name not in gone]
        kept = {name: block.table.column(name) for name in stays}
        unordered = {**kept, **columns}
        before = [] if gone is None else [name for name in block.names if name in unordered]
        order = before + [name for name in unordered if name not in before]
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
        if features != self.made or list(features) != list(self.made):
            self.made, self.schema = features, features.arrow_schema
        return pa.Table.from_arrays(arrays, schema=self.schema), self.made

    def _of_rows(self, block: Block, rank: int, where: str) -> Made | None:
        rows = self.calls(block, rank)
        first = next((row for row in rows if row is not None), None)
        if first is not None and not isinstance(first, Mapping):  # tables are rows as they shall be
            columns = rows_as_columns(rows, where, block.first)
            return None if columns is None else (columns, None)
        removed, given = set(self.step.removed), self.calls.rows
        touched = self.calls.touched(block) if given is not None else []
        if given is not None and first is not None and (touched or any(map(is_, rows, given))):
            return self._merged(rows, given, touched, block, where)
        try:
            columns = rows_as_columns(rows, where, block.first)
        except MapError:  # rows of different keys
            if given is None:
                raise
            return self._merged(rows, given, touched, block, where)
        return None if columns is None else (columns, removed)

    def _merged(
        self, rows: list[Any], given: list[dict[str, Any]], touched: list[str], block: Block, where: str
    ) -> Made:
        """What was returned over what was given: a row that is handed back is what has become of it, a column that a
        row does not return is as it was, and one that was taken out is gone.
        """
        removed = set(self.step.removed)
        own = [row is before for row, before in zip(rows, given, strict=True)]
        returned = [{} if is_own else row for row, is_own in zip(rows, own, strict=True)]
        for number, row in enumerate(returned, block.first):
            if not isinstance(row, Mapping):
                rule = "the function returned None for some rows and a dict for others"
                raise MapError(where, rule, found=f"{type(row).__name__} in row {number}")
        names = dict.fromkeys(name for name in touched if name not in removed)
        if any(own):  # what is in a column may have been changed in place
            names.update(
                (name, None)
                for name, kind in block.features.items()
                if isinstance(kind, dict | List | LargeList | Json) and name in self.calls.ahead and name not in removed
            )
        names.update(dict.fromkeys(name for row in returned for name in row))
        columns: dict[str, list[Any]] = {}
        taken_out: set[str] = set()
        for name in names:
            stays = name not in removed
            values = [
                row[name] if name in row else before[name] if stays and name in before else _NOTHING
                for row, before in zip(returned, given, strict=True)
            ]
            lacking = [number for number, value in enumerate(values) if value is _NOTHING]
            if not lacking:
                columns[name] = values
            elif len(lacking) == len(values):
                taken_out.add(name)
            else:
                remedy = f"Return {name!r} for every row, None where it has no value."
                rule = "the function must return the same columns for all rows"
                raise MapError(where, rule, found=f"no {name!r} in row {block.first + lacking[0]}", remedy=remedy)
        return columns, removed | taken_out

    def _of_batch(self, block: Block, rank: int, where: str) -> Made | None:
        given, output = self.calls.of(block, rank)
        removed = set(self.step.removed)
        if isinstance(output, LazyBatch):
            stays = output.looked_at() - removed
            output, returned = {name: output[name] for name in output if name in stays}, output
        else:
            returned = None
        columns = columns_of(output, where)
        if columns is None:
            return None
        if not isinstance(output, Mapping):  # tables are rows as they shall be
            return columns, None
        if not isinstance(given, LazyBatch) or self.step.function.form.kind is not None:
            return columns, removed
        taken_out = {name for name in given.written if name not in given}
        if returned is None and (written := given.written - removed - taken_out):
            columns = {**(columns_of({name: given[name] for name in sorted(written)}, where) or {}), **columns}
        return columns, removed | taken_out


# new columns, and which of the old ones do not stay: None for all of them, and their order
Made = tuple[dict[str, Any], set[str] | None]
_NOTHING = object()


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
            _, output = self.calls.of(block, rank)
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
        with placed(step, block):
            return self._done(number, step, block, rank)

    def _done(self, number: int, step: Step, block: Block, rank: int) -> tuple[pa.Table, Features]:
        work, size = self._works[number], group_of(step)
        if not isinstance(step, MapStep | FilterStep) or not step.function.batched or size is None:
            return (
                work(block, rank, _where(step, block))
                if len(block) or isinstance(step, ColumnsStep | CastStep)
                else (block.table, block.features)
            )
        batches = _batches(block, size, drops_last=isinstance(step, MapStep) and step.drop_last)
        if not batches:
            return block.table.slice(0, 0), block.features
        if work.calls.is_async:
            work.calls.look_ahead(batches, rank)
        parts = [work(batch, rank, _where(step, batch)) for batch in batches]
        return parts[0] if len(parts) == 1 else joined(parts, _where(step, block))


def _batches(block: Block, size: int, *, drops_last: bool) -> list[Block]:
    """The block in batches, without a short last one if it is to be dropped."""
    end = len(block) // size * size if drops_last else len(block)
    return [
        Block(block.table.slice(at, min(size, end - at)), block.features, block.first + at)
        for at in range(0, end, size)
    ]


class CountChanged(Exception):
    """A step gave more or fewer rows than it got, and step `number` after it needs whole batches."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _where(step: Step, block: Block) -> str:
    return f"{step.words()}, rows {block.first:,} to {block.first + len(block) - 1:,}"


@contextlib.contextmanager
def placed(step: Step, block: Block) -> Iterator[None]:
    """Errors of a function's own say at which rows it was called."""
    try:
        yield
    except MartletError:
        raise
    except StopIteration as problem:  # which would end whatever iterates over the result
        raise MapError(_where(step, block), "the function raised StopIteration") from problem
    except Exception as problem:
        problem.add_note(f"In {_where(step, block)}.")
        raise


def masked(step: FilterStep, work: Any, block: Block, rank: int) -> Positions:
    """Numbers of the rows that a filter keeps."""
    with placed(step, block):
        return _masked(step, work, block, rank)


def _masked(step: FilterStep, work: Any, block: Block, rank: int) -> Positions:
    size = step.function.group
    if not step.function.batched or size is None:
        return np.flatnonzero(work.mask(block, rank, _where(step, block)))
    batches = _batches(block, size, drops_last=False)
    if work.calls.is_async:
        work.calls.look_ahead(batches, rank)
    out = [b.first - block.first + np.flatnonzero(work.mask(b, rank, _where(step, b))) for b in batches]
    return np.concatenate(out) if out else np.empty(0, np.int64)
