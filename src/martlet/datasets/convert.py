"""A source's rows as one Arrow file, in bounded memory; the schema grows with the rows, and says so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from martlet.datasets.encoding import cast_array
from martlet.datasets.features import Features
from martlet.datasets.files import DataFile
from martlet.datasets.sources.source import Restart, Source, log
from martlet.datasets.widen import Change, fit_table, unify_schemas
from martlet.errors import DataFileError, FeatureError
from martlet.formats.files import save_error

MAX_RESTARTS = 200


def convert(
    source: Source, files: Sequence[DataFile], path: Path, features: Features | None = None
) -> tuple[Features, int, list[str]]:
    """Write the rows of `files` to the Arrow stream `path`; the features, the number of rows, what was left out.

    `features` fixes the columns: rows are cast to them. Without, each column has the narrowest type that holds all its
    values. Errors name the file and the place; nothing is left at `path` then.
    """
    source = source.copy()
    if features is not None:
        source.types = {**source.types, **read_types(features)}
    for _ in range(MAX_RESTARTS):
        try:
            return *_Writing(path, features).all(source, files), source.said
        except Restart as restart:
            log.info("%s; the files are read again for it", restart.why)
            source.told(restart)
    raise DataFileError(str(files[0]) if files else "no files", f"changed its types {MAX_RESTARTS} times")


def read_types(features: Features) -> dict[str, pa.DataType]:
    """The Arrow types to read text columns as; kinds that encode (class names, pictures) are cast afterwards."""
    from martlet.datasets.kinds import Value

    return {name: kind() for name, kind in features.items() if isinstance(kind, Value)}


class _Writing:
    """Segments, a file for each schema on the way; at the end the first are rewritten under the last one's."""

    def __init__(self, path: Path, features: Features | None) -> None:
        self._path, self._features = path, features
        self._schema: pa.Schema | None = None
        self._segments: list[tuple[Path, pa.Schema]] = []
        self._writer: Any = None
        self._sink: Any = None
        self.num_rows = 0

    def all(self, source: Source, files: Sequence[DataFile]) -> tuple[Features, int]:
        try:
            for table in source.read(files):
                self._add(source, table)
            self._close()
            return self._joined()
        except OSError as problem:
            if isinstance(problem, pa.ArrowException) or problem.errno is None:
                raise
            raise save_error(self._path, problem) from problem
        finally:
            with contextlib.suppress(OSError):  # a full disk has been told of; what is open has an end to write too
                self._close()
            for segment, _ in self._segments:
                with contextlib.suppress(FileNotFoundError):
                    segment.unlink()

    def _add(self, source: Source, table: pa.Table) -> None:
        if self._features is not None:
            table = cast_table(table, self._features)
        if self._schema is None:
            self._start(table.schema)
        elif not table.schema.equals(self._schema):
            wider, changes = unify_schemas(self._schema, table.schema)
            self._widen(source, wider, changes)
            table = fit_table(table, wider)
        self.num_rows += table.num_rows
        self._writer.write_table(table)

    def _widen(self, source: Source, wider: pa.Schema, changes: list[Change]) -> None:
        lossy = [change for change in changes if change.is_lossy]
        if lossy:
            types = {
                str(c.path[0]): wider.field(c.path[0]).type
                for c in lossy
                if not isinstance(c.now, pa.BaseExtensionType)
            }
            paths = [c.path for c in lossy if isinstance(c.now, pa.BaseExtensionType)]
            raise Restart(types, "; ".join(map(str, lossy)), paths)
        if not wider.equals(self._schema):
            for change in changes:
                log.info("from row %d on, %s", self.num_rows, change)
            self._start(wider)

    def _start(self, schema: pa.Schema) -> None:
        self._close()
        dressed = Features.from_arrow_schema(schema).arrow_schema
        if schema.equals(dressed):
            schema = dressed  # with the features as metadata, so that the file is done when it is written
        self._schema = schema
        segment = self._path.with_name(f"{self._path.name}.{len(self._segments)}.part")
        self._segments.append((segment, schema))
        self._sink = pa.OSFile(os.fspath(segment), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)

    def _close(self) -> None:
        if self._writer is not None:
            writer, sink = self._writer, self._sink
            self._writer = self._sink = None
            try:
                writer.close()
            finally:
                sink.close()

    def _joined(self) -> tuple[Features, int]:
        schema = self._schema or (self._features.arrow_schema if self._features is not None else pa.schema([]))
        features = self._features if self._features is not None else Features.from_arrow_schema(schema)
        final = features.arrow_schema
        if len(self._segments) == 1 and self._segments[0][1].equals(final, check_metadata=True):
            os.replace(self._segments.pop()[0], self._path)
            return features, self.num_rows
        with pa.OSFile(os.fspath(self._path), "wb") as sink, pa.ipc.new_stream(sink, final) as writer:
            for batch in self._batches():
                writer.write_table(fit_table(fit_table(pa.Table.from_batches([batch]), schema), final))
        return features, self.num_rows

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for segment, _ in self._segments:
            with pa.memory_map(os.fspath(segment)) as mapped:
                yield from pa.ipc.open_stream(mapped)


def cast_table(table: pa.Table, features: Features) -> pa.Table:
    """The table under features: columns missing are null, values cast. FeatureError for columns that are not theirs."""
    surplus = [name for name in table.column_names if name not in features]
    if surplus:
        raise FeatureError(
            "features", f"must name every column ({', '.join(table.column_names)})", found=f"no {', '.join(surplus)}"
        )
    schema = features.arrow_schema
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)], field.type))
            continue
        column = table.column(field.name)
        try:
            chunks = [cast_array(chunk, features[field.name]) for chunk in column.chunks]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
            raise FeatureError(
                f"column {field.name!r}", f"cannot be cast to {features[field.name]!r}", found=str(problem)
            ) from problem
        columns.append(pa.chunked_array(chunks, field.type))
    return pa.Table.from_arrays(columns, schema=schema)
