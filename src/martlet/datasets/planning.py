"""ds.plan(): what will run, what is cached, under which key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from martlet.datasets.order import Permutation
from martlet.datasets.selection import Over, Picks, Repeated, Span, Stacked

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset


def plan(self: Dataset) -> str:
    """What will run when rows are looked at, from the source upwards: fused steps, where they run, key and cache."""
    from martlet.datasets.stage import Pending

    source = self._source
    lines = []
    if isinstance(source, Pending):
        lines.append(_source_line(source.source))
        if source.selection is not None:
            lines.append(f"select {_words(source.selection)}")
        where = f"{source.options.num_proc} processes" if (source.options.num_proc or 1) > 1 else "this process"
        if source._done is not None:
            state = "done"
        elif not source.goes_to_cache:
            state = f"to run in {where}, not cached"
        elif source.is_in_cache:
            state = f"cached under {source.key}"
        else:
            state = f"to run in {where}, then cached under {source.key}"
        written = "rows picked, none written" if source.is_filter else "written once"
        lines.append(f"one pass, {written} ({state}):")
        lines += [f"  {step.words()}" for step in source.steps]
    else:
        lines.append(_source_line(source))
    if self._selection is not None:
        lines.append(f"select {_words(self._selection)}")
    return "\n".join(lines)


def _source_line(stored: Any) -> str:
    where = f"{len(stored.files)} file(s), the first {stored.files[0]}" if stored.files else "memory"
    return f"{len(stored):,} rows in {where}"


def _words(selection: Any) -> str:
    if isinstance(selection, Span):
        step = f" by {selection.step}" if selection.step != 1 else ""
        return f"rows {selection.start:,} to {selection.start + (selection.count - 1) * selection.step:,}{step}"
    if isinstance(selection, Picks):
        return f"{len(selection):,} picked rows"
    if isinstance(selection, Permutation):
        return f"{len(selection):,} rows shuffled with seed {selection.seed}"
    if isinstance(selection, Repeated):
        return f"{selection.count:,} rows {selection.times} times"
    if isinstance(selection, Stacked):
        return f"{len(selection):,} rows of {len(selection.parts)} parts"
    if isinstance(selection, Over):
        return f"{_words(selection.inner)}, of these {_words(selection.outer)}"
    return f"{len(selection):,} rows"
