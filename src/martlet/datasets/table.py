"""Where Hugging Face's library has what is done to Arrow tables; ours are pyarrow's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets import elsewhere
from martlet.datasets.encoding import cast_array
from martlet.datasets.features import Features, kind_of
from martlet.datasets.tables import plain_table

__all__ = ["array_cast", "cast_array_to_feature", "concat_tables", "embed_table_storage", "table_cast"]


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
