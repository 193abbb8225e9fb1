"""Rows that are there: an Arrow table with its features, the files it lies in, and the key of its content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from martlet.datasets.encoding import cast_array
from martlet.datasets.features import Features, arrow_field, decodes
from martlet.datasets.tables import Rows, open_arrow, plain_table
from martlet.errors import ArgumentError, DatasetError

SENT_BYTES = 1 << 26  # a table in memory that is larger is given to workers as a file


class Stored:
    """A table whose columns are of the features' Arrow types, in their order. Columns are chosen without a copy."""

    def __init__(
        self,
        table: pa.Table,
        features: Features,
        files: Sequence[str] = (),
        key: str | Callable[[], str] | None = None,
        owner: Any = None,
        origin: Sequence[str] | None = (),
    ) -> None:
        self.table, self.features, self.files = table, features, tuple(files)
        self._key = key
        self._views: dict[tuple[str, ...] | None, tuple[list[str], list[int], bool]] = {}
        self.owner = owner  # what must live as long as the table: a temporary folder
        # The columns' names in the files; None: the table is more than the files one after another.
        self.origin = tuple(table.column_names) if origin == () else origin

    @classmethod
    def of(
        cls, table: pa.Table, features: Features | None = None, files: Sequence[str] = (), key: Any = None
    ) -> Stored:
        """A table as it comes: features from its schema, or cast to those given. Duplicate columns are an error."""
        names = table.column_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ArgumentError("columns", "must have different names", found=f"twice {', '.join(map(repr, twice))}")
        found = Features.from_arrow_schema(table.schema)
        table = plain_table(table)
        if features is not None:
            if set(features) != set(names):
                raise ArgumentError("features", f"must name the columns {', '.join(names)}", found=", ".join(features))
            table, found = table.select(list(features)), features
        return cls(fitted(table, found), found, files, key, origin=tuple(table.column_names))

    @property
    def key(self) -> str:
        """The key of the content: of its files, or of its buffers. The same for the same rows."""
        if self._key is None:
            self._key = key_of_files(self.files) if self.files else key_of_table(self.table)
        elif not isinstance(self._key, str):
            self._key = self._key()
        return self._key

    @property
    def is_in_memory(self) -> bool:
        """Whether no file holds the rows."""
        return not self.files

    @cached_property
    def is_decoded(self) -> bool:
        """Whether values of any column look different to users than to Arrow."""
        return any(map(decodes, self.features.values()))

    @cached_property
    def rows(self) -> Rows:
        """Access by number."""
        return Rows(self.table)

    def view(self, wanted: tuple[str, ...] | None) -> tuple[list[str], list[int], bool]:
        """Names and numbers of columns (None: all), and whether any of them is decoded."""
        found = self._views.get(wanted)
        if found is None:
            known = self.table.column_names
            names = known if wanted is None else list(wanted)
            is_decoded = any(decodes(self.features[name]) for name in names)
            found = self._views[wanted] = (names, [known.index(name) for name in names], is_decoded)
        return found

    def columns(self, names: Sequence[str], renamed: Sequence[str] | None = None) -> Stored:
        """Some columns, in this order, renamed."""
        new = list(renamed or names)
        features = Features({to: self.features[name] for name, to in zip(names, new, strict=True)})
        table = self.table.select(list(names)).rename_columns(new)
        key, known = self._derived("columns", names, new), self.table.column_names
        # the files know the columns by the names they had there
        origin = None if self.origin is None else tuple(self.origin[known.index(name)] for name in names)
        return Stored(described(table, features), features, self.files, key, self.owner, origin)

    def with_features(self, features: Features) -> Stored:
        """The same storage, understood otherwise."""
        key = self._derived("features", features.to_dict())
        return Stored(described(self.table, features), features, self.files, key, self.owner, self.origin)

    def _derived(self, *what: Any) -> Callable[[], str]:
        return lambda: digest(self.key, *map(repr, what))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def in_files(self, folder: Path) -> Stored:
        """The same rows where other processes can map them: in its own files, or in a new one in the folder."""
        if self._is_reopened() or self.table.nbytes < SENT_BYTES:
            return self
        path = folder / "source.arrow"
        with pa.OSFile(os.fspath(path), "wb") as sink, pa.ipc.new_file(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return Stored(open_arrow(path), self.features, (os.fspath(path),), self._key)

    def _is_reopened(self) -> bool:
        """Whether the files, one after another, are the table."""
        return bool(self.files) and self.origin is not None and all(map(os.path.isfile, self.files))

    def __reduce__(self) -> Any:
        if self._is_reopened():
            return _reopened, (self.files, self.origin, self.features, self.key, len(self))
        return Stored, (self.table, self.features, (), self._key if isinstance(self._key, str) else None)


def _reopened(files: Sequence[str], origin: Sequence[str], features: Features, key: str, num_rows: int) -> Stored:
    """A table from its files, as it was when it was sent. DatasetError if the files changed meanwhile."""
    schema = features.arrow_schema
    tables = []
    for name in files:
        table = open_arrow(name).select(list(origin))
        columns = [cast_column(table.column(at), kind) for at, kind in enumerate(features.values())]
        tables.append(pa.Table.from_arrays(columns, schema=schema))
    whole = pa.concat_tables(tables)
    if whole.num_rows != num_rows:
        raise DatasetError(files[0], f"had {num_rows} rows with the other files", found=whole.num_rows)
    return Stored(whole, features, files, key, origin=tuple(origin))


def described(table: pa.Table, features: Features) -> pa.Table:
    """The table under the schema of its features."""
    return (
        table.cast(features.arrow_schema)
        if table.schema.types != features.arrow_schema.types
        else _dressed(table, features)
    )


def _dressed(table: pa.Table, features: Features) -> pa.Table:
    schema = features.arrow_schema
    return pa.Table.from_arrays(table.columns, schema=schema) if table.num_columns else table


def fitted(table: pa.Table, features: Features) -> pa.Table:
    """The table with each column cast to its feature. FeatureError where it cannot be."""
    columns = [cast_column(table.column(name), kind) for name, kind in features.items()]
    if not columns:
        return table
    return pa.Table.from_arrays(columns, schema=features.arrow_schema)


def cast_column(column: pa.ChunkedArray, kind: Any) -> pa.ChunkedArray:
    """A column cast to a kind, chunk by chunk."""
    target = arrow_field("", kind).type
    chunks = [cast_array(chunk, kind) for chunk in column.chunks]
    if all(new is old for new, old in zip(chunks, column.chunks, strict=True)) and column.type == target:
        return column
    return pa.chunked_array(chunks, target)


def digest(*parts: str | bytes) -> str:
    """32 hexadecimal digits of the parts, each by its length and content."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()


def key_of_files(files: Sequence[str]) -> str:
    """The key of files: their names, sizes and times of change (ns)."""
    parts = []
    for name in files:
        try:
            found = os.stat(name)
            parts.append(f"{os.path.abspath(name)} {found.st_size} {found.st_mtime_ns}")
        except OSError:  # the file is gone, its pages are still mapped
            parts.append(f"{os.path.abspath(name)} gone")
    return digest("files", *parts)


def key_of_table(table: pa.Table) -> str:
    """The key of rows in memory: their schema and every byte."""
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(table.schema.serialize().to_pybytes())
    sink = _HashSink(hasher)
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    return digest("table", hasher.hexdigest())


class _HashSink:
    """A file that only hashes what is written."""

    def __init__(self, hasher: Any) -> None:
        self._hasher, self.closed = hasher, False

    def write(self, data: Any) -> int:
        self._hasher.update(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
