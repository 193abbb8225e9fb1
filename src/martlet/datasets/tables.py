"""Rows out of Arrow tables: single, neighbours, or anywhere; and Arrow files opened in place."""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets.encoding import plain_array
from martlet.datasets.selection import Positions
from martlet.errors import DataFileError, FormatError

Maker = Callable[[Sequence[Sequence[Any]]], list[dict[str, Any]]]
FILE_MAGIC = b"ARROW1"  # a stream has none
FEW = 8  # rows below which a call into Arrow costs more than it saves
LARGE = 1 << 31  # bytes beyond which 32-bit offsets of one array may overflow


def open_arrow(path: str | os.PathLike[str], *, in_memory: bool = False) -> pa.Table:
    """The table in an Arrow file or stream, memory-mapped; extension types become their storage.

    FormatError for a file that is damaged, OSError for one that is not there.
    """
    name = os.fspath(path)
    source = pa.OSFile(name, "rb") if in_memory else pa.memory_map(name, "r")
    try:
        is_file = source.read(len(FILE_MAGIC)) == FILE_MAGIC
        source.seek(0)
        table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).read_all()
        named_once(name, table.schema)
    except (pa.ArrowException, OSError) as problem:
        reason = str(problem).split("\n")[0]
        raise FormatError(name, "must be an Arrow file", found=reason, remedy="Is it complete?") from problem
    return plain_table(table)


def named_once(file: str, schema: pa.Schema) -> None:
    """DataFileError for a file two of whose columns have one name: a row could hold only one of them."""
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        found = f"{', '.join(map(repr, twice))} more than once"
        raise DataFileError(file, "must name each column once", found=found, remedy="Write it anew, renamed.")


def plain_table(table: pa.Table) -> pa.Table:
    """The table with extension types as storage and dictionaries as values; the schema keeps what they meant."""
    from martlet.datasets.features import Features

    columns = [plain_array(column) for column in table.columns]
    if all(new is old for new, old in zip(columns, table.columns, strict=True)):
        return table
    features = Features.from_arrow_schema(table.schema)
    return pa.Table.from_arrays(columns, schema=pa.schema(dressed_fields(columns, features), table.schema.metadata))


def dressed_fields(columns: Iterable[Any], features: dict[str, Any]) -> list[pa.Field]:
    """Fields of the features where the columns are already of their type."""
    from martlet.datasets.features import arrow_field

    fields = []
    for column, (name, kind) in zip(columns, features.items(), strict=True):
        field = arrow_field(name, kind)
        fields.append(field if field.type == column.type else pa.field(name, column.type))
    return fields


class Rows:
    """Rows of a table by number. Columns are by index; values come as Python sees them, undecoded."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.batches: list[pa.RecordBatch] = [batch for batch in table.to_batches() if batch.num_rows]
        self.offsets: list[int] = [0]
        for batch in self.batches:
            self.offsets.append(self.offsets[-1] + batch.num_rows)
        self._starts = np.asarray(self.offsets, np.int64)
        self._readers: dict[tuple[int, int], Any] = {}

    def __len__(self) -> int:
        return self.offsets[-1]

    def _reader(self, batch: int, column: int) -> Any:
        found = self._readers.get((batch, column))
        if found is None:
            found = self._readers[batch, column] = reader(self.batches[batch].column(column))
        return found

    def one(self, row: int, columns: Sequence[int]) -> list[Any]:
        """The values of one row."""
        batch = bisect.bisect_right(self.offsets, row) - 1
        within, readers = row - self.offsets[batch], self._readers
        out = []
        for column in columns:
            found = readers.get((batch, column)) or self._reader(batch, column)
            out.append(found.one(within))
        return out

    def span(self, begin: int, end: int, columns: Sequence[int]) -> list[list[Any]]:
        """The values of neighbouring rows, a list a column."""
        batch = bisect.bisect_right(self.offsets, begin) - 1
        start = self.offsets[batch]
        if begin < end <= self.offsets[batch + 1]:
            return [self._reader(batch, column).span(begin - start, end - start) for column in columns]
        out: list[list[Any]] = [[] for _ in columns]
        while begin < end:
            start = self.offsets[batch]
            stop = min(end, self.offsets[batch + 1])
            for values, column in zip(out, columns, strict=True):
                values.extend(self._reader(batch, column).span(begin - start, stop - start))
            begin, batch = stop, batch + 1
        return out

    def many(self, rows: Positions, columns: Sequence[int]) -> list[list[Any]]:
        """The values of any rows, in their order, a list a column."""
        groups, back = self._grouped(rows)
        out = []
        for column in columns:
            values: list[Any] = []
            for batch, within in groups:
                values.extend(self._reader(batch, column).many(within))
            out.append(values if back is None else [values[at] for at in back.tolist()])
        return out

    def take(self, rows: Positions, columns: Sequence[int]) -> pa.Table:
        """A table of any rows, in their order."""
        schema = pa.schema([self.table.schema.field(column) for column in columns])
        if not len(rows):
            return schema.empty_table()
        groups, back = self._grouped(rows)
        parts = [
            pa.RecordBatch.from_arrays([self.batches[batch].column(c) for c in columns], schema=schema).take(
                pa.array(within)
            )
            for batch, within in groups
        ]
        table = pa.Table.from_batches(parts, schema)
        if back is None:
            return table
        if len(parts) > 1 and table.nbytes < LARGE:
            table = table.combine_chunks()
        return table.take(pa.array(back))

    def slice(self, begin: int, end: int, columns: Sequence[int]) -> pa.Table:
        """A table of neighbouring rows, without a copy."""
        return self.table.select(list(columns)).slice(begin, end - begin)

    def _grouped(self, rows: Positions) -> tuple[list[tuple[int, Positions]], Positions | None]:
        """Rows by batch, and how to put them back into their order (None: they already are)."""
        batches = np.searchsorted(self._starts, rows, side="right") - 1
        back = None
        if len(rows) > 1 and (np.diff(batches) < 0).any():
            order = np.argsort(batches, kind="stable")
            batches, rows = batches[order], rows[order]
            back = np.empty(len(order), np.int64)
            back[order] = np.arange(len(order))
        within = rows - self._starts[batches]
        cuts = [0, *(np.flatnonzero(np.diff(batches)) + 1).tolist(), len(rows)]
        return [(int(batches[a]), within[a:b]) for a, b in pairwise(cuts) if b > a], back


class _Numbers:
    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values

    def one(self, at: int) -> Any:
        return self.values.item(at)

    def span(self, begin: int, end: int) -> list[Any]:
        out: list[Any] = self.values[begin:end].tolist()
        return out

    def many(self, at: Positions) -> list[Any]:
        out: list[Any] = self.values[at].tolist()
        return out


class _Texts:
    """Texts or bytes: Arrow's own conversion is the fastest for many, our own for few."""

    def __init__(self, array: pa.Array, offsets: np.ndarray[Any, Any], data: memoryview, is_text: bool) -> None:
        self.array, self.offsets, self.data, self.is_text = array, offsets, data, is_text

    def one(self, at: int) -> Any:
        part = self.data[self.offsets.item(at) : self.offsets.item(at + 1)]
        return str(part, "utf-8") if self.is_text else bytes(part)

    def span(self, begin: int, end: int) -> list[Any]:
        out: list[Any] = self.array.slice(begin, end - begin).to_pylist()
        return out

    def many(self, at: Positions) -> list[Any]:
        if len(at) < FEW:
            return [self.one(row) for row in at.tolist()]
        out: list[Any] = self.array.take(pa.array(at)).to_pylist()
        return out


class _Lists:
    def __init__(self, offsets: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
        self.offsets, self.values = offsets, values

    def one(self, at: int) -> Any:
        return self.values[self.offsets.item(at) : self.offsets.item(at + 1)].tolist()

    def span(self, begin: int, end: int) -> list[Any]:
        values, offsets = self.values, self.offsets[begin : end + 1].tolist()
        return [values[a:b].tolist() for a, b in pairwise(offsets)]

    def many(self, at: Positions) -> list[Any]:
        values = self.values
        pairs = zip(self.offsets[at].tolist(), self.offsets[at + 1].tolist(), strict=True)
        return [values[a:b].tolist() for a, b in pairs]


class _Anything:
    def __init__(self, array: pa.Array) -> None:
        self.array = array

    def one(self, at: int) -> Any:
        return self.array[at].as_py()

    def span(self, begin: int, end: int) -> list[Any]:
        out: list[Any] = self.array.slice(begin, end - begin).to_pylist()
        return out

    def many(self, at: Positions) -> list[Any]:
        out: list[Any] = self.array.take(pa.array(at)).to_pylist()
        return out


class _Nullable:
    def __init__(self, values: Any, nulls: np.ndarray[Any, Any]) -> None:
        self.values, self.nulls = values, nulls

    def one(self, at: int) -> Any:
        return None if self.nulls.item(at) else self.values.one(at)

    def _holed(self, out: list[Any], nulls: np.ndarray[Any, Any]) -> list[Any]:
        for at in np.flatnonzero(nulls).tolist():
            out[at] = None
        return out

    def span(self, begin: int, end: int) -> list[Any]:
        return self._holed(self.values.span(begin, end), self.nulls[begin:end])

    def many(self, at: Positions) -> list[Any]:
        return self._holed(self.values.many(at), self.nulls[at])


def reader(array: pa.Array) -> Any:
    """What reads values of an Arrow array as Python objects, straight from its buffers where these are plain."""
    values = _reader_of(array)
    if array.null_count and not isinstance(values, _Anything):
        return _Nullable(values, array.is_null().to_numpy(zero_copy_only=False))
    return values


def _reader_of(array: pa.Array) -> Any:
    kind = array.type
    if numbers := _numpy_view(array):
        return _Numbers(numbers[0])
    if pa.types.is_boolean(kind) and not array.null_count:
        return _Numbers(array.to_numpy(zero_copy_only=False))
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if is_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        is_large = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
        _, offsets, data = array.buffers()
        plain = memoryview(data if data is not None else b"")
        return _Texts(array, _offsets(array, offsets, is_large), plain, is_text)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and len(array):
        inner = _numpy_view(array.values)
        if inner and not array.values.null_count:
            return _Lists(_offsets(array, array.buffers()[1], pa.types.is_large_list(kind)), inner[0])
    return _Anything(array)


def _offsets(array: pa.Array, buffer: pa.Buffer | None, is_large: bool) -> np.ndarray[Any, Any]:
    if buffer is None or not buffer.size:
        return np.zeros(len(array) + 1, np.int64)
    end = array.offset + len(array) + 1
    return np.frombuffer(buffer, np.int64 if is_large else np.int32, end)[array.offset :]


def _numpy_view(array: pa.Array) -> tuple[np.ndarray[Any, Any]] | None:
    """The numbers of the array, in place; where it is null they mean nothing."""
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)):
        return None
    buffer = array.buffers()[1]
    if buffer is None or not buffer.size:
        return (np.zeros(len(array), kind.to_pandas_dtype()),)
    return (np.frombuffer(buffer, kind.to_pandas_dtype(), array.offset + len(array))[array.offset :],)


@lru_cache(maxsize=256)
def dict_maker(names: tuple[str, ...]) -> Maker:
    """A function from columns (lists) to rows (dicts): a dict display in one comprehension is the fastest there is."""
    if not names:
        return lambda columns: []
    variables = [f"v{index}" for index in range(len(names))]
    pairs = ", ".join(f"{name!r}: {variable}" for name, variable in zip(names, variables, strict=True))
    head = f"({', '.join(variables)},)"
    made: Maker = eval(f"lambda columns: [{{{pairs}}} for {head} in zip(*columns)]")
    return made
