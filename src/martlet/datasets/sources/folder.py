"""Folders of pictures or sound, labelled by folder or described by a metadata file."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from martlet.datasets.audio import Audio
from martlet.datasets.features import Features
from martlet.datasets.files import DataFile
from martlet.datasets.image import Image
from martlet.datasets.kinds import ClassLabel, List, Value
from martlet.datasets.sources.csv import Csv
from martlet.datasets.sources.json import Json
from martlet.datasets.sources.media import AUDIO, IMAGES
from martlet.datasets.sources.parquet import Parquet, passing
from martlet.datasets.sources.source import Source
from martlet.datasets.widen import fit_table, unify_schemas
from martlet.errors import ArgumentError, DataFileError

METADATA = {"metadata.csv": Csv, "metadata.jsonl": Json, "metadata.parquet": Parquet}
NUM_ROWS = 1000
ROW = "\0row"  # a column of numbers, under a name that no folder's has
LINKED_ROWS = 100  # rows of metadata whose files, where they are not local, are read at a time


@dataclass
class Folder(Source):
    """A row a file, with `label` by folder where there are several; or the rows of metadata.csv, .jsonl or .parquet.

    `filters`, as of Parquet, are conditions on the metadata or the label's number: files of other rows are not read.
    In metadata, `file_name` (and any `x_file_name`, `file_names`) names files beside it and becomes the file's column.
    """

    column: ClassVar[str]
    endings: ClassVar[frozenset[str]]
    drop_labels: bool | None = None
    drop_metadata: bool | None = None
    filters: Any = None
    labels: list[str] = field(default_factory=list)
    has_metadata: bool = False
    columns: Features | None = None
    described: dict[str, DataFile] = field(default_factory=dict)  # every file by its path: streams read one at a time

    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("on_error", "drop_labels", "drop_metadata", "filters")}

    def _passing(self, table: pa.Table) -> pa.Table:
        """The rows of metadata, or labels, that pass the filters: files of the others are not read."""
        if self.filters is None:
            return table
        try:
            return passing(table, self.filters)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as problem:
            remedy = f"The columns are {', '.join(name for name in table.column_names if name != ROW)}."
            found = str(problem).split("\n")[0].split(" in \0")[0]
            raise ArgumentError("filters", "cannot be evaluated", found=found, remedy=remedy) from problem

    def _kind(self) -> Any:
        raise NotImplementedError

    def look(self, files: Mapping[str, Sequence[DataFile]]) -> Features:
        media = [file for group in files.values() for file in group if self._is_media(file)]
        tables = [file for group in files.values() for file in group if file.name in METADATA]
        self.has_metadata = bool(tables) and not self.drop_metadata
        if self.has_metadata:
            self.described = {_path(file): file for group in files.values() for file in group}
            self.columns = self._described([next(iter(group), None) for group in self._metadata(files).values()])
            return self.columns
        labels = sorted({_folder_name(file) for file in media})
        depths = {_path(file).count("/") for file in media}
        is_labelled = not self.drop_labels and not tables
        if self.drop_labels is None:
            is_labelled = is_labelled and len(labels) > 1 and len(depths) == 1
        self.labels = labels if is_labelled else []
        kinds = {self.column: self._kind()}
        self.columns = Features({**kinds, "label": ClassLabel(names=labels)} if is_labelled else kinds)
        return self.columns

    def _is_media(self, file: DataFile) -> bool:
        return posixpath.splitext(file.name)[1].lower() in self.endings

    def _metadata(self, files: Mapping[str, Sequence[DataFile]]) -> dict[str, list[DataFile]]:
        found = {split: [file for file in group if file.name in METADATA] for split, group in files.items()}
        endings = {posixpath.splitext(file.name)[1] for group in found.values() for file in group}
        if len(endings) > 1:
            raise DataFileError("metadata", "must be of one format", found=", ".join(sorted(endings)))
        return {split: group for split, group in found.items() if group}

    def _described(self, files: Sequence[DataFile | None]) -> Features:
        schema: pa.Schema | None = None
        for file in files:
            if file is not None:
                for table in self._rows(file):
                    schema = table.schema if schema is None else unify_schemas(schema, table.schema)[0]
        kinds: dict[str, Any] = {}
        is_linked = False
        for name, kind in Features.from_arrow_schema(schema or pa.schema([])).items():
            target = _target(name, self.column)
            if target is None or kind not in (Value("string"), Value("large_string"), List(Value("string"))):
                kinds[name] = kind
                continue
            is_linked = True
            kinds[target] = List(self._kind()) if isinstance(kind, List) else self._kind()
        if not is_linked:
            raise DataFileError(
                ", ".join(str(file) for file in files if file),
                "must have a column file_name, *_file_name, file_names or *_file_names",
                found=", ".join(kinds) or "no rows",
            )
        return Features(kinds)

    def _rows(self, file: DataFile) -> Iterator[pa.Table]:
        source = METADATA[file.name](on_error=self.on_error, num_threads=1)
        tables = list(source.read([file]))
        schema = tables[0].schema if tables else pa.schema([])
        for table in tables:
            schema = unify_schemas(schema, table.schema)[0]
        yield from (fit_table(table, schema) for table in tables)

    def read(self, files: Sequence[DataFile]) -> Iterator[pa.Table]:
        if self.columns is None:
            self.look({"": files})
        assert self.columns is not None
        if self.has_metadata:
            for file in files:
                if file.name in METADATA:
                    for table in map(self._passing, self._rows(file)):
                        for first in range(0, table.num_rows, LINKED_ROWS):
                            yield self._linked(file, table.slice(first, LINKED_ROWS), self.described)
            return
        media = [file for file in files if self._is_media(file)]
        for first in range(0, len(media), NUM_ROWS):
            group = media[first : first + NUM_ROWS]
            if self.filters is not None:
                labels = {"label": [self.labels.index(_folder_name(file)) for file in group]} if self.labels else {}
                kept = self._passing(pa.table({ROW: list(range(len(group))), **labels})).column(ROW)
                group = [group[number] for number in kept.to_pylist()]
            columns = {self.column: pa.array([_reference(file) for file in group], self._kind()())}
            if self.labels:
                columns["label"] = pa.array([self.labels.index(_folder_name(file)) for file in group], pa.int64())
            yield pa.table(columns)

    def tables(self, file: DataFile) -> Iterator[pa.Table]:
        return self.read([file])

    def _linked(self, metadata: DataFile, table: pa.Table, by_path: Mapping[str, DataFile]) -> pa.Table:
        assert self.columns is not None
        folder = posixpath.dirname(_path(metadata))
        columns, names = [], []
        for name, column in zip(table.column_names, table.columns, strict=True):
            target = _target(name, self.column)
            if target is None or target not in self.columns or name in self.columns:
                columns.append(column)
                names.append(name)
                continue
            values = [self._link(metadata, folder, value, by_path) for value in column.to_pylist()]
            storage = self._kind()()
            columns.append(pa.array(values, pa.list_(storage) if isinstance(self.columns[target], List) else storage))
            names.append(target)
        return pa.Table.from_arrays(columns, names=names)

    def _link(self, metadata: DataFile, folder: str, value: Any, by_path: Mapping[str, DataFile]) -> Any:
        if value is None:
            return None
        if isinstance(value, list):
            return [self._link(metadata, folder, item, by_path) for item in value]
        inside = posixpath.normpath(value.replace("\\", "/"))
        if "://" in value or "::" in value or inside.startswith(("/", "../")) or inside == "..":
            raise DataFileError(str(metadata), "file_name must stay inside the metadata's folder", found=repr(value))
        path = posixpath.join(folder, inside)
        file = by_path.get(path)
        if file is None:
            raise DataFileError(str(metadata), "each file_name must be a file that is there", found=repr(value))
        return _reference(file)


def _target(name: str, column: str) -> str | None:
    """The column that a column of file names becomes."""
    if name == "file_name" or name.endswith("_file_name"):
        return name[: -len("_file_name")] or column
    if name == "file_names" or name.endswith("_file_names"):
        return name[: -len("_file_names")] or f"{column}s"
    return None


def _path(file: DataFile) -> str:
    return f"{file.url}/{file.member}" if file.member else file.url


def _folder_name(file: DataFile) -> str:
    return posixpath.basename(posixpath.dirname(_path(file)))


def _reference(file: DataFile) -> dict[str, Any]:
    """A local file by its path; what is elsewhere, or packed, by its bytes."""
    if file.is_local and file.member is None:
        return {"bytes": None, "path": file.url}
    with file.open() as stream:
        return {"bytes": stream.read(), "path": _path(file)}


@dataclass
class ImageFolder(Folder):
    """Pictures."""

    kind = "imagefolder"
    column: ClassVar[str] = "image"
    endings: ClassVar[frozenset[str]] = IMAGES

    def _kind(self) -> Any:
        return Image()


@dataclass
class AudioFolder(Folder):
    """Sound."""

    kind = "audiofolder"
    column: ClassVar[str] = "audio"
    endings: ClassVar[frozenset[str]] = AUDIO

    def _kind(self) -> Any:
        return Audio()
