"""CSV and TSV: cells are read as text by Arrow, and each column's type is the narrowest that all of its text has."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from martlet.datasets.encoding import array_of, inferred
from martlet.datasets.features import kind_of
from martlet.datasets.files import DataFile
from martlet.datasets.hashing import key_of
from martlet.datasets.sources.cells import Spelling, narrowest, needs_text, typed_as
from martlet.datasets.sources.edited import EditedFile, Edits, dialect_of, skips_of
from martlet.datasets.sources.json import Recoded
from martlet.datasets.sources.source import Restart, Source, broken
from martlet.errors import ArgumentError, DataFileError

# the texts that pandas, and so Hugging Face, takes for a missing value
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
MAX_CELL_BYTES = 64 << 20


@dataclass
class Csv(Source):
    """Rows of separated text. The options are pandas' `read_csv` ones, as in Hugging Face's loader."""

    kind = "csv"
    sep: str = ","
    delimiter: str | None = None
    header: int | str | None = "infer"
    names: Sequence[str] | None = None
    column_names: Sequence[str] | None = None
    index_col: int | str | Sequence[int | str] | None = None  # of pandas' frame: in Arrow these columns come last
    usecols: Any = None  # numbers, names, or a function of a name
    quotechar: str = '"'
    quoting: int = csv.QUOTE_MINIMAL
    doublequote: bool = True
    escapechar: str | None = None
    encoding: str | None = None
    encoding_errors: str | None = None
    skiprows: Any = 0  # a number of lines, their numbers, or a function of one
    comment: str | None = None
    skipinitialspace: bool = False
    lineterminator: str | None = None
    dialect: Any = None
    converters: Mapping[str | int, Callable[[str], Any]] | None = None
    nrows: int | None = None
    na_values: str | Sequence[str] | None = None
    keep_default_na: bool = True
    na_filter: bool = True
    true_values: Sequence[str] = ()  # beside True, TRUE and true
    false_values: Sequence[str] = ()
    thousands: str | None = None
    skip_blank_lines: bool = True
    decimal: str = "."
    on_bad_lines: str = "error"
    # of pandas' reader, whose rows these do not change
    chunksize: int | None = None
    engine: str | None = None
    memory_map: bool = False
    float_precision: str | None = None
    verbose: bool = False
    mangle_dupe_cols: bool = True  # a column that occurs twice is an error
    date_format: None = None
    prefix: None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sep = self.delimiter or self.sep
        if self.dialect is not None:
            for name, value in dialect_of(self.dialect).items():
                setattr(self, name, value)
        self.names = self.column_names or self.names
        if len(self.sep) != 1:
            raise ArgumentError("sep", "must be one character", found=repr(self.sep))
        if self.header not in ("infer", None) and not isinstance(self.header, int):
            raise ArgumentError("header", "must be 'infer', None or the number of a row", found=repr(self.header))
        self._skips = skips_of(self.skiprows)
        for name in ("comment", "lineterminator"):
            if (value := getattr(self, name)) is not None and len(value.encode()) != 1:
                raise ArgumentError(name, "must be one character", found=repr(value))
        for name in ("date_format", "prefix"):
            if getattr(self, name) is not None:
                remedy = 'features= with Value("timestamp[s]") reads dates, column_names= names columns.'
                raise ArgumentError(name, "is not there", found=repr(getattr(self, name)), remedy=remedy)
        if self.on_bad_lines not in ("error", "warn", "skip"):
            raise ArgumentError("on_bad_lines", "must be 'error', 'warn' or 'skip'", found=repr(self.on_bad_lines))
        if self.on_bad_lines != "error":
            self.on_error = "skip"

    def options(self) -> dict[str, Any]:
        made = super().options()
        for name in ("skiprows", "usecols", "converters"):
            if callable(made[name]) or (name == "converters" and made[name]):
                made[name] = key_of(made[name])[0]
        if self.dialect is not None:
            made["dialect"] = dialect_of(self.dialect)
        return made

    @contextlib.contextmanager
    def _open(self, file: DataFile) -> Iterator[Any]:
        """The file's bytes, edited where the options ask for it."""
        end = self.lineterminator if self.lineterminator not in (None, "\n", "\r") else None
        if not (self.comment or self.skipinitialspace or self._skips or end):
            with file.open() as stream:
                yield stream
            return
        edits = Edits(
            self.sep.encode(),
            (self.quotechar if self.quoting != csv.QUOTE_NONE else "\0").encode(),
            self.comment.encode() if self.comment else None,
            self._skips,
            self.skipinitialspace,
            end.encode() if end else None,
            self.skip_blank_lines,
        )
        with file.open() as stream:
            yield io.BufferedReader(EditedFile(stream, edits), 1 << 20)

    @property
    def _num_skipped(self) -> int:
        """Lines before the header that are skipped by their number."""
        return self.skiprows if isinstance(self.skiprows, int) else 0

    def tables(self, file: DataFile) -> Iterator[pa.Table]:
        import pyarrow.csv as pac

        names, num_skipped = self._header(file)
        wanted = self._wanted(names)
        spelling = Spelling(self.decimal, self.thousands, tuple(self.true_values or ()), tuple(self.false_values or ()))
        kinds: dict[str, pa.DataType] = {}
        left = self.nrows
        skips = self.on_error == "skip"
        with self._open(file) as opened:
            stream = Quotes(opened, self.quotechar.encode() if self.quoting != csv.QUOTE_NONE else None)
            try:
                reader = pac.open_csv(
                    _arrow_stream(stream, self.encoding, self.encoding_errors, file),
                    read_options=pac.ReadOptions(
                        column_names=names, skip_rows=num_skipped, block_size=4 << 20, use_threads=self.num_threads != 1
                    ),
                    parse_options=self._parse_options(file, len(names)),
                    convert_options=pac.ConvertOptions(
                        column_types={name: pa.binary() if skips else pa.string() for name in names},
                        include_columns=wanted if wanted != names else None,
                        null_values=self._missing(),
                        strings_can_be_null=not self.converters,  # a converter is given the text of such cells too
                        quoted_strings_can_be_null=True,
                    ),
                )
                for batch in self._whole_rows(file, reader, stream, num_skipped):
                    if skips:
                        batch = self._decoded(file, batch)
                    if left is not None:
                        batch = batch.slice(0, left)
                        left -= batch.num_rows
                    if batch.num_rows and not self.converters:
                        yield self._typed(batch, kinds, spelling)
                    elif batch.num_rows:
                        yield self._converted(batch, names, kinds, spelling)
                    if left == 0:
                        return
            except pa.ArrowInvalid as problem:
                if "Empty CSV" in str(problem):
                    return
                raise self._explained(file, names, num_skipped, str(problem)) from problem

    def _whole_rows(
        self, file: DataFile, reader: Iterable[pa.RecordBatch], stream: Quotes, num_skipped: int
    ) -> Iterator[pa.RecordBatch]:
        """The reader's rows; a quote in the last that is never closed, and so took in all that came after it, is an
        error, or leaves that row out.
        """
        held: pa.RecordBatch | None = None
        for batch in reader:
            if held is not None:
                yield held
            held = batch
        line = self._line_left_open(file, num_skipped) if stream.is_odd else None
        if line is not None:
            what = "a quote is opened and not closed before the file's end"
            if self.on_error != "skip":
                raise broken(file, what, line=line)
            self.leave(file, f"{what} at line {line}")
            held = held.slice(0, held.num_rows - 1) if held is not None else None
        if held is not None:
            yield held

    def _line_left_open(self, file: DataFile, num_skipped: int) -> int | None:
        """The first line of a row that goes on at the file's end, in a quote."""
        is_over, first = False, 1

        def lines(stream: IO[bytes]) -> Iterator[str]:
            nonlocal is_over
            yield from islice(
                _text_lines(file, stream, self.encoding, self.encoding_errors or "replace"), num_skipped, None
            )
            is_over = True

        with self._open(file) as stream:
            reader = csv.reader(lines(stream), **self._dialect())
            for _ in reader:
                if is_over:
                    return num_skipped + first
                first = reader.line_num + 1
        return None

    def _decoded(self, file: DataFile, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows whose cells are all UTF-8, as text; others are left out."""
        try:
            return batch.cast(pa.schema([(name, pa.string()) for name in batch.schema.names]))
        except pa.ArrowInvalid:
            pass
        kept = []
        for number, cells in enumerate(zip(*(column.to_pylist() for column in batch.columns), strict=True)):
            try:
                for cell in cells:
                    if cell is not None:
                        cell.decode("utf-8")
                kept.append(number)
            except UnicodeDecodeError as error:
                text = b",".join(cell or b"" for cell in cells)[:80].decode("utf-8", "backslashreplace")
                self.leave(file, f"invalid UTF-8 (byte 0x{error.object[error.start]:02x}): {text!r}")
        return self._decoded(file, batch.take(pa.array(kept, pa.int64())))

    def _header(self, file: DataFile) -> tuple[list[str], int]:
        """Column names, and how many lines come before the first row."""
        header = (0 if self.names is None else None) if self.header == "infer" else self.header
        wanted_line = self._num_skipped + (int(header) if header is not None else 0)
        with self._open(file) as stream:
            lines = _text_lines(file, stream, self.encoding, self.encoding_errors)
            reader = csv.reader(lines, **self._dialect())
            for _ in range(wanted_line):
                next(lines, None)
            try:
                row = next((row for row in reader if row or not self.skip_blank_lines), None)
            except csv.Error as problem:
                raise broken(file, str(problem), line=wanted_line + 1) from problem
        if row is None:
            raise DataFileError(str(file), "must hold a header and rows", found="an empty file")
        used = wanted_line + reader.line_num
        if header is None:
            return list(self.names or (str(i) for i in range(len(row)))), self._num_skipped
        return list(self.names) if self.names is not None else _distinct(file, row), used

    def _wanted(self, names: list[str]) -> list[str]:
        """The columns to read, in the order in which they are given."""
        wanted = self._used(names)
        index = self._index(wanted)
        # without a name the index is the numbers of rows that pandas wrote
        return [name for name in wanted if name not in index] + [n for n in index if not n.startswith("Unnamed: ")]

    def _index(self, names: list[str]) -> list[str]:
        if self.index_col is None or self.index_col is False:
            return []
        asked = [self.index_col] if isinstance(self.index_col, int | str) else list(self.index_col)
        if strange := [each for each in asked if each not in (range(len(names)) if isinstance(each, int) else names)]:
            rule = f"must be columns of the file ({', '.join(names)})"
            raise ArgumentError("index_col", rule, found=", ".join(map(repr, strange)))
        return [names[each] if isinstance(each, int) else each for each in asked]

    def _used(self, names: list[str]) -> list[str]:
        if self.usecols is None:
            return names
        if callable(self.usecols):
            return [name for name in names if self.usecols(name)]
        chosen = {names[c] if isinstance(c, int) else c for c in self.usecols}
        if missing := chosen - set(names):
            raise ArgumentError("usecols", f"must name columns of the file ({', '.join(names)})", found=sorted(missing))
        return [name for name in names if name in chosen]

    def _dialect(self) -> dict[str, Any]:
        return {
            "delimiter": self.sep,
            "quotechar": self.quotechar,
            "quoting": self.quoting,
            "doublequote": self.doublequote,
            "escapechar": self.escapechar,
            "skipinitialspace": self.skipinitialspace,
        }

    def _parse_options(self, file: DataFile, num_columns: int) -> Any:
        import pyarrow.csv as pac

        def bad(row: Any) -> str:
            if self.on_error != "skip":
                return "error"
            self.leave(file, f"{row.actual_columns} fields for {num_columns} columns: {str(row.text)[:80]!r}")
            return "skip"

        return pac.ParseOptions(
            delimiter=self.sep,
            quote_char=False if self.quoting == csv.QUOTE_NONE else self.quotechar,
            double_quote=self.doublequote,
            escape_char=self.escapechar or False,
            newlines_in_values=True,
            ignore_empty_lines=self.skip_blank_lines,
            invalid_row_handler=bad,
        )

    def _missing(self) -> list[str]:
        if not self.na_filter:
            return []
        extra = [self.na_values] if isinstance(self.na_values, str) else list(self.na_values or ())
        return [*(MISSING if self.keep_default_na else ()), *map(str, extra)]

    def _converted(
        self, batch: pa.RecordBatch, names: list[str], kinds: dict[str, pa.DataType], spelling: Spelling
    ) -> pa.Table:
        """The columns that have converters as these make them of each cell's text, the others as ever."""
        calls = {names[key] if isinstance(key, int) else key: call for key, call in (self.converters or {}).items()}
        if strange := sorted(set(calls) - set(names)):
            raise ArgumentError("converters", f"must be of columns: {', '.join(names)}", found=", ".join(strange))
        lacking = set(self._missing())
        missing = pa.array(sorted(lacking), pa.string())
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        plain = {
            name: pc.if_else(pc.is_in(text, missing), None, text) for name, text in columns.items() if name not in calls
        }
        typed = self._typed(pa.RecordBatch.from_pydict(plain), kinds, spelling) if plain else None
        made = []
        for name, text in columns.items():
            if typed is not None and name in plain:
                made.append(typed.column(name))
                continue
            known = self.types.get(name, kinds.get(name))
            values = [calls[name](value) for value in text.to_pylist()]
            values = [None if isinstance(value, str) and value in lacking else value for value in values]
            column = array_of(values, kind_of(pa.field(name, known)), name) if known else inferred(values, name)[0]
            if not pa.types.is_null(column.type):
                kinds[name] = column.type
            made.append(column)
        return pa.Table.from_arrays(made, names=list(columns))

    def _typed(self, batch: pa.RecordBatch, kinds: dict[str, pa.DataType], spelling: Spelling) -> pa.Table:
        columns = []
        for name, text in zip(batch.schema.names, batch.columns, strict=True):
            asked = self.types.get(name)
            if asked is not None:
                columns.append(typed_as(text, asked, spelling))
                continue
            known = kinds.get(name)
            column = text if known is not None and pa.types.is_string(known) else narrowest(text, spelling)
            if known is not None and needs_text(known, column.type):
                raise Restart({name: pa.string()}, f"{name}: first {known}, then text")
            if known is None or not pa.types.is_null(column.type):
                kinds[name] = column.type
            columns.append(column)
        return pa.Table.from_arrays(columns, names=batch.schema.names)

    def _explained(self, file: DataFile, names: list[str], num_skipped: int, problem: str) -> DataFileError:
        """The first row that is not as wide as the header, found again with the file's own line numbers."""
        with self._open(file) as stream:
            lines = _text_lines(file, stream, self.encoding, self.encoding_errors)
            for _ in range(num_skipped):
                next(lines, None)
            reader = csv.reader(lines, **self._dialect())
            first = 1
            try:
                for row in reader:
                    if len(row) != len(names) and (row or not self.skip_blank_lines):
                        line = num_skipped + first
                        what = f"{len(row)} fields for {len(names)} columns"
                        return broken(file, what, line=line, column=min(len(row), len(names)) + 1)
                    first = reader.line_num + 1
            except csv.Error as error:
                return broken(file, str(error), line=num_skipped + reader.line_num)
        return broken(file, problem)


class Quotes:
    """A stream that counts the quotes it hands out: with an even number, none is open at the end."""

    closed = False

    def __init__(self, stream: Any, quote: bytes | None) -> None:
        self._stream, self._quote, self._count = stream, quote, 0

    def read(self, num_bytes: int = -1) -> bytes:
        """Up to `num_bytes` bytes."""
        data: bytes = self._stream.read(num_bytes)
        if self._quote is not None:
            self._count += data.count(self._quote)
        return data

    @property
    def is_odd(self) -> bool:
        return self._count % 2 == 1

    def close(self) -> None:
        self.closed = True


def _arrow_stream(stream: Any, encoding: str | None, errors: str | None, file: DataFile) -> Any:
    if encoding is None or (encoding.lower().replace("_", "-") in ("utf-8", "utf8") and errors in (None, "strict")):
        return pa.PythonFile(stream, "r")
    return pa.PythonFile(_File(Recoded(stream, encoding, errors or "strict", file)), "r")


class _File:
    """A reader with the few methods that Arrow asks a file for."""

    closed = False

    def __init__(self, reader: Recoded) -> None:
        self._reader, self._rest = reader, b""

    def read(self, num_bytes: int = -1) -> bytes:
        while len(self._rest) < num_bytes or num_bytes < 0:
            more = self._reader.read(1 << 20)
            if not more:
                break
            self._rest += more
        end = len(self._rest) if num_bytes < 0 else num_bytes
        data, self._rest = self._rest[:end], self._rest[end:]
        return data

    def close(self) -> None:
        self.closed = True


def _text_lines(file: DataFile, stream: IO[bytes], encoding: str | None, errors: str | None) -> Iterator[str]:
    coding = "utf-8-sig" if encoding in (None, "utf-8") else encoding
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode(coding if number == 1 else (encoding or "utf-8"), errors or "strict")
        except UnicodeDecodeError as error:
            what = f"invalid {encoding or 'UTF-8'} (byte 0x{line[error.start]:02x})"
            raise broken(file, what, line=number, column=error.start + 1, remedy="Is encoding= another one?") from error


def _distinct(file: DataFile, names: list[str]) -> list[str]:
    if len(set(names)) == len(names):
        return [name if name else f"Unnamed: {i}" for i, name in enumerate(names)]
    twice = sorted({name for name in names if names.count(name) > 1})
    raise DataFileError(
        str(file),
        "must name each column once",
        found=f"{', '.join(map(repr, twice))} more than once",
        remedy="Pass column_names= with as many names as there are columns, and skiprows=1.",
    )
