"""Rows of a query, through any DB-API connection, or SQLAlchemy where the connection is one of its own."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from martlet.datasets.files import DataFile
from martlet.datasets.mixed import mixed_paths
from martlet.datasets.sources.source import Source
from martlet.errors import ArgumentError, DataFileError, MissingDependencyError


@dataclass
class Sql(Source):
    """`sql` is a query, a table's name or a SQLAlchemy selectable; `con` a URI, a connection or an engine."""

    kind = "sql"
    sql: Any = None
    con: Any = None
    params: Sequence[Any] | Mapping[str, Any] | None = None
    columns: Sequence[str] | None = None
    index_col: str | Sequence[str] | None = None  # of pandas' frame: in Arrow these columns come last
    coerce_float: bool = True
    chunksize: int | None = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sql is None or self.con is None:
            raise ArgumentError("sql", "needs a query (sql=) and a connection (con=)")

    def read(self, files: Sequence[DataFile] = ()) -> Iterator[pa.Table]:
        return self.tables()

    def tables(self, file: DataFile | None = None) -> Iterator[pa.Table]:
        with _rows(self.con, self.sql, self.params, self.chunksize or 10_000, self.columns) as (names, chunks):
            index = [self.index_col] if isinstance(self.index_col, str) else list(self.index_col or ())
            if strange := [name for name in index if name not in names]:
                rule = f"must be columns of the query ({', '.join(names)})"
                raise ArgumentError("index_col", rule, found=", ".join(map(repr, strange)))
            order = [name for name in names if name not in index] + index
            is_empty = True
            for rows in chunks:
                is_empty = False
                columns = list(zip(*rows, strict=True))
                arrays = [self._array(name, column) for name, column in zip(names, columns, strict=True)]
                yield pa.Table.from_arrays(arrays, names=names).select(order)
            if is_empty:
                yield pa.table({name: pa.nulls(0) for name in order})

    def _array(self, name: str, values: Sequence[Any]) -> pa.Array:
        if self.coerce_float and any(isinstance(value, Decimal) for value in values):
            values = [float(value) if isinstance(value, Decimal) else value for value in values]
        values = [bytes(value) if isinstance(value, (memoryview, bytearray)) else value for value in values]
        try:
            return self._of_type(values, self.types.get(name))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as problem:
            if not any(isinstance(value, (bytes, list, dict)) for value in values) and mixed_paths(
                [{name: v} for v in values]
            ):
                # SQLite's columns hold any type; the text of each is what they have in common
                return pa.array([None if value is None else str(value) for value in values])
            raise DataFileError(f"column {name!r} of the query", "must be of one type", found=str(problem)) from problem

    def _of_type(self, values: Sequence[Any], kind: pa.DataType | None) -> pa.Array:
        if kind is None:
            return pa.array(values)
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.array(values).cast(kind)  # numbers that features call text, and text they call numbers


@contextlib.contextmanager
def _rows(
    con: Any, sql: Any, params: Any, chunksize: int, columns: Sequence[str] | None
) -> Iterator[tuple[list[str], Iterator[list[Any]]]]:
    # of a table by name SQLAlchemy knows truths and dates, which SQLite keeps as numbers and texts
    needs_types = isinstance(sql, str) and _is_name(sql) and importlib.util.find_spec("sqlalchemy") is not None
    if isinstance(con, str) and con.startswith("sqlite:///") and isinstance(sql, str) and not needs_types:
        import sqlite3

        connection = sqlite3.connect(con.removeprefix("sqlite:///"))
        try:
            with _rows(connection, sql, params, chunksize, columns) as found:
                yield found
        finally:
            connection.close()
        return
    if isinstance(con, str) or _is_sqlalchemy(con):
        with _sqlalchemy_rows(con, sql, params, chunksize, columns) as found:
            yield found
        return
    if not hasattr(con, "cursor"):
        raise ArgumentError(
            "con", "must be a URI, a DB-API connection or SQLAlchemy's", found=f"a {type(con).__name__}"
        )
    cursor = con.cursor()
    try:
        try:
            cursor.execute(_query(sql, columns), params) if params is not None else cursor.execute(_query(sql, columns))
        except Exception as problem:  # each driver has errors of its own
            raise DataFileError("the query", "was refused by the database", found=str(problem)) from problem
        if cursor.description is None:
            raise ArgumentError("sql", "must be a query that gives rows", found=repr(str(sql)[:80]))
        yield _named(cursor.description), _chunks(cursor, chunksize)
    finally:
        cursor.close()


def _chunks(cursor: Any, chunksize: int) -> Iterator[list[Any]]:
    try:
        while rows := cursor.fetchmany(chunksize):
            yield list(rows)
    except (ValueError, TypeError) as problem:
        rule = "holds a value that is not of its column's type"
        raise DataFileError("the query", rule, found=str(problem)[:200], remedy="Select it by a query.") from problem


def _named(description: Any) -> list[str]:
    names = [str(column[0]) for column in description]
    if len(set(names)) != len(names):
        raise DataFileError("the query", "must name each column once", found=", ".join(names), remedy="Use AS.")
    return names


def _is_name(sql: str) -> bool:
    return len(sql.split()) == 1


def _query(sql: Any, columns: Sequence[str] | None) -> str:
    text = str(sql)
    if _is_name(text):
        quoted = ", ".join(f'"{name}"' for name in columns) if columns else "*"
        return f'SELECT {quoted} FROM "{text}"'
    return text


def _is_sqlalchemy(con: Any) -> bool:
    return type(con).__module__.startswith("sqlalchemy")


@contextlib.contextmanager
def _sqlalchemy_rows(
    con: Any, sql: Any, params: Any, chunksize: int, columns: Sequence[str] | None
) -> Iterator[tuple[list[str], Iterator[list[Any]]]]:
    try:
        import sqlalchemy
    except ImportError as problem:
        raise MissingDependencyError("con=", "as a URI needs SQLAlchemy", remedy="pip install sqlalchemy") from problem
    is_ours = isinstance(con, str)
    engine: Any = sqlalchemy.create_engine(con) if is_ours else con
    connection: Any = engine.connect() if hasattr(engine, "connect") else engine
    try:
        try:
            if isinstance(sql, str) and _is_name(sql):
                table = sqlalchemy.Table(sql, sqlalchemy.MetaData(), autoload_with=connection)
                query: Any = sqlalchemy.select(*[table.c[name] for name in columns] if columns else [table])
            else:
                query = sqlalchemy.text(_query(sql, columns)) if isinstance(sql, str) else sql
            result = connection.execution_options(stream_results=True).execute(query, params or {})
        except (sqlalchemy.exc.SQLAlchemyError, KeyError) as problem:
            found = f"{type(problem).__name__}: {problem}"[:200]
            raise DataFileError("the query", "was refused by the database", found=found) from problem
        yield [str(key) for key in result.keys()], _chunks(result, chunksize)  # noqa: SIM118
    finally:
        if connection is not con:
            connection.close()
        if is_ours:
            engine.dispose()
