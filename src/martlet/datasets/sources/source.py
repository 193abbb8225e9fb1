"""What a format promises to whoever converts or streams it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from martlet.datasets.files import DataFile
from martlet.errors import ArgumentError, DataFileError

log = logging.getLogger("martlet.datasets")


class Restart(Exception):
    """A column's type proved too narrow in a way that loses its spelling: read again from the start, told more.

    `types` are columns to read as such, `json_paths` fields to keep as JSON text.
    """

    def __init__(
        self, types: Mapping[str, pa.DataType], why: str, json_paths: Sequence[tuple[str | int, ...]] = ()
    ) -> None:
        super().__init__(why)
        self.types, self.why, self.json_paths = dict(types), why, tuple(json_paths)


@dataclass
class Left:
    """What on_error="skip" left out: how many rows of a file, and why the first."""

    num_rows: int = 0
    first: str = ""

    def add(self, why: str, num_rows: int = 1) -> None:
        self.num_rows += num_rows
        self.first = self.first or why


@dataclass
class Source:
    """A format with its options. `tables(file)` yields its rows in order, in bounded memory.

    `types` fixes the type of columns by name (what features= asks, or what an earlier `Restart` found).
    """

    kind = ""
    types: dict[str, pa.DataType] = field(default_factory=dict)
    on_error: str = "raise"
    num_threads: int | None = None
    left: dict[str, Left] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)  # of what was left out

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ArgumentError("on_error", "must be 'raise' or 'skip'", found=repr(self.on_error))

    def options(self) -> dict[str, Any]:
        """What, beside the files, decides the rows: a part of the cache key."""
        names = [name for name in self.__dataclass_fields__ if name not in ("num_threads", "left", "said", "types")]
        return {name: getattr(self, name) for name in names}

    def copy(self) -> Source:
        """The same, with nothing read yet."""
        return replace(self, left={}, said=[])

    def told(self, restart: Restart) -> None:
        """Take up what a `Restart` found out."""
        self.types = {**self.types, **restart.types}
        self.left, self.said = {}, []

    def tables(self, file: DataFile) -> Iterator[pa.Table]:
        raise NotImplementedError

    def look(self, files: Mapping[str, Sequence[DataFile]]) -> Any:
        """A look at all splits before the first row: the Features that Arrow types do not tell, else None."""
        return None

    def read(self, files: Sequence[DataFile]) -> Iterator[pa.Table]:
        """The rows of several files, one file after the other."""
        for file in files:
            yield from self.tables(file)
            self.report()

    def block_is_lines(self) -> bool:
        """Whether a row is a line of the file, so that `block` may read any lines of it."""
        return False

    def block(self, file: DataFile, block: Any) -> pa.Table:
        """The rows of some whole lines."""
        raise NotImplementedError

    def units(self, files: Sequence[DataFile]) -> list[DataFile]:
        """The files as read: an archive is its members."""
        found: list[DataFile] = []
        for file in files:
            found.extend(file.members() if file.is_archive else [file])
        return found

    def leave(self, file: DataFile, why: str, num_rows: int = 1) -> None:
        self.left.setdefault(str(file), Left()).add(why, num_rows)

    def report(self) -> None:
        """Say what was left out, once a file is done."""
        for name, left in self.left.items():
            rows = "1 row" if left.num_rows == 1 else f"{left.num_rows} rows"
            self.said.append(f"{name}: left out {rows} that could not be read; the first: {left.first}")
            log.warning("%s", self.said[-1])
        self.left = {}


def broken(
    file: DataFile, problem: str, *, line: int | None = None, column: int | None = None, remedy: str = ""
) -> DataFileError:
    """The error for a place in a file; `line` and `column` count from 1."""
    place = "" if line is None else f" at line {line}" + (f", column {column}" if column is not None else "")
    return DataFileError(
        str(file), "cannot be read", found=problem + place, remedy=remedy or 'on_error="skip" leaves such rows out.'
    )
