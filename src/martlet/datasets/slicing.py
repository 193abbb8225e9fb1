"""Which rows `split=` asks for: "train[:10%]", "train[5:20]+test", ..., and `ReadInstruction`, their object form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from martlet.errors import ArgumentError, UnsupportedError

_PART = re.compile(
    r"(?P<split>\w+(?:\.\w+)*)"
    r"(?:\[(?:(?P<start>-?[\d_]+)(?P<start_percent>%)?)?:(?:(?P<stop>-?[\d_]+)(?P<stop_percent>%)?)?\])?"
    r"(?:\((?P<rounding>[^)]*)\))?"
)
ROUNDINGS = ("closest", "pct1_dropremainder")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `start` up to `stop` of a split."""

    split: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Part:
    split: str
    start: int | None = None
    stop: int | None = None
    unit: str = "abs"
    rounding: str | None = None

    def __post_init__(self) -> None:
        if self.unit not in ("%", "abs"):
            raise ArgumentError("unit", "must be '%' or 'abs'", found=repr(self.unit))
        if self.rounding is not None and self.rounding not in ROUNDINGS:
            raise ArgumentError("rounding", f"must be one of {', '.join(ROUNDINGS)}", found=repr(self.rounding))
        if self.rounding is not None and self.unit != "%":
            raise ArgumentError(str(self), "only percents are rounded", remedy="Write % behind the numbers.")
        for bound in (self.start, self.stop):
            if self.unit == "%" and bound is not None and abs(bound) > 100:
                raise ArgumentError(str(self), "percents must be between -100 and 100", found=bound)

    def __str__(self) -> str:
        if self.start is None and self.stop is None:
            return self.split
        sign = "%" if self.unit == "%" else ""
        start, stop = ("" if bound is None else f"{bound}{sign}" for bound in (self.start, self.stop))
        return f"{self.split}[{start}:{stop}]" + (f"({self.rounding})" if self.rounding else "")

    def rows(self, num_rows: int) -> Rows:
        start = 0 if self.start is None else self._place(self.start, num_rows)
        stop = num_rows if self.stop is None else self._place(self.stop, num_rows)
        start, stop = (max(bound + num_rows, 0) if bound < 0 else bound for bound in (start, stop))
        return Rows(self.split, min(start, num_rows), max(min(stop, num_rows), min(start, num_rows)))

    def _place(self, bound: int, num_rows: int) -> int:
        if self.unit == "abs":
            if abs(bound) > num_rows:
                raise ArgumentError(str(self), f"the split {self.split!r} has {num_rows} rows", found=bound)
            return bound
        if self.rounding != "pct1_dropremainder":
            return round(bound * num_rows / 100)
        if num_rows < 100:
            raise ArgumentError(str(self), "pct1_dropremainder needs 100 rows or more", found=num_rows)
        return bound * (num_rows // 100)


class ReadInstruction:
    """Rows of a split, as an object; two are put together with `+`.

    `ReadInstruction("train", from_=0, to=10, unit="%")` is "train[0%:10%]". `rounding` is "closest" (the default) or
    "pct1_dropremainder", with which all percents have as many rows.
    """

    def __init__(
        self,
        split_name: str,
        rounding: str | None = None,
        from_: int | None = None,
        to: int | None = None,
        unit: str | None = None,
    ) -> None:
        is_sliced = from_ is not None or to is not None
        unit = unit or ("abs" if not is_sliced or rounding is None else "%")
        self._parts: tuple[_Part, ...] = (_Part(str(split_name), from_, to, unit, rounding),)

    @classmethod
    def from_spec(cls, spec: str) -> ReadInstruction:
        """From its text: "train[10%:20%]+test[:100]". ArgumentError for what is no such text."""
        made = cls.__new__(cls)
        made._parts = tuple(_parsed(part) for part in re.split(r"\s*\+\s*", str(spec).strip()))
        return made

    def to_spec(self) -> str:
        """Its text."""
        return "+".join(map(str, self._parts))

    def __add__(self, other: ReadInstruction) -> ReadInstruction:
        if not isinstance(other, ReadInstruction):
            return NotImplemented
        made = ReadInstruction.__new__(ReadInstruction)
        made._parts = self._parts + other._parts
        return made

    def __str__(self) -> str:
        return self.to_spec()

    def __repr__(self) -> str:
        return f"ReadInstruction({self.to_spec()!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReadInstruction) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    def splits(self, known: Iterable[str]) -> list[str]:
        """The splits it needs, "all" being all. ArgumentError for one that is not known."""
        known = list(known)
        needed: dict[str, None] = {}
        for part in self._parts:
            for split in known if part.split == "all" else [part.split]:
                if split not in known:
                    raise ArgumentError("split", f"must be of the splits {', '.join(known)}", found=repr(split))
                needed[split] = None
        return list(needed)

    def rows(self, num_rows: Mapping[str, int]) -> list[Rows]:
        """The rows, with each split's number of rows known; in the order asked for."""
        self.splits(num_rows)
        found: list[Rows] = []
        for part in self._parts:
            if part.split == "all":
                found.extend(Rows(split, 0, count) for split, count in num_rows.items())
            else:
                found.append(part.rows(num_rows[part.split]))
        return found

    def absolute(self) -> list[tuple[str, int, int | None]]:
        """Split, start and stop of each part, where the number of rows is not known. UnsupportedError for the rest."""
        found = []
        for part in self._parts:
            if part.unit == "%" or min(part.start or 0, part.stop or 0) < 0:
                rule = "needs rows that are counted, and this stream's are not"
                raise UnsupportedError(str(part), rule, remedy="Use row numbers from the start.")
            found.append((part.split, part.start or 0, part.stop))
        return found

    @property
    def is_whole(self) -> bool:
        """Whether it asks for whole splits only."""
        return all(part.start is None and part.stop is None for part in self._parts)


def _parsed(text: str) -> _Part:
    found = _PART.fullmatch(text)
    if found is None:
        raise ArgumentError("split", "must be like 'train', 'train[:10%]' or 'train[5:20]+test'", found=repr(text))
    start, stop = (None if found[name] is None else int(found[name]) for name in ("start", "stop"))
    percents = [bool(found[f"{name}_percent"]) for name in ("start", "stop") if found[name] is not None]
    if len(set(percents)) > 1 and any(
        bound for bound, is_percent in zip((start, stop), percents, strict=False) if not is_percent
    ):
        raise ArgumentError("split", "both bounds must be percents, or neither", found=repr(text))
    return _Part(found["split"], start, stop, "%" if any(percents) else "abs", found["rounding"])


def as_instruction(split: Any) -> ReadInstruction:
    """The instruction of what `split=` was given."""
    return split if isinstance(split, ReadInstruction) else ReadInstruction.from_spec(str(split))
