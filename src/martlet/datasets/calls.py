"""How a user's function is called: on a row or a batch of a block, in a format, with numbers, awaited; and what it
changed in the row or the batch it was given.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from operator import is_not
from typing import Any

import pyarrow as pa

from martlet.datasets.config import ASYNC_ROWS, async_calls
from martlet.datasets.dataset import Dataset
from martlet.datasets.features import Features
from martlet.datasets.formatting import PLAIN, Format, python_lists
from martlet.datasets.lazy import LazyBatch, LazyRow, named_columns
from martlet.datasets.stored import Stored
from martlet.datasets.tables import Rows, dict_maker


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

    @property
    def rows_beside(self) -> int:
        """Rows whose coroutines run side by side; 1 for other functions."""
        if not inspect.iscoroutinefunction(self.call) or (self.batched and self.batch_size is None):
            return 1
        return self.batch_size * max(1, ASYNC_ROWS // self.batch_size) if self.batched else 1000  # type: ignore[operator]

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
        self.names: list[str] = table.column_names
        self.filled = 0

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def rows(self) -> Rows:
        """Access by number."""
        return Rows(self.table)

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
        self.rows: list[dict[str, Any]] | None = None  # of the last call, where the function was given rows of its own
        self._written: set[str] = set()
        self._lists: list[list[Any]] | None = None  # what these held before, where all of each was read ahead
        self.ahead = list(function.inputs) if function.inputs is not None else named_columns(function.call, names)

    def given(self, block: Block) -> Iterable[Any]:
        """What the function is given, row by row."""
        function = self.function
        self.rows = self._lists = None
        if function.form.kind is not None:
            rows = block.dataset(function.form)
            return rows if function.inputs is None else (tuple(row[name] for name in function.inputs) for row in rows)
        lists = block.lists(self.ahead, 0, len(block))
        if function.inputs is not None:
            return zip(*lists, strict=True) if lists else (() for _ in range(len(block)))
        if len(self.ahead) == len(block.names):
            self._lists = [lists[self.ahead.index(name)] for name in block.names]
            self.rows = dict_maker(tuple(block.names))(self._lists)
        else:
            self.rows = self._lazy_rows(block, dict_maker(tuple(self.ahead))(lists) if lists else [{}] * len(block))
        return self.rows

    def _lazy_rows(self, block: Block, plain: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        written = self._written = set()
        for at, values in enumerate(plain):
            row = LazyRow(values)
            row.block, row.at, row.written = block, at, written
            rows.append(row)
        return rows

    def touched(self, block: Block) -> list[str]:
        """The columns that the function wrote into the rows it was given, or took out of them."""
        rows = self.rows or []
        if self._lists is None:
            order = {name: place for place, name in enumerate(rows[0] if self._written else ())}
            return sorted(self._written, key=lambda name: (order.get(name, len(order)), name))
        names, width = [], len(block.names)
        try:
            if any(len(row) != width for row in rows):
                raise KeyError
            for name, before in zip(block.names, self._lists, strict=True):
                if any(map(is_not, before, [row[name] for row in rows])):
                    names.append(name)
        except KeyError:  # a column was put in or taken out
            names = [name for name in block.names if any(name not in row for row in rows)]
            for name, before in zip(block.names, self._lists, strict=True):
                if name not in names and any(map(is_not, before, [row[name] for row in rows])):
                    names.append(name)
            names += dict.fromkeys(name for row in rows for name in row if name not in block.names)
        return names

    def __call__(self, block: Block, rank: int) -> list[Any]:
        """What the function returns, row by row."""
        function, given = self.function, self.given(block)
        if self.is_async:
            out: list[Any] = all_awaited(lambda at, row: function(row, at, rank), enumerate(given, block.first))
        elif not function.with_indices and not function.with_rank and function.inputs is None:
            call, kwargs = function.call, function.kwargs
            out = [call(row, **kwargs) for row in given] if kwargs else [call(row) for row in given]
        else:
            out = [function(row, at, rank) for at, row in enumerate(given, block.first)]
        if block.filled * 2 > len(block) and function.inputs is None and function.form.kind is None:
            self.ahead = list(block.names)
        return out


class BatchCalls:
    """Calls of a function of a batch."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function.call)
        self._awaited: dict[int, tuple[Any, Any]] = {}  # by a batch's first row, what was looked ahead at

    def look_ahead(self, blocks: Sequence[Block], rank: int) -> None:
        """Calls a coroutine function of these batches, side by side."""
        given = [self.given(block) for block in blocks]
        made = all_awaited(lambda one, block: self._called(one, block, rank), zip(given, blocks, strict=True))
        self._awaited = {block.first: pair for block, *pair in zip(blocks, given, made, strict=True)}  # type: ignore[misc]

    def of(self, block: Block, rank: int) -> tuple[Any, Any]:
        """What the function is given of a batch, and what it returns."""
        if block.first in self._awaited:
            return self._awaited.pop(block.first)
        given = self.given(block)
        output = self._called(given, block, rank)
        return given, all_awaited(lambda: output, [()])[0] if self.is_async else output

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

    def _called(self, given: Any, block: Block, rank: int) -> Any:
        return self.function(given, list(range(block.first, block.first + len(block))), rank)


def all_awaited(call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
    """What the coroutines of calls give, in their order; async_calls() of them at a time.

    Within a running event loop, as in a notebook, they run in a loop of their own in another thread.
    """

    async def gathered() -> list[Any]:
        gate = asyncio.Semaphore(async_calls())

        async def one(given: tuple[Any, ...]) -> Any:
            async with gate:
                return await call(*given)

        return list(await asyncio.gather(*map(one, arguments)))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(gathered())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(gathered())).result()
