"""Datasets as Python objects, data frames and files: to_dict, to_pandas, to_csv, to_json, to_parquet, to_sql."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from martlet.datasets.arguments import verb
from martlet.datasets.formatting import PLAIN, format_table, whole_array
from martlet.datasets.kinds import ArrayXD, Json, LargeList, List, walk
from martlet.datasets.runner import LocalProcesses
from martlet.datasets.tables import dict_maker
from martlet.datasets.writing import TableJob, opened, parts_of, processes_of, write_texts
from martlet.errors import ArgumentError, FeatureError, SaveError

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
        if isinstance(kind, ArrayXD) and name in frame:
            frame[name] = frame[name].map(lambda row, dtype=kind.dtype: whole_array(row, dtype), na_action="ignore")
        elif any(isinstance(sub, Json) for sub in walk(kind)):
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
    """Writes CSV (pandas' `to_csv` keywords, no index), compressed by the file's ending; returns the bytes written.

    `num_proc` processes turn rows into text. Their order stays.
    """
    from martlet.datasets.making import needs_pandas

    needs_pandas()
    header = to_csv_kwargs.pop("header", True)
    encode = CsvText(header, {"index": False, **to_csv_kwargs})
    with opened(path_or_buf, storage_options) as file:
        return write_texts("to_csv()", self, file, encode, batch_size or WRITTEN_ROWS, num_proc, always=True)


@dataclass(frozen=True)
class CsvText:
    """Rows as CSV, the header above the first."""

    header: Any
    options: dict[str, Any]

    def __call__(self, dataset: Any, table: pa.Table, is_first: bool) -> bytes:
        """The bytes of a table's rows."""
        text: str = table.to_pandas().to_csv(header=self.header if is_first else False, **self.options)
        return text.encode("utf-8")


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

    `num_proc` processes turn rows into text; their order stays. Dates are texts (ISO 8601). What else pandas'
    `to_json` takes (`date_format`, `double_precision`, ...) is its to do, and so are other shapes (`orient`) than
    records.
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
        return _by_pandas(self, path_or_buf, batch_size, num_proc, storage_options, compression, options)
    encode = JsonText(lines, force_ascii, indent)
    with opened(path_or_buf, storage_options, compression) as file:
        written = 0 if lines else file.write(b"[")
        size = batch_size or WRITTEN_ROWS
        written += write_texts("to_json()", self, file, encode, size, num_proc, always=False)
        return written if lines else written + file.write(b"]\n")


@dataclass(frozen=True)
class JsonText:
    """Rows as JSON: an object a line, or separated by commas."""

    lines: bool
    force_ascii: bool
    indent: int | None

    def __call__(self, dataset: Any, table: pa.Table, is_first: bool) -> bytes:
        """The bytes of a table's rows."""
        texts = [
            json.dumps(row, ensure_ascii=self.force_ascii, indent=self.indent, default=_plain, separators=(",", ":"))
            for row in _rows(dataset, table)
        ]
        text = "\n".join(texts) + "\n" if self.lines else ("" if is_first else ",") + ",".join(texts)
        return text.encode("utf-8", "surrogatepass")


def _by_pandas(
    self: Dataset | Blocks,
    path_or_buf: Any,
    batch_size: int | None,
    num_proc: int | None,
    storage_options: dict[str, Any] | None,
    compression: str | None,
    options: dict[str, Any],
) -> int:
    """JSON as pandas writes it, with the keywords of its `to_json`."""
    from martlet.datasets.making import needs_pandas

    needs_pandas()
    encode = PandasJsonText(options)
    with opened(path_or_buf, storage_options, compression) as file:
        if not options["lines"]:
            if processes_of("to_json()", self, num_proc) > 1:
                rule = f"one process writes all rows in one object where orient={options['orient']!r}"
                raise ArgumentError("to_json()", rule, found=f"num_proc={num_proc}", remedy="Leave num_proc out.")
            written: int = file.write(encode(self, self._whole(None), True))
            return written
        return write_texts("to_json()", self, file, encode, batch_size or WRITTEN_ROWS, num_proc, always=False)


@dataclass(frozen=True)
class PandasJsonText:
    """Rows as pandas writes them."""

    options: dict[str, Any]

    def __call__(self, dataset: Any, table: pa.Table, is_first: bool) -> bytes:
        """The bytes of a table's rows."""
        text: str = _frame(dataset, table, integer_object_nulls=True).to_json(**self.options)
        text = text if text.endswith("\n") else text + "\n"
        return text.encode("utf-8", "surrogatepass")


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
    """Writes Parquet with the features in its schema, row groups of `batch_size` rows or 100 MB; returns the bytes.

    Other keywords are those of `pyarrow.parquet.ParquetWriter`, which writes columns in threads.
    """
    import pyarrow.parquet

    if "num_proc" in parquet_writer_kwargs:
        remedy = "Leave it out; save_to_disk() and push_to_hub() write several files."
        found = f"num_proc={parquet_writer_kwargs['num_proc']}"
        raise ArgumentError("to_parquet()", "one process writes the file", found=found, remedy=remedy)
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
    """Writes a table of a database (a URI, an SQLAlchemy or sqlite3 connection) and returns the number of rows.

    `num_proc` processes append to it, each through a connection of its own, so `con` must be a URI then and the
    table's rows come in no certain order.
    """
    from martlet.datasets.making import needs_pandas

    needs_pandas()
    options = {"index": False, **sql_writer_kwargs}
    if_exists, size = options.pop("if_exists", "fail"), batch_size or WRITTEN_ROWS
    append = TableRows(name, con, options)
    count = processes_of("to_sql()", self, num_proc)
    if count > 1 and not isinstance(con, str):
        rule = "processes cannot share a connection"
        remedy = "Give the database's URI as con, or leave num_proc out."
        raise ArgumentError("to_sql()", rule, found=type(con).__name__, remedy=remedy)
    tables = self._tables(size, always=True)
    written = append(next(tables), if_exists)
    if count == 1:
        return written + sum(append(table) for table in tables)
    rest = self.skip(written)  # type: ignore[union-attr]  # several processes: no stream
    if parts := parts_of(rest.num_rows, size, count):
        job = TableJob(rest.with_format(None), append, size)
        LocalProcesses(min(count, len(parts))).run(job, parts, lambda rows: None)
    return written + rest.num_rows


@dataclass(frozen=True)
class TableRows:
    """Appends rows to a table of a database."""

    name: str
    con: Any
    options: dict[str, Any]

    def __call__(self, table: pa.Table, if_exists: str = "append") -> int:
        """The number of rows appended."""
        frame = table.to_pandas()
        try:
            frame.to_sql(self.name, self.con, if_exists=if_exists, **self.options)
        except Exception as problem:
            if type(problem).__module__.split(".")[0] not in ("sqlite3", "sqlalchemy"):
                raise
            rule = "could not be written; batches before this are in it"
            found = str(problem).split("\n")[0]
            raise SaveError(f"table {self.name!r}", rule, found=found) from problem
        return len(frame)
