"""Version: major.minor.patch of a dataset."""

from __future__ import annotations

import functools
import re
from typing import Any

from martlet.errors import ArgumentError


@functools.total_ordering
class Version:
    """Three numbers, equal to and comparable with their text."""

    def __init__(self, version_str: str, description: str | None = None) -> None:
        found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", str(version_str))
        if found is None:
            raise ArgumentError("a version", "must be like 1.2.3", found=repr(version_str))
        self.version_str, self.description = str(version_str), description
        self.major, self.minor, self.patch = self.tuple = tuple(map(int, found.groups()))

    def to_dict(self) -> dict[str, Any]:
        """The form it has in dataset_info.json."""
        numbers = {"major": self.major, "minor": self.minor, "patch": self.patch}
        return {"version_str": self.version_str, "description": self.description, **numbers}

    def _other(self, other: Any) -> tuple[int, ...]:
        return (other if isinstance(other, Version) else Version(other)).tuple

    def __eq__(self, other: object) -> bool:
        try:
            return self.tuple == self._other(other)
        except ArgumentError:
            return False

    def __lt__(self, other: Any) -> bool:
        return self.tuple < self._other(other)

    def __hash__(self) -> int:
        return hash(".".join(map(str, self.tuple)))  # that of the text it is equal to

    def __repr__(self) -> str:
        return self.version_str
