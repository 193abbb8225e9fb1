"""Verbs of a stream that change its columns: select, remove, rename, add, cast, and what is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from martlet.datasets.arguments import verb
from martlet.datasets.features import Features, changed
from martlet.datasets.streams.calling import without
from martlet.datasets.streams.decoding import Decoded, silent
from martlet.datasets.streams.node import Row
from martlet.datasets.streams.numbered import Applied
from martlet.datasets.streams.numbered import Columns as ColumnsStep
from martlet.errors import ArgumentError

if TYPE_CHECKING:
    from martlet.datasets.iterable import IterableDataset


def known(dataset: IterableDataset, names: Iterable[str]) -> None:
    """ArgumentError if a name is none of the columns, where these are known."""
    features = dataset.features
    if features is not None and (strange := [name for name in names if name not in features]):
        raise ArgumentError("columns", f"are {', '.join(features)}", found=", ".join(map(repr, strange)))


@verb
def select_columns(self: IterableDataset, column_names: str | list[str]) -> IterableDataset:
    """Some columns."""
    names = [column_names] if isinstance(column_names, str) else list(column_names)
    known(self, names)
    if self.features is None:
        return self._like(Applied(self._node, lambda row, _: {name: row[name] for name in names}, None, False))
    return _columns(self, {name: name for name in names})


@verb
def remove_columns(self: IterableDataset, column_names: str | list[str]) -> IterableDataset:
    """All columns but these."""
    names = [column_names] if isinstance(column_names, str) else list(column_names)
    known(self, names)
    if self.features is None:
        return self._like(Applied(self._node, lambda row, _: without(row, names), None, False))
    return _columns(self, {name: name for name in self.features if name not in names})


@verb
def rename_column(self: IterableDataset, original_column_name: str, new_column_name: str) -> IterableDataset:
    """A column under another name."""
    return rename_columns(self, {original_column_name: new_column_name})


@verb
def rename_columns(self: IterableDataset, column_mapping: dict[str, str]) -> IterableDataset:
    """Columns under other names: old to new."""
    known(self, column_mapping)
    if self.features is None:

        def renamed(row: Row, _: int) -> Row:
            return {column_mapping.get(name, name): value for name, value in row.items()}

        return self._like(Applied(self._node, renamed, None, False))
    names = {name: column_mapping.get(name, name) for name in self.features}
    if len(set(names.values())) != len(names):
        raise ArgumentError("rename_columns", "each column needs its own name", found=", ".join(names.values()))
    return _columns(self, names)


def _columns(self: IterableDataset, names: dict[str, str]) -> IterableDataset:
    assert self.features is not None
    features = Features({new: self.features[old] for old, new in names.items()})
    return self._like(ColumnsStep(self._node, names, features))


@verb
def add_column(self: IterableDataset, name: str, column: Sequence[Any]) -> IterableDataset:
    """A further column, of as many values as there are rows."""
    if self.features is not None and name in self.features:
        raise ArgumentError("add_column", f"there is a column {name!r} already")

    def added(row: Row, number: int) -> Row:
        return {**row, name: column[number]}

    return self._like(Applied(self._node, added, None, True))


@verb
def cast(self: IterableDataset, features: Features) -> IterableDataset:
    """Rows under other features."""
    new = Features(features)
    if self.features is not None and set(new) != set(self.features):
        raise ArgumentError("cast", f"must name the columns {', '.join(self.features)}", found=", ".join(new))
    if (decoding := _decoding(self, new)) is not None:
        return decoding
    return self._like(Applied(self._node, lambda row, _: new.decode_example(new.encode_example(row)), new, False))


def _decoding(self: IterableDataset, new: Features) -> IterableDataset | None:
    """The rows under features that differ in what is decoded alone, so that files' bytes stay as they are."""
    if self.features is None or list(new) != list(self.features) or new == self.features:
        return None
    if silent(new) != silent(self.features):
        return None
    node = self._node.decoding(new)
    return None if node is None else self._like(node)


@verb
def cast_column(self: IterableDataset, column: str, feature: Any) -> IterableDataset:
    """One column as another kind."""
    known(self, [column])
    one = Features({column: feature})
    new = Features({**self.features, column: feature}) if self.features is not None else None
    if new is not None and (decoding := _decoding(self, new)) is not None:
        return decoding

    def cast(row: Row, _: int) -> Row:
        return {**row, **one.decode_example(one.encode_example({column: row[column]}))}

    return self._like(Applied(self._node, cast, new, False))


@verb
def decode(self: IterableDataset, enable: bool = True, num_threads: int | None = None) -> IterableDataset:
    """Pictures and sound as objects, or with enable=False as bytes and path.

    `num_threads` threads decode so many rows ahead; without it each row is decoded when it is asked for.
    """
    if num_threads is not None and num_threads < 0:
        raise ArgumentError("decode()", "num_threads must be 0 or more", found=num_threads)
    if self.features is None:
        remedy = "Pass features= to map, or decode before it."
        raise ArgumentError("decode()", "needs columns whose kinds are known", remedy=remedy)
    new = changed(self.features, lambda kind: replace(kind, decode=enable) if hasattr(kind, "decode") else None)
    below = self._node.decoding(silent(self.features))
    if below is None:  # a step made the values: they are objects already
        return cast(self, Features(new))
    if enable and num_threads:
        return self._like(Decoded(below, Features(new), num_threads))
    node = below.decoding(Features(new))
    assert node is not None
    return self._like(node)
