"""JSON Lines and JSON: blocks of lines parsed by Arrow on threads; what Arrow cannot type becomes JSON columns."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from martlet.datasets.files import DataFile
from martlet.datasets.mixed import encode_paths, mixed_paths, mixed_structs, with_json
from martlet.datasets.sources.lines import BLOCK_BYTES, Block, blocks, in_order, line_number
from martlet.datasets.sources.source import Restart, Source, broken
from martlet.datasets.widen import JSON, Path, spelled
from martlet.errors import ArgumentError, DataFileError

FIRST_BYTES = 10 << 20  # objects with different keys are looked for in this much, as Hugging Face does


class _Twice(ValueError):
    """An object with a key that occurs twice: one of the values would be lost."""


class _OtherShape(Exception):
    """Not JSON Lines: the file is read as one value."""


@dataclass
class Json(Source):
    """Rows of JSON: an object a line, an array of objects, an object of columns, or either below `field`."""

    kind = "json"
    field: str | None = None
    encoding: str = "utf-8"
    encoding_errors: str | None = None
    on_mixed_types: str | None = "use_json"
    chunksize: int = BLOCK_BYTES
    json_paths: tuple[Path, ...] = ()  # fields kept as JSON text, found by a `Restart`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_mixed_types not in (None, "use_json"):
            raise ArgumentError("on_mixed_types", "must be 'use_json' or None", found=repr(self.on_mixed_types))

    def told(self, restart: Restart) -> None:
        super().told(restart)
        new = [path for path in restart.json_paths if not any(path[: len(old)] == old for old in self.json_paths)]
        old = [path for path in self.json_paths if not any(path[: len(more)] == more for more in new)]
        self.json_paths = (*old, *new)

    def tables(self, file: DataFile) -> Iterator[pa.Table]:
        if self.field is not None:
            yield from self._whole(file)
            return
        with file.open() as stream:
            start = _first_byte(stream)
        try:
            if start == b"[":
                yield from self._parsed(file, _array_blocks(file, self.encoding, self.encoding_errors))
            else:
                yield from self._parsed(file, self._line_blocks(file))
        except _OtherShape:
            yield from self._whole(file)

    def block_is_lines(self) -> bool:
        return self.field is None and is_utf8(self.encoding)

    def block(self, file: DataFile, block: Block) -> pa.Table:
        return self._parse(file, block)

    def _line_blocks(self, file: DataFile) -> Iterator[Block]:
        with file.open() as stream:
            found = _recoded(stream, self.encoding, self.encoding_errors, file)
            for number, block in enumerate(blocks(found, self.chunksize)):
                bom = number == 0 and block.data.startswith(codecs.BOM_UTF8)
                yield Block(block.data[3:], 3) if bom else block

    def _parsed(self, file: DataFile, items: Iterator[Block]) -> Iterator[pa.Table]:
        threads = self.num_threads or os.cpu_count() or 1
        for table in in_order(lambda block: self._parse(file, block), items, threads):
            if table.num_rows:
                yield table

    def _parse(self, file: DataFile, block: Block) -> pa.Table:
        data = block.data
        if self.json_paths:
            return self._encoded(file, block, data)
        try:
            table = _arrow(data, self.types)
        except pa.ArrowInvalid as problem:
            return self._explained(file, block, str(problem))
        except pa.ArrowNotImplementedError as problem:
            return self._explained(file, block, str(problem))
        if self.on_mixed_types and block.offset < FIRST_BYTES and not self.types and _has_partial_structs(table):
            paths = mixed_structs([json.loads(line) for line in data.split(b"\n") if line.strip()])
            if paths:
                raise Restart({}, f"{_spelled(paths)}: objects with different keys", paths)
        return table

    def _explained(self, file: DataFile, block: Block, problem: str) -> pa.Table:
        """A block Arrow refused: the broken line, a column of mixed types, or numbers Arrow has no type for."""
        rows, lines, bad = [], [], 0
        for number, line in enumerate(block.data.split(b"\n")):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_keyed_once)
                if not isinstance(row, dict):
                    raise ValueError(f"a row must be an object, not {type(row).__name__}")
            except (ValueError, RecursionError) as error:
                if self.on_error == "skip":
                    self.leave(file, self._broken(file, block, number, line, error).found_text)
                    bad += 1
                    continue
                is_twice = isinstance(error, _Twice)
                if not is_twice and block.offset <= 3 and number == 0 and _may_be_one_value(block.data):
                    raise _OtherShape from error
                raise self._broken(file, block, number, line, error).error from error
            rows.append(row)
            lines.append(line)
        if bad:
            return self._parse(file, Block(b"\n".join(lines), block.offset))
        if others := _spelled_otherwise(rows, self.types):
            return _loosely(rows, self.types, others)
        paths = mixed_paths(rows)
        if paths and self.on_mixed_types and not set(paths) <= set(self.json_paths):
            raise Restart({}, f"{_spelled(paths)}: values of different types", paths)
        built = _by_python(rows, self.types)
        if built is not None:
            return built
        raise broken(file, f"{problem} (rows of the block at line {line_number(file, block.offset)})")

    def _broken(self, file: DataFile, block: Block, number: int, line: bytes, error: Exception) -> _Place:
        first = line_number(file, block.offset) if self.encoding == "utf-8" else 1 + number
        if isinstance(error, json.JSONDecodeError):
            column, why = error.colno, error.msg
        elif isinstance(error, UnicodeDecodeError):
            column, why = error.start + 1, f"invalid UTF-8 (byte 0x{line[error.start]:02x})"
        else:
            column, why = 1, str(error)
        return _Place(
            broken(file, why, line=first + number, column=column), f"{why} at line {first + number}, column {column}"
        )

    def _encoded(self, file: DataFile, block: Block, data: bytes) -> pa.Table:
        """The block with its JSON columns as text; their type is put on after Arrow has read them as strings."""
        rows = []
        for number, line in enumerate(data.split(b"\n")):
            if not line.strip():
                continue
            try:
                rows.append(encode_paths(json.loads(line), self.json_paths))
            except ValueError as error:
                place = self._broken(file, block, number, line, error)
                if self.on_error != "skip":
                    raise place.error from error
                self.leave(file, place.found_text)
        try:
            table = _arrow(_dumped(rows), {k: v for k, v in self.types.items() if not v.equals(JSON)})
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
            paths = mixed_paths(rows)
            if paths:
                raise Restart({}, f"{_spelled(paths)}: values of different types", paths) from problem
            built = _by_python(rows, {})
            if built is None:
                raise broken(file, str(problem)) from problem
            table = built
        return with_json(table, self.json_paths)

    def _whole(self, file: DataFile) -> Iterator[pa.Table]:
        """One JSON value: a list of rows, or an object of columns; below `field` if one is asked for."""
        with file.open() as stream:
            data = stream.read()
        try:
            text = data.decode(self.encoding, self.encoding_errors or "strict")
            value = json.loads(text, object_pairs_hook=_keyed_once)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise broken(file, f"invalid {self.encoding} (byte 0x{data[error.start]:02x})", line=line) from error
        except json.JSONDecodeError as error:
            raise broken(file, error.msg, line=error.lineno, column=error.colno, remedy=_whole_remedy(data)) from error
        except _Twice as error:
            raise broken(file, str(error)) from error
        if self.field is not None:
            if not isinstance(value, dict) or self.field not in value:
                there = ", ".join(map(str, value)) if isinstance(value, dict) else f"a {type(value).__name__}"
                raise DataFileError(str(file), f"must hold the field {self.field!r}", found=there)
            value = value[self.field]
        elif isinstance(value, dict):
            value = [value]  # one object over several lines is one row
        rows = _rows_of(file, value)
        for first in range(0, len(rows), 10_000):
            yield self._parse(file, Block(_dumped(rows[first : first + 10_000]), 0))


@dataclass
class _Place:
    error: DataFileError
    found_text: str


def _arrow(data: bytes, types: dict[str, pa.DataType]) -> pa.Table:
    import pyarrow.json as paj

    parse = paj.ParseOptions(explicit_schema=pa.schema(list(types.items()))) if types else None
    # one block: the threads are ours, and a row may not straddle two
    read = paj.ReadOptions(use_threads=False, block_size=max(len(data), 1 << 16) + 1)
    if not data or data.isspace():
        return pa.table({})
    table = paj.read_json(pa.BufferReader(data), read_options=read, parse_options=parse)
    table.validate(full=True)  # Arrow's parser takes invalid UTF-8 as it is
    return table


def _by_python(rows: list[dict[str, Any]], types: dict[str, pa.DataType]) -> pa.Table | None:
    """The rows without Arrow's parser, which miscounts lists that start with null; None if they have no one type."""
    names = dict.fromkeys([*types, *(name for row in rows for name in row)])
    try:
        columns = {name: pa.array([row.get(name) for row in rows], types.get(name)) for name in names}
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return None
    return pa.table(columns)


def _spelled_otherwise(rows: list[dict[str, Any]], types: dict[str, pa.DataType]) -> dict[str, bool]:
    """Columns of a type whose values are of another, that can be cast to it; whether they are to be read as text."""
    found = {}
    for name, kind in types.items():
        values = {type(row.get(name)) for row in rows} - {type(None)}
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        number_as_text = pa.types.is_string(kind) and values & {int, float, bool} and values <= {int, float, bool, str}
        if number_as_text or (is_number and str in values and values <= {int, float, str}):
            found[name] = True
        elif pa.types.is_integer(kind) and float in values and values <= {int, float}:
            found[name] = False
    return found


def _loosely(rows: list[dict[str, Any]], types: dict[str, pa.DataType], others: dict[str, bool]) -> pa.Table:
    """The rows with some columns as text, or as they come: they are cast where rows get their features."""

    def text(value: Any) -> Any:
        return value if value is None or isinstance(value, str) else json.dumps(value)

    names = [name for name, is_text in others.items() if is_text]
    plain = {name: kind for name, kind in types.items() if name not in others}
    texts = [{**row, **{name: text(row.get(name)) for name in names}} for row in rows]
    return _arrow(_dumped(texts), {**plain, **dict.fromkeys(names, pa.string())})


def _keyed_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return made


def _dumped(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-8", "surrogatepass")


def _spelled(paths: list[Path]) -> str:
    return ", ".join(map(spelled, paths))


def _has_partial_structs(table: pa.Table) -> bool:
    """Some object below the top lacks a key that another has (or has null there, which Arrow does not tell apart)."""
    return any(_lacks(chunk) for column in table.columns for chunk in column.chunks)


def _lacks(array: pa.Array) -> bool:
    if pa.types.is_list(array.type):
        return _lacks(array.flatten())
    if not pa.types.is_struct(array.type):
        return False
    if array.type.num_fields == 0:
        return bool(len(array) > array.null_count)
    return any(part.null_count > array.null_count or _lacks(part) for part in array.flatten())


def _first_byte(stream: IO[bytes]) -> bytes:
    start = stream.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    return start[:1]


def _may_be_one_value(data: bytes) -> bool:
    return data.lstrip()[:1] == b"{"


def _whole_remedy(data: bytes) -> str:
    return "A file of lines needs an object on each line." if data.lstrip()[:1] == b"{" else "Is it truncated?"


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"


def _recoded(stream: IO[bytes], encoding: str, errors: str | None, file: DataFile) -> IO[bytes]:
    if is_utf8(encoding) and errors in (None, "strict"):
        return stream
    return Recoded(stream, encoding, errors or "strict", file)  # type: ignore[return-value]


class Recoded:
    """A stream of another encoding, read as UTF-8."""

    def __init__(self, stream: IO[bytes], encoding: str, errors: str, file: DataFile) -> None:
        self._stream, self._file, self._encoding = stream, file, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)

    def read(self, num_bytes: int = -1) -> bytes:
        while True:
            data = self._stream.read(num_bytes)
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise broken(
                    self._file, f"invalid {self._encoding} (byte 0x{error.object[error.start]:02x})"
                ) from error
            if text or not data:
                return text.encode("utf-8")


class _Elements:
    """The values of a JSON array, one after the other, through a window of its text."""

    def __init__(self, file: DataFile, reader: Any, window: int = 1 << 20) -> None:
        self._file, self._reader, self._window = file, reader, window
        self._text, self._at, self._line = "", 0, 1
        self._column = 0  # characters of the line before the window
        self._decoder = json.JSONDecoder(object_pairs_hook=_keyed_once)

    def _more(self) -> bool:
        self._line += self._text.count("\n", 0, self._at)
        end = self._text.rfind("\n", 0, self._at)
        self._column = self._at - end - 1 if end >= 0 else self._column + self._at
        data = self._reader.read(self._window)
        self._text, self._at = self._text[self._at :] + data, 0
        return bool(data)

    def _next(self) -> str:
        """The next character that is no space, not taken; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _error(self, what: str, at: int) -> DataFileError:
        line, end = self._line + self._text.count("\n", 0, at), self._text.rfind("\n", 0, at)
        column = at - end if end >= 0 else self._column + at + 1
        return broken(self._file, what, line=line, column=column, remedy="Is it truncated?")

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as problem:
                is_cut = problem.msg.startswith("Unterminated") or problem.pos >= len(self._text) - 16
                start = self._at
                if is_cut and self._more():
                    self._window *= 2
                    continue
                at = problem.pos - (start - self._at)  # the window may have moved on
                raise self._error(problem.msg, min(at, len(self._text))) from problem
            except _Twice as problem:
                raise self._error(str(problem), self._at) from problem
            if end == len(self._text) and self._more():  # a number may go on
                continue
            self._at = end
            return value

    def __iter__(self) -> Iterator[Any]:
        self._next()
        self._at += 1
        if self._next() == "]":
            return
        while True:
            yield self._value()
            following = self._next()
            self._at += 1
            if following == "]":
                return
            if following != ",":
                raise self._error(f"expected ',' or ']', not {following!r}", self._at - 1)
            self._next()


def _array_blocks(file: DataFile, encoding: str, errors: str | None) -> Iterator[Block]:
    """A JSON array as blocks of lines, an element a line, without holding the whole of it."""
    with file.open() as stream:
        reader = codecs.getreader("utf-8-sig" if encoding == "utf-8" else encoding)(stream, errors or "strict")
        rows: list[Any] = []
        try:
            for value in _Elements(file, reader):
                rows.append(value if isinstance(value, dict) else {"text": value})
                if len(rows) >= 2000:
                    yield Block(_dumped(rows), 0)
                    rows = []
        except UnicodeDecodeError as error:
            raise broken(file, f"invalid {encoding} (byte 0x{error.object[error.start]:02x})") from error
        if rows:
            yield Block(_dumped(rows), 0)


def _rows_of(file: DataFile, value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [row if isinstance(row, dict) else {"text": row} for row in value]
    if isinstance(value, dict):
        lengths = {len(column) if isinstance(column, (list, dict)) else -1 for column in value.values()}
        if len(lengths) == 1 and -1 not in lengths:
            columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in value.items()}
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [value]
    raise DataFileError(str(file), "must hold rows: a list, or an object of columns", found=f"a {type(value).__name__}")
