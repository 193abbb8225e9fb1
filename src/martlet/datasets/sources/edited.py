"""CSV text without its comments, skipped lines and spaces after separators: what Arrow's reader has no option for."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from martlet.errors import ArgumentError


@dataclass(frozen=True)
class Edits:
    """What is changed in the bytes of a file, line by line. Lines that go stay as empty ones, if those are skipped."""

    sep: bytes
    quote: bytes
    comment: bytes | None = None
    skips: Callable[[int], bool] | None = None  # whether the line of a number (from 0) is left out
    strips_spaces: bool = False
    line_end: bytes | None = None
    keeps_count: bool = True

    def lines(self, stream: IO[bytes]) -> Iterator[bytes]:
        """The lines as they shall be read."""
        spaces = re.compile(re.escape(self.sep) + b" +")
        is_quoted, number = False, -1
        for line in _split(stream, self.line_end):
            number += not is_quoted  # as pandas counts: a line end in quotes is none
            if not is_quoted and self.skips is not None and self.skips(number):
                if self.keeps_count:
                    yield b"\n"
                continue
            start, out = is_quoted, []
            for place, part in enumerate(line.split(self.quote)):
                if place:
                    is_quoted = not is_quoted
                    out.append(self.quote)
                if is_quoted:
                    out.append(part)
                    continue
                before, mark, _ = part.partition(self.comment) if self.comment else (part, b"", b"")
                if self.strips_spaces:
                    before = spaces.sub(self.sep, before)
                    before = before.lstrip(b" ") if place == 0 and not start else before
                out.append(before)
                if mark:
                    out.append(b"\n")
                    break
            edited = b"".join(out)
            if edited == b"\n" and line != b"\n" and not self.keeps_count:
                continue
            yield edited


def _split(stream: IO[bytes], line_end: bytes | None) -> Iterator[bytes]:
    if line_end is None:
        yield from stream
        return
    rest = b""
    while data := stream.read(1 << 20):
        *whole, rest = (rest + data).split(line_end)
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


class EditedFile(io.RawIOBase):
    """A file as its edited lines."""

    def __init__(self, stream: IO[bytes], edits: Edits) -> None:
        super().__init__()
        self._lines, self._rest = edits.lines(stream), b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Bytes of the next lines."""
        while not self._rest:
            line = next(self._lines, None)
            if line is None:
                return 0
            self._rest = line
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def skips_of(skiprows: Any) -> Callable[[int], bool] | None:
    """Whether a line is left out, of a number of lines, their numbers, or a function of one. None for no number."""
    if callable(skiprows):
        return lambda number: bool(skiprows(number))
    if isinstance(skiprows, int) or skiprows is None:
        return None
    try:
        numbers = frozenset(int(number) for number in skiprows)
    except (TypeError, ValueError) as problem:
        rule = "must be a number of lines, numbers of lines, or a function of one"
        raise ArgumentError("skiprows", rule, found=repr(skiprows)[:80]) from problem
    return numbers.__contains__


def dialect_of(dialect: Any) -> dict[str, Any]:
    """The options that a dialect of the csv module, or one of its names, stands for."""
    try:
        known = csv.get_dialect(dialect) if isinstance(dialect, str) else dialect
        return {
            "sep": known.delimiter,
            "quotechar": known.quotechar,
            "quoting": known.quoting,
            "doublequote": known.doublequote,
            "escapechar": known.escapechar,
            "skipinitialspace": known.skipinitialspace,
        }
    except (csv.Error, AttributeError) as problem:
        rule = f"must be a csv.Dialect or one of {', '.join(csv.list_dialects())}"
        raise ArgumentError("dialect", rule, found=repr(dialect)[:80]) from problem
