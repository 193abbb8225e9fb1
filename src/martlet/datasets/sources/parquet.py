"""Parquet and Arrow files: their own schema, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from martlet.datasets.files import DataFile
from martlet.datasets.sources.source import Source, log
from martlet.datasets.tables import named_once, plain_table
from martlet.errors import ArgumentError, DataFileError

FILE_MAGIC = b"ARROW1"  # of the Arrow file format; a stream has none


@dataclass
class Parquet(Source):
    """Rows of Parquet. `columns` reads those alone; `filters` (as pyarrow's) reads the rows that pass alone.

    `on_bad_files="skip"` goes on after a file that cannot be read, and says so.
    """

    kind = "parquet"
    batch_size: int | None = None
    columns: Sequence[str] | None = None
    filters: Any = None
    on_bad_files: str = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_bad_files not in ("error", "warn", "skip"):
            raise ArgumentError("on_bad_files", "must be 'error', 'warn' or 'skip'", found=repr(self.on_bad_files))

    def tables(self, file: DataFile) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        with file.open() as stream:
            try:
                reader = pq.ParquetFile(stream, memory_map=file.is_local)
                named_once(str(file), reader.schema_arrow)
                for batch in reader.iter_batches(
                    self.batch_size or 8192,
                    columns=wanted_columns(self.columns, reader.schema_arrow.names),
                    use_threads=self.num_threads != 1,
                ):
                    table = pa.Table.from_batches([batch])
                    yield plain_table(table if self.filters is None else passing(table, self.filters))
                if not reader.metadata.num_rows:
                    yield plain_table(reader.schema_arrow.empty_table())
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, KeyError) as problem:
                if self.on_bad_files != "error":
                    log.warning("%s: left out, as it cannot be read: %s", file, " ".join(str(problem).split())[:200])
                    return
                raise unreadable(file, "Parquet", problem) from problem


@dataclass
class Arrow(Source):
    """Rows of Arrow files, of the stream format (which Hugging Face writes) or the file format."""

    kind = "arrow"

    def tables(self, file: DataFile) -> Iterator[pa.Table]:
        with file.open() as stream:
            try:
                start = stream.read(len(FILE_MAGIC))
                stream.seek(0)
                if start == FILE_MAGIC:
                    reader = pa.ipc.open_file(stream)
                    batches: Any = (reader.get_batch(i) for i in range(reader.num_record_batches))
                else:
                    batches = reader = pa.ipc.open_stream(stream)
                named_once(str(file), reader.schema)
                is_empty = True
                for batch in batches:
                    is_empty = False
                    yield plain_table(pa.Table.from_batches([batch]))
                if is_empty:
                    yield plain_table(reader.schema.empty_table())
            except (pa.ArrowInvalid, OSError) as problem:
                raise unreadable(file, "Arrow", problem) from problem


def passing(table: pa.Table, filters: Any) -> pa.Table:
    """The rows that pass: `filters` is an Arrow expression, or a list of (column, comparison, value)."""
    import pyarrow.dataset as pad
    import pyarrow.parquet as pq

    return pad.dataset(table).to_table(
        filter=pq.filters_to_expression(filters) if isinstance(filters, list) else filters
    )


def wanted_columns(columns: Sequence[str] | None, names: list[str]) -> list[str] | None:
    """The columns to read, in the file's order. ArgumentError for one that it does not have."""
    if not columns:
        return None
    if strange := [name for name in columns if name.split(".")[0] not in names]:
        raise ArgumentError("columns", f"must be columns of the file: {', '.join(names)}", found=", ".join(strange))
    return sorted(columns, key=lambda name: names.index(name.split(".")[0]))


def unreadable(file: DataFile, what: str, problem: Exception) -> DataFileError:
    if isinstance(problem, DataFileError):
        return problem
    reason = " ".join(str(problem).split())[:200]
    return DataFileError(str(file), f"must be {what}", found=reason, remedy="Is it truncated?")
