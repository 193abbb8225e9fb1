"""Split names and what is known of each split; slicing words ("train[:10%]") are read where files are loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from martlet.datasets import elsewhere
from martlet.errors import ArgumentError

_NAME = re.compile(r"\w+(\.\w+)*")


class NamedSplit(str):
    """The name of a split: equal to the plain string."""

    def __new__(cls, name: str) -> NamedSplit:
        text = str(name)
        if not all(_NAME.fullmatch(part.split("[", 1)[0]) for part in text.split("+")):
            raise ArgumentError("a split", "must be named by letters, digits, '_' and '.'", found=repr(text))
        return super().__new__(cls, text)

    def __add__(self, other: str) -> str:
        return f"{self!s}+{other!s}"

    def __str__(self) -> str:
        return str.__str__(self)

    def __repr__(self) -> str:
        return f"NamedSplit({str.__repr__(self)})"


class Split:
    """The usual splits; `Split(name)` is any other."""

    TRAIN: ClassVar[NamedSplit] = NamedSplit("train")
    TEST: ClassVar[NamedSplit] = NamedSplit("test")
    VALIDATION: ClassVar[NamedSplit] = NamedSplit("validation")
    ALL: ClassVar[NamedSplit] = NamedSplit("all")

    def __new__(cls, name: str) -> Any:
        return cls.ALL if name == "all" else NamedSplit(name)


@dataclass
class SplitInfo:
    """Rows and bytes of a split."""

    name: str = ""
    num_bytes: int = 0
    num_examples: int = 0
    shard_lengths: list[int] | None = None
    original_shard_lengths: list[int] | None = None
    dataset_name: str | None = None


class SplitDict(dict[str, SplitInfo]):
    """What is known of each split, by name."""

    def __getitem__(self, name: str) -> SplitInfo:
        if name not in self:
            raise KeyError(f"no split {name!s}: there are {', '.join(self)}")
        return super().__getitem__(str(name))

    @property
    def total_num_examples(self) -> int:
        """Rows of all splits."""
        return sum(info.num_examples for info in self.values())

    @classmethod
    def from_split_dict(cls, split_infos: Any, dataset_name: str | None = None) -> SplitDict:
        """From the JSON form: a list, or a dict, of dicts of SplitInfo."""
        known = {field.name for field in fields(SplitInfo)}
        listed = split_infos.values() if isinstance(split_infos, Mapping) else split_infos
        infos = [
            info if isinstance(info, SplitInfo) else SplitInfo(**{k: v for k, v in info.items() if k in known})
            for info in listed
        ]
        return cls({info.name: info for info in infos})

    def to_split_dict(self) -> list[SplitInfo]:
        """The list of SplitInfo."""
        return list(self.values())


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
