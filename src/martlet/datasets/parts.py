"""Parts of a result: files of Arrow blocks in a folder, and a note beside them once all of a part is there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from martlet.datasets import cache
from martlet.datasets.features import Features
from martlet.datasets.tables import open_arrow
from martlet.errors import CacheError


class PartWriter:
    """Files part-N.M.arrow, a new one whenever the schema changes (a column that was null shows its type)."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.files: list[dict[str, Any]] = []
        self._writer: Any = None
        self._sink: Any = None
        self._features: Features | None = None
        self._is_whole = False

    def write(self, table: pa.Table, features: Features) -> None:
        """A block."""
        if not table.num_rows and self.files:
            return
        if self._writer is None or features != self._features:
            self._end_file()
            name = f"part-{self.number:05d}.{len(self.files)}.arrow"
            self._sink = pa.OSFile(os.fspath(self.folder / name), "wb")
            self._writer = pa.ipc.new_file(self._sink, table.schema)
            self._features = features
            self.files.append({"name": name, "features": features.to_dict(), "num_rows": 0})
        self._writer.write_table(table.combine_chunks())
        self.files[-1]["num_rows"] += table.num_rows

    def _end_file(self) -> None:
        if self._writer is not None:
            writer, sink = self._writer, self._sink
            self._writer = self._sink = None
            try:
                writer.close()
            finally:
                sink.close()

    def finish(self) -> None:
        """The part is whole."""
        self._end_file()
        note = self.folder / f"part-{self.number:05d}.json"
        aside = note.with_suffix(f".{os.getpid()}.tmp")
        try:
            aside.write_text(json.dumps(self.files), "utf-8")
            os.replace(aside, note)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        self._is_whole = True

    def close(self) -> None:
        """Lets go of the files, whatever happened; those of a part that is not whole go."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._end_file()
        if not self._is_whole:  # half a part is of no use to the next run, and the disk may be full of it
            for file in self.files:
                with contextlib.suppress(OSError):
                    os.unlink(self.folder / file["name"])


@contextlib.contextmanager
def writing_part(folder: Path, number: int) -> Iterator[PartWriter]:
    """A part's writer; at the end the part is whole. CacheError if it cannot be written: nothing of it stays then."""
    writer = PartWriter(folder, number)
    try:
        yield writer
        writer.finish()
    except OSError as problem:
        if cache.is_of_writing(problem):
            raise cache.cache_error(folder, problem) from problem
        raise
    finally:
        writer.close()


class TemporaryFolder:
    """A folder that is gone when nobody holds this, or the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="martlet-datasets-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def read_part(folder: Path, number: int, *, in_memory: bool = False) -> Iterator[tuple[str, pa.Table, Features]]:
    """The files of a part: name, table, features. CacheError if the part is damaged."""
    note = folder / f"part-{number:05d}.json"
    try:
        for file in json.loads(note.read_text("utf-8")):
            path = os.fspath(folder / file["name"])
            yield path, open_arrow(path, in_memory=in_memory), Features.from_dict(file["features"])
    except (OSError, ValueError, KeyError) as problem:
        remedy = "Remove it: martlet cache clear."
        raise CacheError(f"cache {folder}", f"part {number} cannot be read", found=problem, remedy=remedy) from problem


def is_whole(folder: Path, number: int) -> bool:
    """Whether a part is there with all its files."""
    try:
        files = json.loads((folder / f"part-{number:05d}.json").read_text("utf-8"))
        return all((folder / file["name"]).is_file() for file in files)
    except (OSError, ValueError):
        return False


def empty_folder(folder: Path) -> None:
    """Removes what is in it."""
    shutil.rmtree(folder)
    folder.mkdir()
