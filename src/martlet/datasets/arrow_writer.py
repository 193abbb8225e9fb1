"""ArrowWriter: rows written one after the other into an Arrow file that Dataset.from_file maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets import elsewhere
from martlet.datasets.features import Features
from martlet.datasets.outputs import Kinds
from martlet.errors import ArgumentError

__all__ = ["ArrowWriter"]


class ArrowWriter:
    """Writes rows and batches to an Arrow stream file; `finalize()` gives the number of rows and of bytes.

    Types are those of `features` (or `schema`), else those of the first `writer_batch_size` rows.
    """

    def __init__(
        self,
        schema: pa.Schema | None = None,
        features: Features | None = None,
        path: str | None = None,
        stream: Any = None,
        writer_batch_size: int | None = 1000,
    ) -> None:
        if (path is None) == (stream is None):
            raise ArgumentError("ArrowWriter", "needs path or stream, one of them")
        if features is None and schema is not None:
            features = Features.from_arrow_schema(schema)
        self._kinds = Kinds(Features(features) if features is not None else None)
        self._stream = pa.OSFile(str(path), "wb") if path is not None else stream
        self._is_ours, self._size = path is not None, writer_batch_size or 1000
        self._rows: list[Mapping[str, Any]] = []
        self._writer: Any = None
        self._num_rows = self._num_bytes = 0

    @property
    def features(self) -> Features | None:
        """The columns and their kinds, once they are known."""
        return self._kinds.fixed if self._kinds.fixed is not None else Features(self._kinds.known) or None

    def write(self, example: Mapping[str, Any]) -> None:
        """One row."""
        self._rows.append(example)
        if len(self._rows) >= self._size:
            self.write_examples_on_file()

    def write_examples_on_file(self) -> None:
        """Writes the rows that wait to be a batch."""
        if self._rows:
            rows, self._rows = self._rows, []
            names = dict.fromkeys(name for row in rows for name in row)
            self._write({name: [row.get(name) for row in rows] for name in names})

    def write_batch(self, batch_examples: Mapping[str, Any]) -> None:
        """Rows as columns."""
        self.write_examples_on_file()
        if batch_examples and len(next(iter(batch_examples.values()))):
            self._write(dict(batch_examples))

    def write_table(self, pa_table: pa.Table) -> None:
        """Rows as a table."""
        self.write_batch({name: pa_table.column(name) for name in pa_table.column_names})

    write_row = write_table

    def _write(self, columns: dict[str, Any]) -> None:
        table, features = self._kinds.table(columns, f"rows from {self._num_rows}")
        if self._writer is None:
            self._kinds.fixed = features
            self._writer = pa.ipc.new_stream(self._stream, features.arrow_schema)
        self._writer.write_table(table)
        self._num_rows += table.num_rows
        self._num_bytes += table.nbytes

    def finalize(self, close_stream: bool = True) -> tuple[int, int]:
        """Ends the file; the number of rows and of bytes."""
        self.write_examples_on_file()
        if self._writer is None:
            if self.features is None:
                raise ArgumentError("ArrowWriter", "needs features, as no row was written")
            self._writer = pa.ipc.new_stream(self._stream, self.features.arrow_schema)
        self._writer.close()
        if close_stream or self._is_ours:
            self._stream.close()
        return self._num_rows, self._num_bytes

    def close(self) -> None:
        """Closes the file, ended or not."""
        self._stream.close()

    def __enter__(self) -> ArrowWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
