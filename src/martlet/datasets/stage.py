"""Work that is still to be done on rows: a chain of steps, run once, in parts whose results are files or memory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets import cache
from martlet.datasets.calls import Block
from martlet.datasets.features import Features
from martlet.datasets.outputs import joined
from martlet.datasets.parts import TemporaryFolder, empty_folder, is_whole, read_part, writing_part
from martlet.datasets.runner import LocalProcesses, Runner, ThisProcess
from martlet.datasets.selection import Over, Picks, Repeated, Selection, Span, Stacked, compose, positions, span_of
from martlet.datasets.steps import Chain, CountChanged, FilterStep, MapStep, Step, group_of, masked
from martlet.datasets.stored import Stored, digest
from martlet.datasets.tables import open_arrow
from martlet.errors import MapError

MOST_PARTS = 64  # a part is what a worker takes at a time, and what a killed run need not do again
LAYOUT = 2  # of the cache; part of every key
log = logging.getLogger("martlet.datasets")
LARGEST_GROUP = 1 << 20


@dataclass(frozen=True)
class Options:
    """How a chain runs; none of it changes what comes out."""

    num_proc: int | None = None
    keep_in_memory: bool | None = None
    load_from_cache_file: bool = True
    cache_file_name: str | None = None
    new_fingerprint: str | None = None
    is_cached: bool = True
    block_rows: int = 1000
    desc: str | None = None
    runner: Runner | None = None

    def after(self, earlier: Options) -> Options:
        """The options of a chain whose last step has these."""
        return Options(
            max(self.num_proc or 0, earlier.num_proc or 0) or None,
            self.keep_in_memory,
            self.load_from_cache_file and earlier.load_from_cache_file,
            self.cache_file_name,
            self.new_fingerprint,
            self.is_cached and earlier.is_cached,
            min(self.block_rows, earlier.block_rows),
            self.desc or earlier.desc,
            self.runner or earlier.runner,
        )


@dataclass
class Job:
    """What a worker does: a chain over parts of selected rows, each part written into a folder."""

    source: Stored
    selection: Selection | None
    steps: tuple[Step, ...]
    num_rows: int
    block_rows: int
    folder: Path | None
    is_filter: bool
    _chain: Chain | None = field(default=None, repr=False)

    def words(self) -> str:
        """The steps, as errors name them."""
        return "; ".join(step.words() for step in self.steps)

    def for_workers(self, folder: Path) -> Job:
        """The same job, its rows where other processes can map them."""
        return replace(self, source=self.source.in_files(folder), _chain=None)

    def blocks(self, begin: int, end: int) -> Iterator[Block]:
        """The rows begin .. end - 1, in blocks."""
        stored = self.source
        columns = list(range(stored.table.num_columns))
        for start in range(begin, end, self.block_rows):
            stop = min(start + self.block_rows, end)
            span = span_of(self.selection, start, stop)
            if span is not None:
                table = stored.rows.slice(span.start, span.stop, columns)
            else:
                assert self.selection is not None
                table = stored.rows.take(self.selection.rows(positions(start, stop)), columns)
            yield Block(table, stored.features, start)

    def results(
        self, begin: int, end: int, rank: int, on_rows: Callable[[int], None]
    ) -> Iterator[tuple[pa.Table, Features]]:
        """The results of a part, block by block."""
        if self._chain is None:
            self._chain = Chain(self.steps, self.source.features)
        for block in self.blocks(begin, end):
            if self.is_filter:
                yield self._picked(block, rank), Features()
            else:
                yield self._chain(block, rank)
            on_rows(len(block))

    def _picked(self, block: Block, rank: int) -> pa.Table:
        """Positions of the rows that all filters keep."""
        kept = positions(block.first, block.first + len(block))
        assert self._chain is not None
        for number, step in enumerate(self.steps):
            assert isinstance(step, FilterStep)
            if self._chain._works[number] is None:
                self._chain._works[number] = step.make(block.features)
            if not len(block):
                break
            stay = masked(step, self._chain._works[number], block, rank)
            kept = kept[stay]
            if number + 1 == len(self.steps):
                break
            block = Block(block.table.take(pa.array(stay)), block.features, block.first)
        return pa.table({"rows": kept})

    def run_part(self, number: int, begin: int, end: int, rank: int, on_rows: Callable[[int], None]) -> None:
        """Does a part and writes it: files of blocks of one schema, then a note that the part is whole."""
        assert self.folder is not None
        with writing_part(self.folder, number) as writer:
            for table, features in self.results(begin, end, rank, on_rows):
                writer.write(table, features)


class Pending:
    """A chain of steps over selected rows of a table, not run yet. It is run once, whoever asks first."""

    def __init__(
        self,
        source: Stored,
        selection: Selection | None,
        steps: tuple[Step, ...],
        options: Options,
        names: list[str] | None,
    ) -> None:
        self.source, self.selection, self.steps, self.options = source, selection, steps, options
        self.names = names
        self._done: tuple[Stored, Selection | None] | None = None

    @property
    def num_source_rows(self) -> int:
        """Rows that go in."""
        return len(self.source) if self.selection is None else len(self.selection)

    @property
    def num_rows(self) -> int | None:
        """Rows that come out, where that is known beforehand."""
        if self._done is not None:
            stored, selection = self._done
            return len(stored) if selection is None else len(selection)
        return self.num_source_rows if all(step.keeps_count for step in self.steps) else None

    @property
    def can_grow(self) -> bool:
        """Whether it has not been run, so that a further step over the same rows can join it."""
        return self._done is None and self.options.cache_file_name is None and self.options.new_fingerprint is None

    def fits(self, step: Step) -> bool:
        """Whether a step may be fused: none that needs whole batches comes after one that changes the count."""
        return step.is_local or all(earlier.keeps_count or _is_even(earlier) for earlier in self.steps)

    def then(self, step: Step, options: Options, names: list[str] | None) -> Pending:
        """The chain with one step more."""
        return Pending(self.source, self.selection, (*self.steps, step), options.after(self.options), names)

    @property
    def key(self) -> str:
        """The key of the result."""
        if self.options.new_fingerprint is not None:
            return digest("given", self.options.new_fingerprint)
        parts = [step.key for step in self.steps]
        return digest(
            "stage",
            str(LAYOUT),
            importlib.metadata.version("martlet"),
            self.source.key,
            selection_key(self.selection),
            *parts,
        )

    @property
    def is_filter(self) -> bool:
        """Whether it only picks rows, which need not be written again."""
        return all(isinstance(step, FilterStep) for step in self.steps)

    @property
    def goes_to_cache(self) -> bool:
        """Whether the result is kept on the disk, under its key."""
        options = self.options
        if not options.is_cached or options.keep_in_memory or options.cache_file_name is not None:
            return False
        return cache.is_caching_enabled() and not self.source.is_in_memory

    @property
    def is_in_cache(self) -> bool:
        """Whether the result is there already."""
        return self.goes_to_cache and self.options.load_from_cache_file and cache.find(self.key) is not None

    def run(self) -> tuple[Stored, Selection | None]:
        """The result: a table, and which of its rows. Found in the cache, or made."""
        if self._done is None:
            try:
                self._done = self._result()
            except CountChanged as cut:
                head = Pending(self.source, self.selection, self.steps[: cut.number], self.options, self.names)
                stored, selection = head.run()
                tail = Pending(stored, selection, self.steps[cut.number :], self.options, self.names)
                self._done = tail.run()
        return self._done

    def _result(self) -> tuple[Stored, Selection | None]:
        if not self.num_source_rows:
            return self._empty()
        if self.options.cache_file_name is not None:
            return self._in_file(Path(self.options.cache_file_name))
        if self.goes_to_cache:
            return self._in_cache()
        in_memory = self.is_filter or self.source.is_in_memory or self.options.keep_in_memory
        if in_memory and (self.options.num_proc or 1) == 1 and self.options.runner is None:
            return self._in_memory()
        return self._in_temporary_folder(bool(in_memory))

    def _empty(self) -> tuple[Stored, Selection | None]:
        """No rows, no calls: the columns as far as they are known without."""
        stored = self.source
        table, features = stored.table.slice(0, 0), stored.features
        for step in self.steps:
            if isinstance(step, MapStep):
                if step.features is not None:
                    table, features = step.features.arrow_schema.empty_table(), step.features
                else:
                    names = [name for name in features if name not in step.removed]
                    table, features = table.select(names), Features({name: features[name] for name in names})
            elif not isinstance(step, FilterStep):
                table, features = step.make(features)(Block(table, features, 0), 0, "")
        return Stored(table, features), None

    def _job(self, folder: Path | None) -> Job:
        return Job(
            self.source, self.selection, self.steps, self.num_source_rows, self._block_rows(), folder, self.is_filter
        )

    def _group(self) -> int:
        """Rows that must come together, for all steps."""
        groups = [group_of(step) for step in self.steps]
        if any(group is None for group in groups):
            return self.num_source_rows
        return min(self.num_source_rows, math.lcm(*(group for group in groups if group is not None)))

    def _block_rows(self) -> int:
        group = self._group()
        return max(self._beside(group), self.options.block_rows // group * group)

    def _beside(self, group: int) -> int:
        """Rows, whole groups, that a block needs for coroutines to run side by side."""
        wanted = max(
            (step.function.rows_beside for step in self.steps if isinstance(step, MapStep | FilterStep)), default=1
        )
        return math.ceil(wanted / group) * group

    def _parts(self, *, is_kept: bool = True) -> list[tuple[int, int, int]]:
        """(number, begin, end) of the parts: set by rows and steps alone, so a next run finds what a killed one did."""
        group, total = self._beside(self._group()), self.num_source_rows
        if not is_kept and (self.options.num_proc or 1) == 1:
            return [(0, 0, total)]
        rows = math.ceil(max(total / MOST_PARTS, min(4, total)) / group) * group
        return [(number, begin, min(begin + rows, total)) for number, begin in enumerate(range(0, total, rows))]

    def _in_memory(self) -> tuple[Stored, Selection | None]:
        parts: list[tuple[pa.Table, Features]] = []
        with self._progress() as on_rows:
            for table, features in self._job(None).results(0, self.num_source_rows, 0, on_rows):
                if parts and features == parts[-1][1] and parts[-1][0].num_rows + table.num_rows <= 10_000:
                    parts[-1] = (pa.concat_tables([parts[-1][0], table]), features)
                else:
                    parts.append((table, features))
        return self._put_together(parts, (), None)

    def _in_cache(self) -> tuple[Stored, Selection | None]:
        key = self.key
        folder = cache.find(key) if self.options.load_from_cache_file else None
        if folder is not None and not all(is_whole(folder, number) for number, _, _ in self._parts()):
            log.warning("%s: files of a result are gone; it is made again", folder)
            cache.remove(key)
            folder = None
        if folder is None:
            with cache.making(key) as aside:
                if aside is not None:
                    if not self.options.load_from_cache_file:
                        empty_folder(aside)
                    self._run_parts(aside, self._parts())
                    entry = {
                        "about": "; ".join(step.words() for step in self.steps),
                        "parts": len(self._parts()),
                        "origin": cache.origin_of(self.source.files),
                    }
                    folder = cache.finish(key, aside, entry)
                elif not self.options.load_from_cache_file:
                    return self._in_temporary_folder(False)
                else:
                    folder = cache.find(key)
                    assert folder is not None
                return self._opened(folder, self._parts(), key, None)
        return self._opened(folder, self._parts(), key, None)

    def _in_temporary_folder(self, in_memory: bool) -> tuple[Stored, Selection | None]:
        owner = TemporaryFolder()
        folder = owner.path
        parts = self._parts(is_kept=False)
        self._run_parts(folder, parts)
        return self._opened(folder, parts, None, owner, in_memory=in_memory)

    def _in_file(self, path: Path) -> tuple[Stored, Selection | None]:
        """The result in a file that the user named: an Arrow stream, as Hugging Face writes it."""
        if not (path.is_file() and self.options.load_from_cache_file):
            from martlet.datasets.saving import write_arrow

            plain = Pending(
                self.source, self.selection, self.steps, Options(self.options.num_proc, is_cached=False), self.names
            )
            stored, selection = plain.run()
            if selection is not None:
                stored = Stored(pa.table({"indices": selection.rows(positions(0, len(selection)))}), Features())
            write_arrow(path, stored.table)
        table = open_arrow(path)
        if self.is_filter:
            return self.source, self._picks(table.column(0))
        return Stored.of(table, None, (os.fspath(path),)), None

    def _run_parts(self, folder: Path, parts: list[tuple[int, int, int]]) -> None:
        job = self._job(folder)
        parts = [part for part in parts if not is_whole(folder, part[0])]
        done = self.num_source_rows - sum(end - begin for _, begin, end in parts)
        num_proc = self.options.num_proc or 1
        runner = self.options.runner or (
            LocalProcesses(min(num_proc, len(parts))) if num_proc > 1 and parts else ThisProcess()
        )
        with self._progress(done) as on_rows:
            runner.run(job, parts, on_rows)

    def _opened(
        self,
        folder: Path,
        all_parts: list[tuple[int, int, int]],
        key: str | None,
        owner: Any,
        *,
        in_memory: bool = False,
    ) -> tuple[Stored, Selection | None]:
        parts, files, places = [], [], []
        for number, begin, end in all_parts:
            for name, table, features in read_part(folder, number, in_memory=in_memory):
                parts.append((table, features))
                files.append(name)
                places.append(f"rows {begin:,} to {end - 1:,}")
        return self._put_together(parts, () if in_memory else files, key, owner, places)

    def _put_together(
        self,
        parts: Sequence[tuple[pa.Table, Features]],
        files: Sequence[str],
        key: str | None,
        owner: Any = None,
        places: Sequence[str] = (),
    ) -> tuple[Stored, Selection | None]:
        if self.is_filter:
            column = pa.chunked_array([chunk for table, _ in parts for chunk in table.column(0).chunks], pa.int64())
            return self.source, self._picks(column)
        where = "; ".join(step.words() for step in self.steps)
        full = [number for number, part in enumerate(parts) if part[0].num_rows] or [0]
        table, features = joined([parts[at] for at in full], where, [places[at] for at in full] if places else ())
        return Stored(table, features, files, key, owner), None

    def _picks(self, column: pa.ChunkedArray) -> Selection:
        picked = Picks(column.to_numpy().astype(np.int64, copy=False))
        return picked if self.selection is None else compose(self.selection, picked)

    @contextlib.contextmanager
    def _progress(self, done: int = 0) -> Iterator[Callable[[int], None]]:
        from martlet.datasets.progress import bar

        desc = self.options.desc or ("Filter" if self.is_filter else "Map")
        with bar(self.num_source_rows, desc, done) as on_rows:
            yield on_rows


def probed_names(
    source: Stored, selection: Selection | None, steps: tuple[Step, ...], names: list[str] | None
) -> list[str] | None:
    """The columns that come out, found by running the chain on the first rows; None if these do not tell.

    MapError and the function's own errors come now, not when rows are looked at. Random states are put back.
    """
    total = len(source) if selection is None else len(selection)
    last = steps[-1]
    if not isinstance(last, MapStep):
        return names
    if not total:  # no row tells more than what is taken away
        return None if names is None or last.features is not None else [n for n in names if n not in last.removed]
    group = max((group_of(step) or total) for step in steps)
    few = min(total, group if last.drop_last else min(group, 8))
    for count in (few, min(total, group)):
        job = Job(source, selection, steps, total, max(count, 1), None, False)
        try:
            with _random_states_kept():
                _, features = next(job.results(0, count, 0, lambda rows: None))
            assert job._chain is not None
            return None if job._chain.is_starved else list(features)
        except CountChanged:
            return None
        except Exception:
            if count == min(total, group):  # a small batch may be what it cannot do; a whole one is not
                raise
    return None


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    state = torch.get_rng_state() if torch is not None else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch is not None:
            torch.set_rng_state(state)


def selection_key(selection: Selection | None) -> str:
    """The key of which rows."""
    from martlet.datasets.order import Permutation

    if selection is None:
        return "all"
    if isinstance(selection, Span | Repeated):
        return repr(selection)
    if isinstance(selection, Picks):
        return digest("picks", np.ascontiguousarray(selection.picked).tobytes())
    if isinstance(selection, Permutation):
        return repr(("shuffle", selection.num_rows, selection.seed, selection.epoch, selection.block, selection._span))
    if isinstance(selection, Over):
        return digest("over", selection_key(selection.inner), selection_key(selection.outer))
    if isinstance(selection, Stacked):
        return digest("stacked", *map(selection_key, selection.parts), repr(selection._firsts.tolist()))
    raise MapError("a selection", "has no key", found=type(selection).__name__)


def _is_even(step: Step) -> bool:
    """Whether a batched map may give a row for a row: it is tried, and the chain is cut if it does not."""
    return isinstance(step, MapStep) and step.function.batched and not step.drop_last
