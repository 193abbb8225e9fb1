"""SQL over a dataset, by DuckDB, reading the Arrow table in place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets.features import Features, arrow_field
from martlet.datasets.stored import Stored
from martlet.errors import ArgumentError, MissingDependencyError

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset


# The engine of conditions, and the process it belongs to: threads do not survive a fork. Starting one takes 40 ms.
_kept: list[tuple[int, Any]] = []


def _connect(*, is_kept: bool) -> Any:
    try:
        import duckdb
    except ImportError as problem:
        raise MissingDependencyError("SQL", "needs DuckDB", remedy="pip install duckdb") from problem
    if not is_kept:
        return duckdb.connect()
    if not _kept or _kept[-1][0] != os.getpid():
        _kept.append((os.getpid(), duckdb.connect()))
    return _kept[-1][1].cursor()


def query(table: Any, text: str, *, is_kept: bool = False) -> pa.Table:
    """The result of a query that calls the table `self`. ArgumentError for SQL that cannot be run.

    `is_kept`: by an engine that stays for the next query, for what makes no tables and settings of its own.
    """
    connection = _connect(is_kept=is_kept)
    import duckdb

    try:
        connection.execute("set enable_progress_bar = false")
        connection.register("self", table)
        return connection.sql(text).to_arrow_table()
    except duckdb.Error as problem:
        raise ArgumentError(
            "SQL", f"{text!r} cannot be run", found=str(problem).strip().replace("\n", " ")
        ) from problem
    finally:
        connection.close()


def sql(self: Dataset, query_text: str) -> Dataset:
    """The result of a query, as a dataset in memory. The rows are the table `self`.

    `ds.sql("select label, count(*) as n from self group by label")`. A column that keeps its name and type keeps its
    kind (a ClassLabel stays one).
    """
    stored = self._stored
    table: Any = stored.table
    if self._selection is not None:
        schema = table.schema
        batches = (batch for part in self._tables() for batch in part.to_batches())
        table = pa.RecordBatchReader.from_batches(schema, batches)
    found = query(table, query_text)
    result = Stored.of(found)
    features = Features(
        {
            name: stored.features[name]
            if name in stored.features
            and arrow_field(name, stored.features[name]).type == result.table.schema.field(name).type
            else kind
            for name, kind in result.features.items()
        }
    )
    return self._like(result.with_features(features), None)
