"""Plain text: a row a line, a paragraph or a document."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from martlet.datasets.files import DataFile
from martlet.datasets.sources.json import _recoded, is_utf8
from martlet.datasets.sources.lines import BLOCK_BYTES, Block, blocks, in_order, line_number
from martlet.datasets.sources.source import Source, broken
from martlet.errors import ArgumentError


@dataclass
class Text(Source):
    """One column, `text`. Line ends of any system are one newline; `sample_by` is line, paragraph or document."""

    kind = "text"
    encoding: str = "utf-8"
    encoding_errors: str | None = None
    chunksize: int = BLOCK_BYTES
    keep_linebreaks: bool = False
    sample_by: str = "line"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_by not in ("line", "paragraph", "document"):
            raise ArgumentError("sample_by", "must be 'line', 'paragraph' or 'document'", found=repr(self.sample_by))

    def tables(self, file: DataFile) -> Iterator[pa.Table]:
        with file.open() as raw:
            stream = _recoded(raw, self.encoding, self.encoding_errors, file)
            if self.sample_by == "document":
                parts: list[bytes] = []
                while data := stream.read(1 << 20):
                    parts.append(data)
                yield self._table(pa.array([self._decoded(file, Block(b"".join(parts), 0))], pa.string()))
                return
            separator = b"\n" if self.sample_by == "line" else b"\n\n"
            is_empty = True
            threads = self.num_threads or os.cpu_count() or 1
            for texts in in_order(
                lambda block: self._split(file, block), blocks(stream, self.chunksize, separator), threads
            ):
                if len(texts):
                    is_empty = False
                    yield self._table(texts)
            if is_empty:
                yield self._table(pa.array([], pa.string()))

    def block_is_lines(self) -> bool:
        return self.sample_by == "line" and is_utf8(self.encoding)

    def block(self, file: DataFile, block: Block) -> pa.Table:
        return self._table(self._split(file, block))

    def _decoded(self, file: DataFile, block: Block) -> str:
        try:
            text = block.data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = line_number(file, block.offset) + block.data.count(b"\n", 0, error.start)
            column = error.start - block.data.rfind(b"\n", 0, error.start)
            if self.on_error != "skip":
                what = f"invalid UTF-8 (byte 0x{block.data[error.start]:02x})"
                raise broken(file, what, line=line, column=column) from error
            text = self._without_invalid(file, block)
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text

    def _without_invalid(self, file: DataFile, block: Block) -> str:
        kept = []
        for number, line in enumerate(block.data.split(b"\n")):
            try:
                kept.append(line.decode("utf-8"))
            except UnicodeDecodeError:
                self.leave(file, f"invalid UTF-8 at line {line_number(file, block.offset) + number}")
        return "\n".join(kept)

    def _split(self, file: DataFile, block: Block) -> pa.Array:
        text = self._decoded(file, block)
        if self.sample_by == "paragraph":
            return pa.array([part for part in text.split("\n\n") if part], pa.string())
        ends_whole = text.endswith("\n")
        lines = pc.split_pattern(pa.array([text], pa.string()), "\n").flatten()
        if ends_whole:
            lines = lines.slice(0, len(lines) - 1)
        if self.keep_linebreaks:
            ended = pc.binary_join_element_wise(lines, "\n", "")
            lines = (
                ended if ends_whole else pa.concat_arrays([ended.slice(0, len(ended) - 1), lines.slice(len(lines) - 1)])
            )
        return lines

    def _table(self, texts: pa.Array) -> pa.Table:
        return pa.table({next(iter(self.types), "text"): texts})
