"""Datasets out of Python objects: dicts, lists of rows, data frames, generators, Arrow buffers."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets import cache
from martlet.datasets.arguments import verb
from martlet.datasets.features import Features
from martlet.datasets.hashing import key_of
from martlet.datasets.info import DatasetInfo
from martlet.datasets.outputs import Kinds, joined, rows_as_columns
from martlet.datasets.stored import Stored, digest
from martlet.errors import ArgumentError, MissingDependencyError

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset

GENERATED_ROWS = 1000  # rows of a generator that become one block


def _features(features: Any, info: DatasetInfo | None) -> Features | None:
    if features is not None and info is not None and info.features is not None and info.features != features:
        raise ArgumentError("features", "differ from those of info", found=repr(features))
    chosen = features if features is not None else info.features if info is not None else None
    return Features(chosen) if chosen is not None else None


@verb
def from_dict(
    cls: type[Dataset],
    mapping: Mapping[str, Any],
    features: Features | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
    on_mixed_types: str | None = None,
) -> Dataset:
    """Columns by name: lists, arrays or tensors of one length. `on_mixed_types="use_json"` keeps any values."""
    given = _features(features, info)
    kinds = Kinds(given, None, on_mixed_types)
    columns: Mapping[str, Any] = mapping
    if given is not None:
        if surplus := [name for name in mapping if name not in given]:
            raise ArgumentError("features", "must name every column", found=f"no {', '.join(map(repr, surplus))}")
        rows = len(next(iter(mapping.values()))) if mapping else 0
        columns = {name: mapping.get(name, [None] * rows) for name in given}
    table, found = kinds.table(columns)
    return cls(Stored(table, found), info, split)


@verb
def from_list(
    cls: type[Dataset],
    mapping: list[dict[str, Any]],
    features: Features | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
    on_mixed_types: str | None = None,
) -> Dataset:
    """Rows as dicts; a key that a row lacks is None there. The first row names the columns, or `features` do."""
    given = _features(features, info)
    names = list(given) if given is not None else list(mapping[0]) if mapping else []
    columns = {name: [row.get(name) for row in mapping] for name in names}
    return cls.from_dict(columns, given, info, split, on_mixed_types)


@verb
def from_pandas(
    cls: type[Dataset],
    df: Any,
    features: Features | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
    preserve_index: bool | None = None,
) -> Dataset:
    """The columns of a pandas DataFrame. The index becomes a column unless it is a plain range."""
    table = pa.Table.from_pandas(df, preserve_index=preserve_index)
    return cls(Stored.of(table.replace_schema_metadata(None), _features(features, info)), info, split)


@verb
def from_polars(
    cls: type[Dataset],
    df: Any,
    features: Features | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
) -> Dataset:
    """The columns of a Polars DataFrame, or of a LazyFrame, collected."""
    frame = df.collect() if hasattr(df, "collect") else df
    return cls(Stored.of(frame.to_arrow(), _features(features, info)), info, split)


def from_buffer(
    cls: type[Dataset],
    buffer: Any,
    info: DatasetInfo | None = None,
    split: str | None = None,
    indices_buffer: Any = None,
) -> Dataset:
    """The rows of an Arrow stream in memory."""
    table = pa.ipc.open_stream(buffer).read_all()
    indices = pa.ipc.open_stream(indices_buffer).read_all() if indices_buffer is not None else None
    return cls(Stored.of(table, info.features if info else None), info, split, indices)


@verb
def from_generator(
    cls: type[Dataset],
    generator: Callable[..., Iterable[dict[str, Any]]],
    features: Features | None = None,
    cache_dir: str | None = None,
    keep_in_memory: bool = False,
    gen_kwargs: dict[str, Any] | None = None,
    num_proc: int | None = None,
    split: str | None = "train",
    fingerprint: str | None = None,
    *,
    on_mixed_types: str | None = "use_json",
    cache: bool = True,
) -> Dataset:
    """The rows that a generator function yields, written to the cache as they come; made again if its code changes.

    With `num_proc`, lists in `gen_kwargs` are cut into as many parts; each part is generated in its own process.
    `fingerprint` is the key to keep the rows under, in place of that of the function and its arguments.
    """
    from martlet.datasets.cache import in_folder

    needs_generator(generator)
    kwargs, given = dict(gen_kwargs or {}), Features(features) if features is not None else None
    shards = [kwargs] if num_proc is None or num_proc < 2 else _shards(kwargs, num_proc)
    job = ShardJob(generator, tuple(shards), given, on_mixed_types)
    if keep_in_memory or not cache:
        return cls(_in_memory(job), None, split)
    if fingerprint is not None:
        key = fingerprint
    else:
        key, _ = key_of(generator, tuple(sorted(kwargs.items())), given and given.to_dict(), on_mixed_types)
    with in_folder(cache_dir):
        return cls(_cached(digest("generator", key), job), None, split, None, fingerprint)


def needs_generator(generator: Any) -> None:
    """ArgumentError unless it is a function."""
    if not callable(generator):
        remedy = "Pass the function itself, not what it returns; its arguments go into gen_kwargs=."
        found = type(generator).__name__
        raise ArgumentError("from_generator()", "generator must be callable", found=found, remedy=remedy)


def _blocks(
    generator: Any, kwargs: dict[str, Any], given: Features | None, on_mixed_types: str | None
) -> Iterator[tuple[pa.Table, Features]]:
    rows = generator(**kwargs)
    if not isinstance(rows, Iterable):
        raise ArgumentError("from_generator()", "needs a function that yields rows", found=type(rows).__name__)
    kinds = Kinds(given, None, on_mixed_types)
    first, walk = 0, iter(rows)
    while block := list(itertools.islice(walk, GENERATED_ROWS)):
        where = f"generated rows {first:,} to {first + len(block) - 1:,}"
        if given is not None:
            columns: dict[str, Any] | None = {name: [row.get(name) for row in block] for name in given}
        else:
            columns = rows_as_columns(block, where, first)
        if columns is None:
            raise ArgumentError("from_generator()", "must yield dicts", found="None")
        yield kinds.table(columns, where)
        first += len(block)


def _joined(parts: list[tuple[pa.Table, Features]], given: Features | None) -> tuple[pa.Table, Features]:
    if not parts:
        features = given or Features()
        return features.arrow_schema.empty_table(), features
    return joined(parts, "from_generator()")


@dataclass(frozen=True)
class ShardJob:
    """A generator's shards, the arguments of each, as parts that are written into a folder."""

    generator: Any
    shards: tuple[dict[str, Any], ...]
    given: Features | None
    on_mixed_types: str | None
    folder: Path | None = None

    unit = "shards"

    def words(self) -> str:
        """The job, as errors name it."""
        return f"from_generator({getattr(self.generator, '__qualname__', type(self.generator).__name__)})"

    def for_workers(self, folder: Path) -> ShardJob:
        """The same job: it reads no rows."""
        return self

    def blocks(self, number: int) -> Iterator[tuple[pa.Table, Features]]:
        """The rows of a shard."""
        return _blocks(self.generator, self.shards[number], self.given, self.on_mixed_types)

    def run_part(self, number: int, begin: int, end: int, rank: int, on_rows: Callable[[int], None]) -> None:
        """Writes a shard's rows. CacheError if they cannot be written."""
        from martlet.datasets.parts import writing_part

        assert self.folder is not None
        with writing_part(self.folder, number) as writer:
            for table, features in self.blocks(number):
                writer.write(table, features)
                on_rows(table.num_rows)
            if not writer.files:
                writer.write(*_joined([], self.given))

    def run(self, folder: Path) -> None:
        """Writes all shards, each in a process of its own if there are several."""
        from martlet.datasets.progress import bar
        from martlet.datasets.runner import LocalProcesses, Runner, ThisProcess

        parts = [(number, number, number + 1) for number in range(len(self.shards))]
        runner: Runner = LocalProcesses(len(parts)) if len(parts) > 1 else ThisProcess()
        with bar(None, "Generating") as on_rows:
            runner.run(replace(self, folder=folder), parts, on_rows)

    def read(self, folder: Path, *, in_memory: bool = False) -> tuple[pa.Table, Features, list[str]]:
        """What was written, and in which files."""
        from martlet.datasets.parts import read_part

        found = [file for number in range(len(self.shards)) for file in read_part(folder, number, in_memory=in_memory)]
        full = [part for part in found if part[1].num_rows] or found[:1]
        table, features = joined([(table, features) for _, table, features in full], "from_generator()")
        return table, features, [name for name, _, _ in full]


def _in_memory(job: ShardJob) -> Stored:
    if len(job.shards) == 1:
        return Stored(*_joined(list(job.blocks(0)), job.given))
    with tempfile.TemporaryDirectory(prefix="martlet-") as folder:
        job.run(Path(folder))
        table, features, _ = job.read(Path(folder), in_memory=True)
        return Stored(table, features)


def _cached(key: str, job: ShardJob) -> Stored:
    folder = cache.find(key)
    if folder is None:
        with cache.making(key) as aside:
            if aside is not None:
                job.run(aside)
                cache.finish(key, aside, {"about": "from_generator", "shards": len(job.shards)})
            folder = cache.find(key)
    assert folder is not None
    kept = replace(job, shards=({},) * int(cache.read_entry(folder).get("shards", 1)))
    table, features, files = kept.read(folder)
    return Stored(table, features, files, key)


def _shards(gen_kwargs: dict[str, Any], num_proc: int) -> list[dict[str, Any]]:
    """The arguments of as many processes: each has its part of the lists."""
    lists = {name: value for name, value in gen_kwargs.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    if len(lengths) != 1:
        rule = "with num_proc, gen_kwargs must have lists of one length, the shards"
        raise ArgumentError("from_generator()", rule, found=", ".join(map(repr, lists)) or "no list")
    total = lengths.pop()
    count = max(1, min(num_proc, total))
    cuts = [total * part // count for part in range(count + 1)]
    return [
        {**gen_kwargs, **{name: value[begin:end] for name, value in lists.items()}}
        for begin, end in itertools.pairwise(cuts)
    ]


def needs_pandas() -> Any:
    """pandas. MissingDependencyError without it."""
    try:
        import pandas
    except ImportError as problem:
        raise MissingDependencyError("pandas", "is needed for this", remedy="pip install pandas") from problem
    return pandas
