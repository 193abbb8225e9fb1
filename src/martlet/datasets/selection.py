"""Which rows of a table a dataset has, and in which order: a span, a list, a computed shuffle, or one over another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


class Selection(Protocol):
    """Rows of a table by position."""

    def __len__(self) -> int: ...

    def row(self, position: int) -> int:
        """The row at one position."""

    def rows(self, positions: Positions) -> Positions:
        """The rows at positions, in their order."""


@dataclass(frozen=True)
class Span:
    """Every `step`-th row from `start`; the step may be negative or zero."""

    start: int
    count: int
    step: int = 1

    def __len__(self) -> int:
        return self.count

    def row(self, position: int) -> int:
        """The row at one position."""
        return self.start + position * self.step

    def rows(self, positions: Positions) -> Positions:
        """The rows at positions."""
        return self.start + positions * self.step


@dataclass(frozen=True, eq=False)
class Picks:
    """Rows by an array of numbers."""

    picked: Positions

    def __len__(self) -> int:
        return len(self.picked)

    def row(self, position: int) -> int:
        """The row at one position."""
        return int(self.picked[position])

    def rows(self, positions: Positions) -> Positions:
        """The rows at positions."""
        return np.asarray(self.picked[positions], np.int64)


@dataclass(frozen=True, eq=False)
class Repeated:
    """All of `count` rows, again and again, `times` times."""

    count: int
    times: int

    def __len__(self) -> int:
        return self.count * self.times

    def row(self, position: int) -> int:
        """The row at one position."""
        return position % self.count

    def rows(self, positions: Positions) -> Positions:
        """The rows at positions."""
        return positions % self.count


@dataclass(frozen=True, eq=False)
class Over:
    """A selection of what another selected."""

    inner: Selection
    outer: Selection

    def __len__(self) -> int:
        return len(self.outer)

    def row(self, position: int) -> int:
        """The row at one position."""
        return self.inner.row(self.outer.row(position))

    def rows(self, positions: Positions) -> Positions:
        """The rows at positions."""
        return self.inner.rows(self.outer.rows(positions))


class Stacked:
    """Selections of tables that were put end to end."""

    def __init__(self, parts: list[tuple[Selection | None, int]]) -> None:
        """`parts` are a selection (None: all rows) and the rows of its table, in order."""
        self.parts = [(Span(0, rows) if selection is None else selection) for selection, rows in parts]
        self._firsts = np.cumsum([0, *(rows for _, rows in parts)])[:-1]
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row(self, position: int) -> int:
        """The row at one position."""
        part = int(np.searchsorted(self._starts, position, side="right")) - 1
        return int(self._firsts[part]) + self.parts[part].row(position - int(self._starts[part]))

    def rows(self, positions: Positions) -> Positions:
        """The rows at positions."""
        out = np.empty(len(positions), np.int64)
        which = np.searchsorted(self._starts, positions, side="right") - 1
        for part in np.unique(which).tolist():
            here = which == part
            out[here] = self._firsts[part] + self.parts[part].rows(positions[here] - self._starts[part])
        return out


def compose(inner: Selection | None, outer: Selection) -> Selection:
    """What `outer` selects of what `inner` selected, in the simplest form."""
    if inner is None:
        return outer
    if isinstance(outer, Span):
        if isinstance(inner, Span):
            return Span(inner.start + outer.start * inner.step, outer.count, inner.step * outer.step)
        if isinstance(inner, Picks):
            return Picks(inner.picked[outer.rows(np.arange(outer.count))])
        if isinstance(inner, Over):
            return Over(inner.inner, compose(inner.outer, outer))
    if isinstance(outer, Picks):
        return Picks(inner.rows(outer.picked))
    return Over(inner, outer)


def positions(begin: int, end: int) -> Positions:
    """begin .. end - 1."""
    return np.arange(begin, end, dtype=np.int64)


def span_of(selection: Selection | None, begin: int, end: int) -> range | None:
    """The rows at begin .. end - 1 if they are neighbours in the table, else None."""
    if selection is None:
        return range(begin, end)
    if isinstance(selection, Span) and (selection.step == 1 or end - begin <= 1):
        first = selection.row(begin)
        return range(first, first + end - begin)
    return None
