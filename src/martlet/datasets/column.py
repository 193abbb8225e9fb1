"""One column of a dataset or of a stream, read when looked at; a column of a struct is a column too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from martlet.errors import ArgumentError


class Column(Sequence[Any]):
    """`ds["text"]`: iterates, slices and compares like a list; `ds["answers"]["text"]` goes into a struct."""

    def __init__(self, source: Any, column_name: str) -> None:
        features = source.features
        if not isinstance(features, dict) or column_name not in features:
            known = ", ".join(features) if isinstance(features, dict) else "none: it is no struct"
            raise ArgumentError(f"column {column_name!r}", f"does not exist; the columns are {known}")
        self.source, self.column_name = source, column_name
        self.features = features[column_name]

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.source, Column):
            for row in self.source:
                yield None if row is None else row[self.column_name]
        else:
            yield from self.source._column_values(self.column_name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return Column(self, key)
        if not isinstance(self.source, Column):
            return self.source._column_at(self.column_name, key)
        rows = self.source[key]
        if isinstance(rows, list):
            return [None if row is None else row[self.column_name] for row in rows]
        return rows if rows is None else rows[self.column_name]

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        return f"Column({list(self[:5])!r}"[:-1] + (", ...])" if len(self) > 5 else "])")

    def __eq__(self, other: object) -> bool:
        return bool(list(self) == (list(other) if isinstance(other, Column) else other))

    __hash__ = None  # type: ignore[assignment]


class IterableColumn(Iterable[Any]):
    """`stream["text"]`: each iteration is one of the stream; `stream["answers"]["text"]` goes into a struct."""

    def __init__(self, source: Any, column_name: str) -> None:
        self.source, self.column_name = source, column_name

    def __iter__(self) -> Iterator[Any]:
        for row in self.source:
            yield None if row is None else row[self.column_name]

    def __getitem__(self, column_name: str) -> IterableColumn:
        return IterableColumn(self, column_name)
