"""A user's function as a step of a stream calls it: columns named, in a format, with indices, coroutines awaited."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from martlet.datasets.calls import all_awaited
from martlet.datasets.features import Features
from martlet.datasets.formatting import Format, format_row, format_table
from martlet.datasets.outputs import columns_of
from martlet.datasets.streams.blocks import encoded
from martlet.datasets.streams.node import Row, as_rows
from martlet.datasets.streams.unnumbered import Columns
from martlet.errors import ArgumentError, DatasetError


def caller(
    function: Callable[..., Any] | None,
    with_indices: bool,
    input_columns: Any,
    fn_kwargs: dict[str, Any] | None,
    *,
    awaits: bool = True,
) -> Callable[[Any, Any], Any]:
    """`function` as one of a row or columns, and its number or numbers; without `awaits` coroutines are handed out."""
    kwargs, names = fn_kwargs or {}, [input_columns] if isinstance(input_columns, str) else input_columns
    if function is None:
        return lambda row, _: row
    if not callable(function):
        raise ArgumentError("function", "must be callable", found=repr(function)[:80])

    def call(row: Any, number: Any) -> Any:
        values = [row] if names is None else [row[name] for name in names]
        try:
            made = function(*values, *([number] if with_indices else []), **kwargs)
        except StopIteration as problem:  # which would end the stream as if there were no more rows
            name = getattr(function, "__qualname__", type(function).__name__)
            raise DatasetError(name, "the function raised StopIteration") from problem
        return all_awaited(lambda: made, [()])[0] if awaits and inspect.isawaitable(made) else made

    return call


@dataclass(frozen=True)
class Shaped:
    """A call that gets its row, or its columns, in the format that was set on the stream."""

    call: Callable[[Any, Any], Any]
    form: Format
    features: Features | None
    is_row: bool

    def __call__(self, value: Any, number: Any) -> Any:
        """Calls it."""
        return self.call(shaped([value] if self.is_row else value, self.features, self.form, self.is_row), number)


def shaped(rows: list[Row] | Columns, features: Features | None, form: Format, is_row: bool) -> Any:
    """Rows or columns of Python objects in a format; with `is_row` the one row."""
    if form.kind == "custom" and form.transform is not None:
        columns = {name: [row[name] for row in rows] for name in rows[0]} if isinstance(rows, list) else rows
        made = form.transform(columns)
        return {name: values[0] for name, values in made.items()} if is_row else made
    table, known = encoded(rows, features)
    return (format_row if is_row else format_table)(table, known, form)


def of_row(call: Callable[[Any, Any], Any], removed: list[str], features: Features | None) -> Callable[[Row, int], Row]:
    def applied(row: Row, number: int) -> Row:
        given = dict(row)
        return _merged(row, given, call(given, number), removed, features)

    return applied


def of_rows(
    call: Callable[[Any, Any], Any], removed: list[str], features: Features | None
) -> Callable[[list[Row], list[int]], list[Row]]:
    """The same for several rows, whose coroutines run side by side."""

    def applied(rows: list[Row], numbers: list[int]) -> list[Row]:
        given = [dict(row) for row in rows]
        made = all_awaited(call, zip(given, numbers, strict=True))
        return [_merged(*each, removed, features) for each in zip(rows, given, made, strict=True)]

    return applied


def _merged(row: Row, given: Row, made: Any, removed: list[str], features: Features | None) -> Row:
    """A row with what a function made of it; `given` is the copy that the function had."""
    if made is None:
        made = row
    elif made is given:  # a row that is handed back is what stays of it
        made = without(given, removed)
    if not isinstance(made, Mapping) and hasattr(made, "columns"):  # of a stream of tables
        columns = columns_of(made, "map") or {}
        if any(len(values) != 1 for values in columns.values()):
            raise DatasetError("map", "a function of a row must return one row", found="a table of others")
        row, made = {}, {name: _listed(values)[0] for name, values in columns.items() if name not in removed}
    if not isinstance(made, Mapping):
        raise DatasetError("map", "a function of a row must return a dict or None", found=f"a {type(made).__name__}")
    new = {**without(row, removed), **made}
    return features.decode_example(features.encode_example(new)) if features is not None else new


def of_batch(
    call: Callable[[Any, Any], Any], removed: list[str], features: Features | None
) -> Callable[[Columns, int], Columns]:
    merge = _batch_merger(call, removed, features)

    def applied(columns: Columns, first: int) -> Columns:
        given = dict(columns)
        return merge(columns, first, given, call(given, _numbers(columns, first)))

    return applied


def of_batches(
    call: Callable[[Any, Any], Any], removed: list[str], features: Features | None
) -> Callable[[Sequence[tuple[Columns, int]]], list[Columns]]:
    """The same for several batches, whose coroutines run side by side."""
    merge = _batch_merger(call, removed, features)

    def applied(batches: Sequence[tuple[Columns, int]]) -> list[Columns]:
        given = [(dict(columns), _numbers(columns, first)) for columns, first in batches]
        made = all_awaited(call, given)
        return [merge(*batch, each[0], out) for batch, each, out in zip(batches, given, made, strict=True)]

    return applied


def _numbers(columns: Columns, first: int) -> list[int]:
    return list(range(first, first + len(next(iter(columns.values()), []))))


def _batch_merger(
    call: Callable[[Any, Any], Any], removed: list[str], features: Features | None
) -> Callable[[Columns, int, Columns, Any], Columns]:
    """What puts a function's result over the columns it was of; `given` is the copy that the function had."""
    # a function of tables returns the whole rows, one of columns returns what is new in them
    is_of_tables = isinstance(call, Shaped) and call.form.kind in ("arrow", "pandas", "polars")

    def merged(columns: Columns, first: int, given: Columns, made: Any) -> Columns:
        size = len(next(iter(columns.values()), []))
        if made is None:
            made = columns
        elif made is given:
            made = without(given, removed)
        if not isinstance(made, Mapping) and hasattr(made, "columns"):
            tables = columns_of(made, "map") or {}
            columns = {} if is_of_tables else columns
            made = {name: _listed(v) for name, v in tables.items() if not (is_of_tables and name in removed)}
        if not isinstance(made, Mapping):
            rule = "a function of a batch must return columns or None"
            raise DatasetError("map", rule, found=f"a {type(made).__name__}")
        for name, values in made.items():
            if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
                where, found = f"map, rows {first} to {first + size - 1}", type(values).__name__
                remedy = "A batched function returns a list for each column."
                raise DatasetError(where, f"column {name!r} must be a list", found=found, remedy=remedy)
        new = {**without(columns, removed), **made}
        sizes = {name: len(values) for name, values in new.items()}
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in sizes.items())
            raise DatasetError(
                f"map, rows {first} to {first + size - 1}",
                "all columns of a batch must be of one length",
                found=said,
                remedy="Name the old columns in remove_columns=.",
            )
        new = {name: list(values) for name, values in new.items()}
        return features.decode_batch(features.encode_batch(new)) if features is not None else new

    return merged


def of_mask(call: Callable[[Any, Any], Any]) -> Callable[[Columns, int], Columns]:
    """The rows of a batch for which the function of its columns is true."""
    return lambda columns, first: _kept(columns, first, call(columns, _numbers(columns, first)))


def of_masks(call: Callable[[Any, Any], Any]) -> Callable[[Sequence[tuple[Columns, int]]], list[Columns]]:
    """The same for several batches, whose coroutines run side by side."""

    def applied(batches: Sequence[tuple[Columns, int]]) -> list[Columns]:
        masks = all_awaited(call, [(columns, _numbers(columns, first)) for columns, first in batches])
        return [_kept(*batch, mask) for batch, mask in zip(batches, masks, strict=True)]

    return applied


def of_row_masks(call: Callable[[Any, Any], Any]) -> Callable[[Columns, int], Columns]:
    """The rows for which a coroutine of a row is true; those of the batch run side by side."""

    def applied(columns: Columns, first: int) -> Columns:
        numbers = _numbers(columns, first)
        return _kept(columns, first, all_awaited(call, zip(as_rows(columns, len(numbers)), numbers, strict=True)))

    return applied


def _kept(columns: Columns, first: int, mask: Any) -> Columns:
    size = len(next(iter(columns.values()), []))
    if isinstance(mask, Mapping | str) or not hasattr(mask, "__len__") or len(mask) != size:
        found = f"{len(mask)} of them" if hasattr(mask, "__len__") else f"a {type(mask).__name__}"
        where = f"filter, rows {first} to {first + size - 1}"
        raise DatasetError(where, f"a filter of {size} rows must return as many truth values", found=found)
    return {name: [v for v, keep in zip(values, mask, strict=True) if keep] for name, values in columns.items()}


def _listed(values: Any) -> list[Any]:
    return values.to_pylist() if isinstance(values, pa.ChunkedArray | pa.Array) else list(values)


def without(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
