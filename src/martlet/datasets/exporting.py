"""Datasets as Python objects, data frames and files: to_dict, to_pandas, to_csv, to_json, to_parquet, to_sql."""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from martlet.datasets.arguments import verb
from martlet.datasets.formatting import PLAIN, format_table
from martlet.datasets.kinds import Json, LargeList, List, walk
from martlet.datasets.tables import dict_maker
from martlet.errors import ArgumentError, FeatureError

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset
    from martlet.datasets.streams.blocks import Blocks

WRITTEN_ROWS = 1000
STREAMED_ROWS = 10_000  # rows of a stream that become a row group
ROW_GROUP_BYTES = 100_000_000
ORIENTS = ("columns", "index", "split", "values", "table")  # shapes of JSON that pandas writes


@verb
def to_dict(self: Dataset | Blocks, batch_size: int | None = None, batched: bool = False) -> Any:
    """Columns by name, as lists of what is stored (pictures as bytes and path); `batched` gives them in parts."""
    if not batched:
        return _columns(self, self._whole(None))
    return (_columns(self, table) for table in self._tables(batch_size or WRITTEN_ROWS))


def _columns(dataset: Dataset | Blocks, table: pa.Table) -> dict[str, list[Any]]:
    """Columns of what is stored, JSON parsed."""
    features = dataset.features
    return {
        name: [_parsed(features[name], value) for value in table.column(name).to_pylist()]
        if any(isinstance(kind, Json) for kind in walk(features[name]))
        else table.column(name).to_pylist()
        for name in table.column_names
    }


def _parsed(kind: Any, value: Any) -> Any:
    if value is None or not any(isinstance(sub, Json) for sub in walk(kind)):
        return value
    if isinstance(kind, dict):
        return {name: _parsed(sub, value[name]) for name, sub in kind.items()}
    if isinstance(kind, List | LargeList):
        return [_parsed(kind.feature, item) for item in value]
    return json.loads(value)


def to_list(self: Dataset | Blocks) -> list[dict[str, Any]]:
    """Rows as dicts of what is stored."""
    return _rows(self, self._whole(None))


def _rows(dataset: Dataset | Blocks, table: pa.Table) -> list[dict[str, Any]]:
    """Rows of what is stored, JSON parsed."""
    columns = _columns(dataset, table)
    return dict_maker(tuple(columns))(list(columns.values())) if columns else [{}] * table.num_rows


@verb
def to_pandas(self: Dataset | Blocks, batch_size: int | None = None, batched: bool = False) -> Any:
    """A pandas DataFrame of what is stored, or, `batched`, several."""
    from martlet.datasets.making import needs_pandas

    needs_pandas()
    if not batched:
        return _frame(self, self._whole(None))
    return (_frame(self, table) for table in self._tables(batch_size or WRITTEN_ROWS))


def _frame(dataset: Dataset | Blocks, table: pa.Table, **options: Any) -> Any:
    """A DataFrame of what is stored, JSON parsed."""
    frame = table.to_pandas(**options)
    for name, kind in dataset.features.items():
        if any(isinstance(sub, Json) for sub in walk(kind)):
            frame[name] = [_parsed(kind, value) for value in table.column(name).to_pylist()]
    return frame


@verb
def to_polars(
    self: Dataset | Blocks,
    batch_size: int | None = None,
    batched: bool = False,
    schema_overrides: dict[str, Any] | None = None,
    rechunk: bool = True,
) -> Any:
    """A Polars DataFrame, or, `batched`, several."""
    form = type(PLAIN)("polars")

    def frame(table: pa.Table) -> Any:
        made = format_table(table, self.features, form)
        return made.cast(schema_overrides) if schema_overrides else made

    if not batched:
        whole = frame(self._whole(None))
        return whole.rechunk() if rechunk else whole
    return (frame(table) for table in self._tables(batch_size or WRITTEN_ROWS))


@verb
def to_csv(
    self: Dataset | Blocks,
    path_or_buf: Any,
    batch_size: int | None = None,
    num_proc: int | None = None,
    storage_options: dict[str, Any] | None = None,
    **to_csv_kwargs: Any,
) -> int:
    """Writes CSV (pandas' `to_csv` keywords, no index), compressed by the file's ending; returns the bytes written."""
    from martlet.datasets.making import needs_pandas

    needs_pandas()
    header = to_csv_kwargs.pop("header", True)
    to_csv_kwargs.setdefault("index", False)
    written = 0
    with opened(path_or_buf, storage_options) as file:
        for number, table in enumerate(self._tables(batch_size or WRITTEN_ROWS, always=True)):
            text = table.to_pandas().to_csv(header=header if number == 0 else False, **to_csv_kwargs)
            written += file.write(text.encode("utf-8"))
    return written


@verb
def to_json(
    self: Dataset | Blocks,
    path_or_buf: Any,
    batch_size: int | None = None,
    num_proc: int | None = None,
    storage_options: dict[str, Any] | None = None,
    *,
    lines: bool | None = None,
    orient: str = "records",
    force_ascii: bool = True,
    indent: int | None = None,
    compression: str | None = "infer",
    **to_json_kwargs: Any,
) -> int:
    """Writes JSON, an object a line, or with `lines=False` one list, and returns the bytes written.

    Dates are texts (ISO 8601). What else pandas' `to_json` takes (`date_format`, `double_precision`, ...) is its to do,
    and so are other shapes (`orient`) than records.
    """
    lines = orient == "records" if lines is None else lines
    if not lines and batch_size is not None and self.num_rows is not None and batch_size < self.num_rows:
        raise ArgumentError("to_json()", "lines=False writes all rows at once", found=f"batch_size={batch_size}")
    if orient not in ("records", *ORIENTS) or (lines and orient != "records"):
        rule = f"orient must be 'records', or with lines=False one of {', '.join(ORIENTS)}"
        raise ArgumentError("to_json()", rule, found=f"lines={lines}, orient={orient!r}")
    if to_json_kwargs or orient != "records":
        known = {"date_format", "double_precision", "date_unit", "default_handler", "index"}
        if strange := sorted(set(to_json_kwargs) - known):
            remedy = f"It takes lines, orient, force_ascii, indent, compression, {', '.join(sorted(known))}."
            raise ArgumentError("to_json()", "has no such keyword", found=", ".join(strange), remedy=remedy)
        if orient in ("split", "table"):
            to_json_kwargs.setdefault("index", False)
        options = {"orient": orient, "lines": lines, "force_ascii": force_ascii, "indent": indent, **to_json_kwargs}
        return _by_pandas(self, path_or_buf, batch_size, storage_options, compression, options)
    written, first = 0, True
    with opened(path_or_buf, storage_options, compression) as file:
        if not lines:
            written += file.write(b"[")
        for table in self._tables(batch_size or WRITTEN_ROWS):
            texts = [
                json.dumps(row, ensure_ascii=force_ascii, indent=indent, default=_plain, separators=(",", ":"))
                for row in _rows(self, table)
            ]
            joint = "\n" if lines else ","
            text = joint.join(texts) + ("\n" if lines else "")
            written += file.write(("" if lines or first else ",").encode() + text.encode("utf-8", "surrogatepass"))
            first = False
        if not lines:
            written += file.write(b"]\n")
    return written


def _by_pandas(
    self: Dataset | Blocks,
    path_or_buf: Any,
    batch_size: int | None,
    storage_options: dict[str, Any] | None,
    compression: str | None,
    options: dict[str, Any],
) -> int:
    """JSON as pandas writes it, with the keywords of its `to_json`."""
    from martlet.datasets.making import needs_pandas

    needs_pandas()
    tables = self._tables(batch_size or WRITTEN_ROWS) if options["lines"] else [self._whole(None)]
    written = 0
    with opened(path_or_buf, storage_options, compression) as file:
        for table in tables:
            text = _frame(self, table, integer_object_nulls=True).to_json(**options)
            written += file.write((text if text.endswith("\n") else text + "\n").encode("utf-8", "surrogatepass"))
    return written


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, np.generic):
        return value.item()
    raise FeatureError("to_json()", "cannot write this as JSON", found=type(value).__name__)


@verb
def to_parquet(
    self: Dataset | Blocks,
    path_or_buf: Any,
    batch_size: int | None = None,
    storage_options: dict[str, Any] | None = None,
    **parquet_writer_kwargs: Any,
) -> int:
    """Writes Parquet with the features in its schema, row groups of `batch_size` rows or 100 MB; returns the bytes."""
    import pyarrow.parquet

    schema, size = self.features.arrow_schema, batch_size or _rows_of_group(self)
    written = 0
    with (
        opened(path_or_buf, storage_options, None) as file,
        pyarrow.parquet.ParquetWriter(file, schema, **parquet_writer_kwargs) as writer,
    ):
        for table in self._tables(size):
            writer.write_table(table.combine_chunks(), row_group_size=size)
            written += table.nbytes
    return written


def _rows_of_group(dataset: Dataset | Blocks) -> int:
    """Rows of about ROW_GROUP_BYTES; of a stream, whose bytes are not known, so many as are written at a time."""
    if dataset.num_rows is None or not hasattr(dataset, "_stored"):
        return STREAMED_ROWS
    num_bytes = max(1, int(dataset._stored.table.nbytes))
    return max(1, min(max(dataset.num_rows, 1), len(dataset._stored) * ROW_GROUP_BYTES // num_bytes))


@verb
def to_sql(
    self: Dataset | Blocks,
    name: str,
    con: Any,
    batch_size: int | None = None,
    num_proc: int | None = None,
    **sql_writer_kwargs: Any,
) -> int:
    """Writes a table of a database (a URI, an SQLAlchemy or sqlite3 connection) and returns the number of rows."""
    from martlet.datasets.making import needs_pandas

    needs_pandas()
    sql_writer_kwargs.setdefault("index", False)
    if_exists = sql_writer_kwargs.pop("if_exists", "fail")
    written = 0
    for number, table in enumerate(self._tables(batch_size or WRITTEN_ROWS, always=True)):
        frame = table.to_pandas()
        frame.to_sql(name, con, if_exists=if_exists if number == 0 else "append", **sql_writer_kwargs)
        written += len(frame)
    return written


@contextlib.contextmanager
def opened(path_or_buf: Any, storage_options: Any, compression: str | None = "infer") -> Iterator[Any]:
    """A file to write bytes to. A local file is put in its place when it is whole."""
    if not isinstance(path_or_buf, str | bytes | os.PathLike):
        yield path_or_buf
        return
    name = os.fsdecode(path_or_buf)
    ends_plain = compression is None or not name.endswith((".gz", ".bz2", ".xz", ".zip", ".zst"))
    if "://" not in name and (ends_plain and compression in (None, "infer")):
        from martlet.formats.files import write_aside

        with write_aside(name) as file:
            yield file
        return
    import fsspec

    with fsspec.open(name, "wb", compression=compression, **(storage_options or {})) as file:
        yield file
