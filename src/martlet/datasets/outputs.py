"""What functions return, turned into Arrow tables whose columns keep one kind from block to block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from martlet.datasets.encoding import array_of, cast_array, inferred
from martlet.datasets.features import Features, aligned, arrow_field, is_null
from martlet.datasets.stored import cast_column
from martlet.datasets.tables import plain_table
from martlet.errors import FeatureError, MapError


class Kinds:
    """The kinds of columns as blocks come: the first block that shows one decides, and the others must fit.

    `fixed` are the features that a user gave; `before` are those of the columns a function was given.
    """

    def __init__(
        self, fixed: Features | None = None, before: Features | None = None, on_mixed_types: str | None = None
    ):
        self.fixed, self.before, self.on_mixed_types = fixed, before or Features(), on_mixed_types
        self.known: dict[str, Any] = {}

    def array(self, name: str, values: Any, where: str = "") -> pa.Array:
        """A column of a block. MapError, with the rows, for values that do not fit."""
        try:
            if self.fixed is not None:
                if name not in self.fixed:
                    raise FeatureError("features", f"must name every column: {', '.join(self.fixed)}", found=repr(name))
                return array_of(values, self.fixed[name], name)
            known = self.known.get(name)
            if known is None or is_null(known):
                before = self.before.get(name)
                array, self.known[name] = inferred(values, name, before=before, on_mixed_types=self.on_mixed_types)
                return array
            try:
                array, kind = inferred(values, name, before=known)
            except FeatureError as problem:
                remedy = "Return one type, or give features=."
                found = f"others ({problem.found})" if problem.found else "others"
                rule = f"column {name!r} was {known!r} in earlier rows"
                raise MapError(where or "rows", rule, found=found, remedy=remedy) from problem
        except FeatureError as problem:
            if not where:
                raise
            raise MapError(where, str(problem)) from problem
        if kind == known:
            return array
        if is_null(kind):
            return (
                pa.nulls(len(array), arrow_field(name, known).type)
                if array.null_count == len(array)
                else array_of(values, known, name)
            )
        remedy = "Return one type, or give features=."
        raise MapError(
            where or "rows", f"column {name!r} was {known!r} in earlier rows", found=repr(kind), remedy=remedy
        )

    def table(self, columns: Mapping[str, Any], where: str = "") -> tuple[pa.Table, Features]:
        """A block of columns, Arrow or Python. MapError if their lengths differ."""
        arrays, features = [], Features()
        for name, values in columns.items():
            arrays.append(self.array(name, values, where))
            features[name] = self.fixed[name] if self.fixed is not None else self.known[name]
        lengths = {name: len(array) for name, array in zip(columns, arrays, strict=True)}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
            remedy = "If the function changes the number of rows, give remove_columns=ds.column_names."
            raise MapError(where or "columns", "must be equally long", found=found, remedy=remedy)
        if self.fixed is not None and set(self.fixed) != set(columns):
            missing = [name for name in self.fixed if name not in columns]
            raise MapError(where or "features", "name columns that are not there", found=", ".join(map(repr, missing)))
        schema = features.arrow_schema
        return pa.Table.from_arrays(arrays, schema=schema), features


def columns_of(output: Any, where: str) -> dict[str, Any] | None:
    """What a function of a batch returned, as columns: a dict, a data frame or an Arrow table; None for None."""
    if output is None:
        return None
    if isinstance(output, pa.Table):
        return {name: output.column(name) for name in plain_table(output).column_names}
    if isinstance(output, pa.RecordBatch):
        return columns_of(pa.Table.from_batches([output]), where)
    root = type(output).__module__.split(".")[0]
    if root == "pandas" and hasattr(output, "columns"):
        return columns_of(pa.Table.from_pandas(output, preserve_index=False), where)
    if root == "polars" and hasattr(output, "columns"):
        return columns_of(output.to_arrow(), where)
    if not isinstance(output, Mapping):
        raise MapError(where, "the function must return a dict of columns, or None", found=type(output).__name__)
    arrays = output.token_arrays() if hasattr(output, "token_arrays") else {}  # a tokenizer's, not looked at yet
    columns = {name: _ragged(arrays[name]) if name in arrays else output[name] for name in output}
    for name, values in columns.items():
        if not isinstance(name, str):
            raise MapError(where, "columns are named by strings", found=repr(name))
        if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
            remedy = "A batched function returns a list for each column."
            raise MapError(where, f"column {name!r} must be a list", found=type(values).__name__, remedy=remedy)
    return columns


def _ragged(rows: Any) -> pa.Array:
    """Rows of numbers end to end, as they are."""
    return pa.ListArray.from_arrays(pa.array(rows.offsets), pa.array(rows.values))


def rows_as_columns(rows: Sequence[Any], where: str, first_row: int) -> dict[str, list[Any]] | None:
    """What a function of a row returned, for many rows, as columns; None where it always returned None."""
    first = rows[0]
    if first is None:
        if any(row is not None for row in rows):
            raise MapError(where, "the function returned None for some rows and a dict for others")
        return None
    if not isinstance(first, Mapping):
        first = _row_of(first, where)
        rows = [_row_of(row, where) for row in rows]
    names = list(first)
    keys = set(names)
    for offset, row in enumerate(rows):
        if not isinstance(row, Mapping) or (len(row) != len(names) or row.keys() != keys):
            found = (
                f"{sorted(map(str, row))} in row {first_row + offset}"
                if isinstance(row, Mapping)
                else type(row).__name__
            )
            raise MapError(where, f"the function must return the same columns for all rows: {names}", found=found)
    return {name: [row[name] for row in rows] for name in names}


def _row_of(output: Any, where: str) -> dict[str, Any]:
    columns = columns_of(output, where)
    if columns is None or any(len(values) != 1 for values in columns.values()):
        raise MapError(where, "the function must return a dict, or None", found=type(output).__name__)
    return {
        name: (values.to_pylist() if hasattr(values, "to_pylist") else list(values))[0]
        for name, values in columns.items()
    }


def joined(
    parts: Sequence[tuple[pa.Table, Features]], where: str, places: Sequence[str] = ()
) -> tuple[pa.Table, Features]:
    """Blocks, or files of blocks, as one table: columns that were null take the kind they have elsewhere.

    MapError where they do not fit together; `places` are the rows that each is of, for its words.
    """
    names = list(parts[0][1])
    for number, (_, features) in enumerate(parts):
        if set(features) != set(names):
            found = f"the columns {', '.join(features)}, and {', '.join(names)} before"
            at = f"{where}, {places[number]}" if places else where
            raise MapError(at, "the function must return the same columns for all rows", found=found)
    try:
        whole = aligned([features for _, features in parts])
    except FeatureError as problem:
        at = f"{where}, {places[_first_unlike(parts)]}" if places else where
        remedy = "Return one type, or give features=."
        rule = "the function must return the same types for all rows"
        raise MapError(at, rule, found=problem, remedy=remedy) from problem
    schema = whole.arrow_schema
    tables = []
    for table, features in parts:
        columns = [
            table.column(name) if features[name] == kind else cast_column(table.column(name), kind)
            for name, kind in whole.items()
        ]
        tables.append(pa.Table.from_arrays(columns, schema=schema) if columns else table)
    return pa.concat_tables(tables), whole


def _first_unlike(parts: Sequence[tuple[pa.Table, Features]]) -> int:
    for end in range(2, len(parts)):
        try:
            aligned([features for _, features in parts[:end]])
        except FeatureError:
            return end - 1
    return len(parts) - 1


def cast_table(table: pa.Table, features: Features) -> pa.Table:
    """The table cast to features."""
    columns = [
        pa.chunked_array([cast_array(chunk, kind) for chunk in table.column(name).chunks], arrow_field(name, kind).type)
        for name, kind in features.items()
    ]
    return pa.Table.from_arrays(columns, schema=features.arrow_schema)
