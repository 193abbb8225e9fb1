"""Rows turned into the bytes of a file, or appended to a database's table, here or by several processes."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets.progress import bar
from martlet.datasets.runner import LocalProcesses
from martlet.datasets.selection import positions
from martlet.errors import ArgumentError
from martlet.formats.files import save_error, write_aside

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset
    from martlet.datasets.streams.blocks import Blocks

PARTS_OF_ONE = 4  # parts that a process takes, one after the other, so that all end at about the same time

_ENDS_PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip", ".zst": "zstd"}

Encode = Callable[[Any, pa.Table, bool], bytes]  # the rows' dataset, a table of them, whether it is the first


@dataclass(frozen=True)
class TextJob:
    """What a process does: parts of the rows, each into a file of bytes of its own."""

    dataset: Dataset
    encode: Encode
    batch_size: int
    folder: Path

    def words(self) -> str:
        """The job, as errors name it."""
        return "rows to be written"

    def for_workers(self, folder: Path) -> TextJob:
        """The same job, its rows where other processes can map them."""
        dataset = self.dataset
        return replace(self, dataset=dataset._like(dataset._stored.in_files(folder), dataset._selection))

    def run_part(self, number: int, begin: int, end: int, rank: int, on_rows: Callable[[int], None]) -> None:
        """Writes the file of a part. SaveError if it cannot be written."""
        path = self.folder / f"{rank}.{number}"
        try:
            with open(path, "wb") as file:
                for start in range(begin, end, self.batch_size):
                    table = self.dataset._table(positions(start, min(start + self.batch_size, end)))
                    file.write(self.encode(self.dataset, table, start == 0))
                    on_rows(table.num_rows)
        except OSError as problem:
            raise save_error(path, problem) from problem
        path.rename(self.folder / str(number))


@dataclass(frozen=True)
class TableJob:
    """What a process does: parts of the rows, each appended to a table of a database."""

    dataset: Dataset
    append: Callable[[pa.Table], int]
    batch_size: int

    def words(self) -> str:
        """The job, as errors name it."""
        return "rows for a database"

    def for_workers(self, folder: Path) -> TableJob:
        """The same job, its rows where other processes can map them."""
        dataset = self.dataset
        return replace(self, dataset=dataset._like(dataset._stored.in_files(folder), dataset._selection))

    def run_part(self, number: int, begin: int, end: int, rank: int, on_rows: Callable[[int], None]) -> None:
        """Appends a part."""
        for start in range(begin, end, self.batch_size):
            table = self.dataset._table(positions(start, min(start + self.batch_size, end)))
            self.append(table)
            on_rows(table.num_rows)


def processes_of(subject: str, dataset: Dataset | Blocks, num_proc: int | None) -> int:
    """How many processes write. ArgumentError for several of a stream, which is read in one."""
    if num_proc is not None and num_proc < 0:
        raise ArgumentError(subject, "num_proc must be at least 1", found=num_proc)
    count = num_proc or 1
    if count > 1 and not hasattr(dataset, "_stored"):
        remedy = "Leave num_proc out, or write shards: ds.shard(n, i)."
        raise ArgumentError(subject, "a stream is written by one process", found=f"num_proc={num_proc}", remedy=remedy)
    return count


def write_texts(
    subject: str, dataset: Any, file: Any, encode: Encode, batch_size: int, num_proc: int | None, *, always: bool
) -> int:
    """Writes what `encode` makes of each `batch_size` rows, in their order, and returns the bytes written.

    With several processes each writes its parts aside, in a temporary folder; `always` encodes no rows too.
    """
    count, written, desc = processes_of(subject, dataset, num_proc), 0, f"Writing, {subject}"
    parts = parts_of(dataset.num_rows, batch_size, count) if count > 1 else []
    if len(parts) < 2:
        with bar(dataset.num_rows, desc) as on_rows:
            for number, table in enumerate(dataset._tables(batch_size, always=always)):
                written += file.write(encode(dataset, table, number == 0))
                on_rows(table.num_rows)
        return written
    with tempfile.TemporaryDirectory(prefix="martlet-") as folder:
        job = TextJob(dataset.with_format(None), encode, batch_size, Path(folder))
        with bar(dataset.num_rows, desc) as on_rows:
            LocalProcesses(min(count, len(parts))).run(job, parts, on_rows)
        for number, _, _ in parts:
            path = Path(folder) / str(number)
            written += path.stat().st_size
            with open(path, "rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)
            path.unlink()
    return written


def parts_of(num_rows: int, batch_size: int, num_proc: int) -> Sequence[tuple[int, int, int]]:
    """(number, begin, end): whole batches, some parts for each process."""
    rows = max(1, math.ceil(num_rows / batch_size / (num_proc * PARTS_OF_ONE))) * batch_size
    return [(number, begin, min(begin + rows, num_rows)) for number, begin in enumerate(range(0, num_rows, rows))]


@contextlib.contextmanager
def opened(path_or_buf: Any, storage_options: Any, compression: str | None = "infer") -> Iterator[Any]:
    """A file to write bytes to, put in its place when it is whole: if the block fails, what was there before stays.

    SaveError if a local file cannot be written.
    """
    if not isinstance(path_or_buf, str | bytes | os.PathLike):
        yield path_or_buf
        return
    name = os.fsdecode(path_or_buf)
    if "://" in name:
        with _remote(name, storage_options or {}) as file, _packed(file, name, compression) as packed:
            yield packed
        return
    with write_aside(name) as file, _packed(file, name, compression) as packed:
        yield packed


@contextlib.contextmanager
def _packed(file: Any, name: str, compression: str | None) -> Iterator[Any]:
    """What compresses into the file, which it leaves open."""
    kind = _ENDS_PACKED.get(os.path.splitext(name)[1].lower()) if compression == "infer" else compression
    if kind is None:
        yield file
        return
    if kind == "zstd":
        with pa.CompressedOutputStream(pa.PythonFile(_LeftOpen(file), "w"), "zstd") as packed:
            yield packed
        return
    from fsspec.compression import compr

    if kind not in compr:
        known = ", ".join(sorted({*filter(None, compr), "zstd"}))
        raise ArgumentError("compression", f"must be one of {known}", found=repr(kind))
    with compr[kind](_LeftOpen(file), mode="wb") as packed:
        yield packed


class _LeftOpen:
    """A file that is not closed by who writes to it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    closed = False

    def close(self) -> None:
        self._file.flush()


@contextlib.contextmanager
def _remote(url: str, storage_options: dict[str, Any]) -> Iterator[Any]:
    import fsspec

    system, path = fsspec.core.url_to_fs(url, **storage_options)
    file = system.open(path, "wb")
    try:
        yield file
    except BaseException:
        if hasattr(file, "discard"):  # closing would put half a file in its place
            file.discard()
            file.closed = True
        else:
            file.close()
        raise
    file.close()
