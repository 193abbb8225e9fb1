"""The rows and batches that functions of map and filter are given: dicts whose columns are read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from types import CodeType, FunctionType
from typing import Any

_ABSENT = object()


class LazyRow(dict[str, Any]):
    """A row: some columns are there, the others come at the first look at anything else. Writing is remembered.

    The rest of the row is row `at` of `block`, which must be set; `block` is None when all is there.
    """

    __slots__ = ("at", "block", "written")
    block: Any
    at: int
    written: set[str]  # columns that were written or taken out; the rows of a block share it

    def fill(self) -> None:
        """Reads the columns that are not there yet, keeping the columns' order."""
        if self.block is None:
            return
        block, self.block = self.block, None
        whole = block.whole_row(self.at)
        have = dict(dict.items(self))
        dict.clear(self)
        dict.update(self, whole)
        dict.update(self, have)

    def __missing__(self, key: str) -> Any:
        if self.block is not None:
            self.fill()
            if dict.__contains__(self, key):
                return dict.__getitem__(self, key)
        raise KeyError(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.written.add(key)
        dict.__setitem__(self, key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As a dict's."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As a dict's."""
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other: Any) -> LazyRow:  # type: ignore[override]
        self.update(other)
        return self

    def __delitem__(self, key: str) -> None:
        self.fill()
        dict.__delitem__(self, key)
        self.written.add(key)

    def pop(self, key: str, default: Any = _ABSENT) -> Any:
        """As a dict's."""
        self.fill()
        if key not in self:
            if default is _ABSENT:
                raise KeyError(key)
            return default
        self.written.add(key)
        return dict.pop(self, key)

    def popitem(self) -> tuple[str, Any]:
        """As a dict's."""
        self.fill()
        key, value = dict.popitem(self)
        self.written.add(key)
        return key, value

    def clear(self) -> None:
        """As a dict's."""
        for key in list(self):
            del self[key]

    def get(self, key: str, default: Any = None) -> Any:
        """As a dict's."""
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        if dict.__contains__(self, key):
            return True
        self.fill()
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        self.fill()
        return dict.__iter__(self)

    def __len__(self) -> int:
        self.fill()
        return dict.__len__(self)

    def keys(self) -> Any:
        """As a dict's."""
        self.fill()
        return dict.keys(self)

    def values(self) -> Any:
        """As a dict's."""
        self.fill()
        return dict.values(self)

    def items(self) -> Any:
        """As a dict's."""
        self.fill()
        return dict.items(self)

    def copy(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self.items())

    def __or__(self, other: Any) -> Any:
        return {**self.copy(), **other}

    def __ror__(self, other: Any) -> Any:
        return {**other, **self.copy()}

    def __eq__(self, other: object) -> bool:
        self.fill()
        return dict.__eq__(self, other)

    __hash__ = None

    def __repr__(self) -> str:
        self.fill()
        return dict.__repr__(self)

    def __reduce__(self) -> Any:
        return dict, (self.copy(),)


class LazyBatch(MutableMapping[str, Any]):
    """A batch: columns as lists, each read when asked for. Writing and taking out are remembered."""

    def __init__(self, names: list[str], read: Callable[[str], Any]) -> None:
        self.data: dict[str, Any] = dict.fromkeys(names, _ABSENT)
        self._read = read
        self.written: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        value = self.data[key]
        if value is _ABSENT:
            value = self.data[key] = self._read(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.written.add(key)
        self.data[key] = value

    def __delitem__(self, key: str) -> None:
        del self.data[key]
        self.written.add(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def looked_at(self) -> set[str]:
        """Columns that the function read or wrote, and so may have changed in place."""
        return {name for name, value in self.data.items() if value is not _ABSENT}

    def copy(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self.items())

    def __or__(self, other: Any) -> dict[str, Any]:
        return {**self.copy(), **other}

    def __ror__(self, other: Any) -> dict[str, Any]:
        return {**other, **self.copy()}

    def __repr__(self) -> str:
        return repr(self.copy())


def named_columns(function: Any, names: list[str]) -> list[str]:
    """The columns whose names are literals in the function: those it will surely ask for are read first."""
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        return []
    found: set[Any] = set()
    codes = [function.__code__]
    while codes:
        for constant in codes.pop().co_consts:
            if isinstance(constant, CodeType):
                codes.append(constant)
            elif isinstance(constant, str):
                found.add(constant)
            elif isinstance(constant, tuple | frozenset):
                found.update(item for item in constant if isinstance(item, str))
    return [name for name in names if name in found]
