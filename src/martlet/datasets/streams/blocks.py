"""A stream as Arrow tables of one schema: what writing it to files, and handing it out in formats, reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets.features import Features
from martlet.datasets.streams.node import Numbered, Row
from martlet.datasets.streams.reading import fitted_to
from martlet.errors import FeatureError

if TYPE_CHECKING:
    from martlet.datasets.iterable import IterableDataset

LOOKED_AT = 1000  # rows that give the types of a stream whose features are not known


def encoded(rows: list[Row] | dict[str, list[Any]], features: Features | None) -> tuple[pa.Table, Features]:
    """Rows, or columns, as a table of what is stored; types from the values where features do not say."""
    if isinstance(rows, list):
        rows = {name: [row.get(name) for row in rows] for name in (rows or [{}])[0]}
    if features is not None:
        schema = features.arrow_schema
        return pa.table({name: _array(name, values, features, schema) for name, values in rows.items()}), features
    from martlet.datasets.encoding import inferred

    made = {name: inferred(values, name) for name, values in rows.items()}
    return pa.table({name: array for name, (array, _) in made.items()}), Features(
        {name: kind for name, (_, kind) in made.items()}
    )


def _array(name: str, values: list[Any], features: Features, schema: pa.Schema) -> pa.Array:
    """A column's values. FeatureError names the column whose later values are of another kind than its first."""
    try:
        return pa.array(features.encode_column(values, name), schema.field(name).type)
    except KeyError as problem:
        rule = f"must be one of the stream's columns: {', '.join(features)}"
        raise FeatureError(f"column {name!r}", rule, remedy="Give map(features=...).") from problem
    except (FeatureError, pa.ArrowException, TypeError, OverflowError) as problem:
        remedy = "Return one type, or give map(features=...)."
        rule, found = f"is {features[name]!r}", getattr(problem, "found", None) or problem
        raise FeatureError(f"column {name!r}", rule, found=found, remedy=remedy) from problem


class Blocks:
    """One pass over a stream, read like a Dataset by what writes files; types are its features' or its first rows'."""

    def __init__(self, stream: IterableDataset) -> None:
        self._stream = stream.with_format(None)
        self._known = stream.features
        self._run: Any = None
        self._first: pa.Table | None = None

    @property
    def num_rows(self) -> int | None:
        """Rows, where they are counted."""
        return self._stream.num_rows

    @property
    def features(self) -> Features:
        """The stream's features; if it has none, those of its first rows, which are read for it."""
        if self._known is None:
            self._first = self._next(LOOKED_AT)
            if self._known is None:
                self._known = Features()
        return self._known

    def _next(self, num_rows: int) -> pa.Table | None:
        if self._run is None:
            self._run = self._stream._begin()
        table = self._run.arrow(num_rows) if isinstance(self._run, Numbered) else None
        if table is None:
            lists = self._run.lists(num_rows)
            if lists is None:
                return None
            table, found = encoded(lists, self._known)
            self._known = found if self._known is None else self._known
        if self._known is None:
            self._known = Features.from_arrow_schema(table.schema)
        return fitted_to(table, self._known.arrow_schema)

    def _tables(self, num_rows: int = LOOKED_AT, *, always: bool = False) -> Iterator[pa.Table]:
        """The rows as tables of up to `num_rows` rows; `always` at least one."""
        schema, is_empty = self.features.arrow_schema, True
        first, self._first = self._first, None
        if first is not None:
            is_empty = False
            yield from (first.slice(at, num_rows) for at in range(0, first.num_rows, num_rows))
        while (table := self._next(num_rows)) is not None:
            is_empty = False
            yield table
        if is_empty and always:
            yield schema.empty_table()

    def _whole(self, names: list[str] | None) -> pa.Table:
        """All rows of some columns as one table."""
        whole = pa.concat_tables(list(self._tables(10_000, always=True)))
        return whole if names is None else whole.select(names)
