"""Where a stream's rows come from: a dataset, files whose rows are numbered, files read front to back, a generator."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets.convert import cast_table
from martlet.datasets.features import Features
from martlet.datasets.files import DataFile
from martlet.datasets.sources.parquet import unreadable
from martlet.datasets.sources.source import Restart, Source
from martlet.datasets.streams.node import Context, Node, Positions, Row, Run, rows_of, shares
from martlet.datasets.streams.shuffling import Mix
from martlet.datasets.widen import fit_table, unify_schemas
from martlet.errors import DataFileError

CACHE_BYTES = 256 << 20  # decoded pieces kept, so that a window of a shuffle is read once


class FromDataset(Node):
    """The rows of a Dataset, by number."""

    def __init__(self, dataset: Any, num_shards: int = 1) -> None:
        self._dataset = dataset
        self._num_shards = num_shards
        self.num_rows = len(dataset)
        self.features = dataset.features

    @property
    def num_shards(self) -> int:
        return self._num_shards

    def table(self, positions: Positions, epoch: int) -> pa.Table:
        found: pa.Table = self._dataset._table(positions)
        return found

    def decoding(self, features: Features) -> Node:
        new = copy.copy(self)
        new.features = features
        return new

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        return iter(rows_of(self.table(positions, epoch), self.features))


class Pieces:
    """Files cut into pieces whose rows are counted: what `FromPieces` reads rows by number from."""

    counts: list[int]
    bytes_of_row: float = 512.0

    def read(self, piece: int) -> pa.Table:
        raise NotImplementedError


class FromPieces(Node):
    """Rows by number out of pieces; a few decoded pieces are kept."""

    def __init__(self, pieces: Pieces, features: Features | None, num_shards: int) -> None:
        self._pieces, self._num_shards = pieces, num_shards
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(pieces.counts, np.int64))])
        self.num_rows = int(self._starts[-1])
        self._schema: pa.Schema | None = None
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()
        self._asked = features
        first = self._piece(0) if pieces.counts else pa.table({})
        self.features = features if features is not None else Features.from_arrow_schema(first.schema)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}

    def decoding(self, features: Features) -> Node:
        new = copy.copy(self)
        new.features = features
        return new

    @property
    def num_shards(self) -> int:
        return self._num_shards

    @property
    def shuffle_shape(self) -> tuple[int, int]:
        """Rows of a block and blocks of a window, so that a window's pieces fit what is kept."""
        largest = max(self._pieces.counts, default=1)
        window = int(CACHE_BYTES // 2 // max(1.0, largest * self._pieces.bytes_of_row))
        return max(1, largest), min(64, max(2, window))

    def _piece(self, piece: int) -> pa.Table:
        if piece in self._kept:
            self._kept.move_to_end(piece)
            return self._kept[piece]
        table = self._fitted(self._pieces.read(piece))
        if table.num_rows != self._pieces.counts[piece]:
            rule = f"had {self._pieces.counts[piece]} rows in piece {piece} when it was opened"
            raise DataFileError("a file of the stream", rule, found=table.num_rows, remedy="Was it changed since?")
        self._kept[piece] = table
        while len(self._kept) > 2 and sum(kept.nbytes for kept in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return table

    def _fitted(self, table: pa.Table) -> pa.Table:
        if self._asked is not None:
            return cast_table(table, self._asked)
        self._schema = self._schema or table.schema
        return fitted_to(table, self._schema)

    def table(self, positions: Positions, epoch: int) -> pa.Table:
        pieces = np.searchsorted(self._starts, positions, side="right") - 1
        order = np.argsort(pieces, kind="stable")
        parts = []
        for piece in np.unique(pieces).tolist():
            within = positions[order][pieces[order] == piece] - self._starts[piece]
            parts.append(self._piece(piece).take(pa.array(within)))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        whole = pa.concat_tables(parts)
        return whole if len(parts) == 1 and not (np.diff(order) < 0).any() else whole.take(pa.array(back))

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        return iter(rows_of(self.table(positions, epoch), self.features))


def fitted_to(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table under the stream's schema, which its first rows gave. DataFileError if it holds more than that."""
    if table.schema.equals(schema):
        return table
    wider, changes = unify_schemas(schema, table.schema)
    if not wider.equals(schema):
        raise DataFileError(
            "the stream",
            "must keep the types of its first rows",
            found="; ".join(map(str, changes)),
            remedy="Pass features= with types for all rows, or load without streaming=True.",
        )
    return fit_table(table, schema)


class Streamed(Node):
    """Files read front to back: compressed, remote or packed ones, and formats without numbered rows.

    The state is the file and the row in it; going on reads that file from its start and passes over the rows before.
    """

    def __init__(self, source: Source, files: Sequence[DataFile], features: Features | None) -> None:
        self._source, self._files, self.features = source, list(files), features
        self._asked = features
        self._mix: Mix | None = None
        self.schema: pa.Schema | None = None

    @property
    def num_shards(self) -> int:
        return max(1, len(self._files))

    splits = False

    def mixed(self, seed: int, num_files: int) -> Node:
        new = copy.copy(self)
        new._mix = Mix(seed, num_files)
        return new

    def run(self, state: Any, context: Context) -> Run:
        if context.count > 1 and len(self._files) >= context.count:
            return self.start(state, context)
        return super().run(state, context)

    def start(self, state: Any, context: Context) -> Run:
        if self._mix is not None:
            return self._mix.run(len(self._files), self.after, state, context)
        return StreamedRun(self, list(range(context.index, len(self._files), context.count)), state)

    def after(self, number: int, skipped: int) -> Iterator[Row]:
        """The rows of a file after the first so many."""
        for table in self.tables(number):
            if skipped >= table.num_rows:
                skipped -= table.num_rows
                continue
            yield from rows_of(table.slice(skipped), self.features)
            skipped = 0

    def decoding(self, features: Features) -> Node:
        new = copy.copy(self)
        new.features = features
        return new

    def sharded(self, count: int, index: int, contiguous: bool) -> Node:
        if len(self._files) < count:
            return super().sharded(count, index, contiguous)
        new = copy.copy(self)
        new._files = [self._files[number] for number in shares(len(self._files), count, index, contiguous)]
        return new

    def look(self) -> Features | None:
        """Features by the first rows."""
        if self.features is None:
            table = next(self.tables(0), None)
            if table is not None:
                self.features = Features.from_arrow_schema(self.schema or table.schema)
        return self.features

    def tables(self, number: int) -> Iterator[pa.Table]:
        files = [self._files[number]] if self._files else []
        source, given = self._source.copy(), 0
        while True:
            try:
                for table in source.read(files):
                    if self._asked is None:
                        self.schema = self.schema or table.schema
                    given += 1
                    yield cast_table(table, self._asked) if self._asked else fitted_to(table, self.schema)
                return
            except Restart as restart:
                if given:
                    rule = "must keep the types of its first rows"
                    raise DataFileError(str(files[0]), rule, found=restart.why, remedy="Pass features=.") from restart
                source.told(restart)


class StreamedRun(Run):
    def __init__(self, node: Streamed, files: list[int], state: Any) -> None:
        self._node, self._files = node, files
        self._at, self._row = (0, 0) if state is None else (int(state[0]), int(state[1]))
        self._rows: Iterator[Row] | None = None

    def __next__(self) -> Row:
        while self._at < len(self._files):
            if self._rows is None:
                self._rows = self._node.after(self._files[self._at], self._row)
            row = next(self._rows, None)
            if row is not None:
                self._row += 1
                return row
            self._at, self._row, self._rows = self._at + 1, 0, None
        raise StopIteration

    def state(self) -> Any:
        return [self._at, self._row]


class Generated(Node):
    """Rows of a function that gives an iterator. Going on runs it again and passes over the rows before.

    A list among `gen_kwargs` is a list of shards: workers get parts of it, as in Hugging Face's library.
    """

    def __init__(self, generator: Callable[..., Any], gen_kwargs: dict[str, Any], features: Features | None) -> None:
        self._generator, self._kwargs, self.features = generator, gen_kwargs, features
        self._mix: Mix | None = None

    @property
    def num_shards(self) -> int:
        lengths = [len(value) for value in self._kwargs.values() if isinstance(value, list)]
        return min(lengths, default=1)

    splits = False

    def sharded(self, count: int, index: int, contiguous: bool) -> Node:
        if self.num_shards < count:
            return super().sharded(count, index, contiguous)
        new = copy.copy(self)
        new._kwargs = self._shards(count, index, contiguous)
        return new

    def mixed(self, seed: int, num_files: int) -> Node:
        if self.num_shards < 2:
            return self
        new = copy.copy(self)
        new._mix = Mix(seed, num_files)
        return new

    def _of_shard(self, number: int, skipped: int) -> Iterator[Row]:
        return Passed(self._made(self._shards(self.num_shards, number, contiguous=False)), skipped, self.features)

    def _shards(self, count: int, index: int, contiguous: bool) -> dict[str, Any]:
        return {
            name: [value[number] for number in shares(len(value), count, index, contiguous)]
            if isinstance(value, list)
            else value
            for name, value in self._kwargs.items()
        }

    def run(self, state: Any, context: Context) -> Run:
        if context.count > 1 and self.num_shards >= context.count:
            return self.start(state, context)
        return super().run(state, context)

    def start(self, state: Any, context: Context) -> Run:
        if self._mix is not None:
            return self._mix.run(self.num_shards, self._of_shard, state, context)
        mine = self._kwargs if context.count == 1 else self._shards(context.count, context.index, contiguous=False)
        return Passed(self._made(mine), state, self.features)

    def _made(self, kwargs: dict[str, Any]) -> Callable[[], Iterator[Any]]:
        return lambda: iter(self._generator(**kwargs))


class Passed(Run):
    """An iterator that knows how many rows it gave."""

    def __init__(self, make: Callable[[], Iterator[Any]], state: Any, features: Features | None) -> None:
        self._rows, self._features = make(), features
        self._done = 0
        for _ in range(int(state or 0)):
            next(self._rows, None)
            self._done += 1

    def __next__(self) -> Row:
        row = next(self._rows)
        self._done += 1
        if self._features is not None:
            return self._features.decode_example(self._features.encode_example(row))
        return dict(row)

    def state(self) -> Any:
        return self._done


@contextlib.contextmanager
def _parquet(file: DataFile) -> Iterator[Any]:
    import pyarrow.parquet as pq

    from martlet.datasets.tables import named_once

    with file.open() as stream:
        try:
            reader = pq.ParquetFile(stream)
            named_once(str(file), reader.schema_arrow)
            yield reader
        except (pa.ArrowInvalid, OSError) as problem:
            raise unreadable(file, "Parquet", problem) from problem


class ParquetPieces(Pieces):
    """Row groups: their rows are counted in the files' own metadata."""

    def __init__(self, files: Sequence[DataFile], columns: Sequence[str] | None) -> None:
        self._files, self._columns = list(files), columns
        self._place: list[tuple[int, int]] = []
        self.counts = []
        num_bytes = 0
        for number, file in enumerate(files):
            with _parquet(file) as reader:
                for group in range(reader.metadata.num_row_groups):
                    about = reader.metadata.row_group(group)
                    self._place.append((number, group))
                    self.counts.append(about.num_rows)
                    num_bytes += about.total_byte_size
        self.bytes_of_row = num_bytes / max(1, sum(self.counts))

    def read(self, piece: int) -> pa.Table:
        from martlet.datasets.sources.parquet import wanted_columns
        from martlet.datasets.tables import plain_table

        number, group = self._place[piece]
        with _parquet(self._files[number]) as reader:
            columns = wanted_columns(self._columns, reader.schema_arrow.names)
            return plain_table(reader.read_row_group(group, columns=columns))


class LinePieces(Pieces):
    """Local files of lines, with the offset of each piece found in one pass over the bytes."""

    def __init__(self, source: Source, files: Sequence[DataFile], rows_of_piece: int = 1024) -> None:
        from martlet.datasets.streams.lines import line_offsets

        self._source, self._files = source, list(files)
        self._place: list[tuple[int, int, int]] = []
        self.counts = []
        num_bytes = 0
        for number, file in enumerate(files):
            offsets, counts, size = line_offsets(file, rows_of_piece)
            ends = [*offsets[1:], size]
            self._place += [(number, first, end) for first, end in zip(offsets, ends, strict=True)]
            self.counts += counts
            num_bytes += size
        self.bytes_of_row = num_bytes / max(1, sum(self.counts))

    def read(self, piece: int) -> pa.Table:
        from martlet.datasets.sources.lines import Block

        number, first, end = self._place[piece]
        file = self._files[number]
        with open(file.url, "rb") as stream:
            stream.seek(first)
            data = stream.read(end - first)
        while True:
            try:
                table = self._source.block(file, Block(data, first))
            except Restart as restart:
                if piece:
                    rule = "must keep the types of its first rows"
                    raise DataFileError(str(file), rule, found=restart.why, remedy="Pass features=.") from restart
                self._source.told(restart)
                continue
            return table
