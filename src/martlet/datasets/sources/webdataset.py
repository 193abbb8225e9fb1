"""WebDataset: tar files in which the files of one row stand side by side and share their name up to the first dot."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from martlet.datasets.audio import Audio
from martlet.datasets.features import Features
from martlet.datasets.files import DataFile, tar_members
from martlet.datasets.image import Image
from martlet.datasets.mixed import mixed_paths
from martlet.datasets.sources.media import AUDIO, IMAGES
from martlet.datasets.sources.source import Source, broken
from martlet.errors import DataFileError, MissingDependencyError

NUM_FIRST = 5  # rows that decide the columns, as in Hugging Face's loader
NUM_ROWS = 100  # of a table; rows may be pictures


def _text(data: bytes) -> str:
    return data.decode("utf-8")


def _array(data: bytes) -> Any:
    import numpy as np

    return np.load(io.BytesIO(data), allow_pickle=False).tolist()


def _msgpack(data: bytes) -> Any:
    try:
        import msgpack
    except ImportError as problem:
        raise MissingDependencyError("a .msg file", "needs msgpack", remedy="pip install msgpack") from problem
    return msgpack.unpackb(data)


DECODERS: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(("txt", "text", "transcript"), _text),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), int),
    **dict.fromkeys(("json", "jsn"), json.loads),
    **dict.fromkeys(("mp", "msg"), _msgpack),
    "npy": _array,
}
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")


@dataclass
class WebDataset(Source):
    """A row a group of files: `__key__`, `__url__` and a column for each ending. Pickles are not read."""

    kind = "webdataset"
    columns: Features | None = None

    def units(self, files: Sequence[DataFile]) -> list[DataFile]:
        return list(files)

    def look(self, files: Mapping[str, Sequence[DataFile]]) -> Features | None:
        first = next((file for group in files.values() for file in group), None)
        if first is None:
            return None
        rows = list(islice(self._rows(first), NUM_FIRST))
        if not rows:
            raise DataFileError(str(first), "must hold files in the WebDataset layout", found="none with an ending")
        if any(row.keys() != rows[0].keys() for row in rows):
            different = next(row for row in rows if row.keys() != rows[0].keys())
            raise DataFileError(
                str(first),
                "must hold the same endings for each row",
                found=f"{', '.join(different)} for {different['__key__']!r} beside {', '.join(rows[0])}",
            )
        kinds: dict[str, Any] = {}
        inferred = Features.from_arrow_schema(_table(rows, None).schema)
        for name, kind in inferred.items():
            ending = name.rpartition(".")[2]
            kinds[name] = Image() if f".{ending}" in IMAGES else Audio() if f".{ending}" in AUDIO else kind
        self.columns = Features(kinds)
        return self.columns

    def options(self) -> dict[str, Any]:
        return {"on_error": self.on_error}

    def tables(self, file: DataFile) -> Iterator[pa.Table]:
        if self.columns is None:
            self.look({"": [file]})
        assert self.columns is not None
        rows = self._rows(file)
        while group := list(islice(rows, NUM_ROWS)):
            yield _table(group, self.columns)

    def _rows(self, file: DataFile) -> Iterator[dict[str, Any]]:
        row: dict[str, Any] = {}
        previous = ""
        for name, member in tar_members(file):
            found = _NAME.fullmatch(name)
            if found is None:
                continue
            key, ending = found.group(1), found.group(2).lower()
            if row and key != previous:
                yield {**row, "__key__": previous, "__url__": file.url}
                row = {}
            previous = key
            if ending in row:
                raise DataFileError(str(file), "must hold each name once", found=repr(name))
            data = member.read()
            decode = DECODERS.get(ending.rpartition(".")[2])
            try:
                row[ending] = decode(data) if decode else data
            except ValueError as problem:
                if self.on_error != "skip":
                    raise broken(file, f"{name}: {problem}") from problem
                self.leave(file, f"{name}: {problem}", 0)
                row[ending] = None
        if row:
            yield {**row, "__key__": previous, "__url__": file.url}


def _table(rows: list[dict[str, Any]], columns: Features | None) -> pa.Table:
    names = list(columns) if columns is not None else list(rows[0])
    return pa.table({name: _column(name, [row.get(name) for row in rows], columns) for name in names})


def _column(name: str, values: list[Any], columns: Features | None) -> pa.Array:
    kind = columns[name] if columns is not None else None
    if isinstance(kind, (Image, Audio)):
        return pa.array([None if v is None else {"bytes": v, "path": None} for v in values], kind())
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as problem:
        if mixed_paths([{name: v} for v in values if not isinstance(v, bytes)]):
            texts = [None if value is None else json.dumps(value) for value in values]
            return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
        raise DataFileError(f"column {name!r}", "must be of one type", found=str(problem)) from problem
