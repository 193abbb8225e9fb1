"""Arrow tables as `ds.data` hands them out, and what is done to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets import elsewhere
from martlet.datasets.encoding import cast_array
from martlet.datasets.features import Features, kind_of
from martlet.datasets.tables import plain_table

__all__ = ["Table", "array_cast", "cast_array_to_feature", "concat_tables", "embed_table_storage", "table_cast"]


class Table:
    """What `ds.data` is: `table` is the pyarrow.Table, whose methods and attributes can be asked of this too."""

    __slots__ = ("table",)

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "table":
            raise AttributeError(name)
        return getattr(self.table, name)

    def __getitem__(self, key: Any) -> Any:
        return self.table[key]

    def __len__(self) -> int:
        return len(self.table)

    def __eq__(self, other: object) -> bool:
        return bool(self.table == (other.table if isinstance(other, Table) else other))

    __hash__ = None  # type: ignore[assignment]

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return f"Table({self.table!r})"


def array_cast(array: pa.Array, pa_type: pa.DataType) -> pa.Array:
    """The array as another Arrow type. FeatureError if it cannot be."""
    return cast_array(array, kind_of(pa.field("", pa_type)))


def cast_array_to_feature(array: pa.Array, feature: Any) -> pa.Array:
    """The array as a feature stores it: names as labels, paths as pictures. FeatureError if it cannot be."""
    return cast_array(array, feature)


def table_cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a schema (whose metadata may hold features). FeatureError if it cannot be."""
    from martlet.datasets.outputs import cast_table

    return cast_table(plain_table(table), Features.from_arrow_schema(schema))


def concat_tables(tables: Sequence[pa.Table], axis: int = 0) -> pa.Table:
    """The tables one below the other, or with `axis=1` side by side."""
    tables = list(tables)
    if axis == 0:
        return pa.concat_tables(tables, promote_options="default")
    columns = [
        (name, column) for table in tables for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.Table.from_arrays([column for _, column in columns], names=[name for name, _ in columns])


def embed_table_storage(table: pa.Table, token_per_repo_id: Any = None) -> pa.Table:
    """The table with the bytes of the files that its pictures and sounds are paths of."""
    from martlet.datasets.features import needs_no_tokens
    from martlet.datasets.pushing import filled

    needs_no_tokens(token_per_repo_id)
    return filled(table, Features.from_arrow_schema(table.schema))


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
