"""JSON values that no one Arrow type holds: where they are, and their place kept as JSON text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from martlet.datasets.widen import JSON, Path, fit_column


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, (list, tuple)) else "object" if isinstance(value, dict) else type(value).__name__


def _walk(values: list[Any], path: Path, found: list[Path], by_keys: bool) -> None:
    values = [value for value in values if value is not None]
    if not values:
        return
    kinds = {_kind(value) for value in values}
    if len(kinds) > 1:
        if not by_keys or kinds & {"list", "object"}:
            found.append(path)
        return
    kind = kinds.pop()
    if kind == "list":
        _walk([item for value in values for item in value], (*path, 0), found, by_keys)
    elif kind == "object":
        first = values[0].keys()
        if by_keys and (not first or any(value.keys() != first for value in values)):
            found.append(path)
            return
        for key in dict.fromkeys(key for value in values for key in value):
            _walk([value[key] for value in values if key in value], (*path, key), found, by_keys)


def mixed_paths(rows: list[dict[str, Any]]) -> list[Path]:
    """Fields whose values are of different JSON types (an int and a float are one)."""
    found: list[Path] = []
    _walk(rows, (), found, by_keys=False)
    return [path for path in found if path]


def mixed_structs(rows: list[dict[str, Any]]) -> list[Path]:
    """Fields below the top that hold objects of different keys, or empty ones: maps rather than records."""
    found: list[Path] = []
    for key in dict.fromkeys(key for row in rows for key in row):
        _walk([row[key] for row in rows if key in row], (key,), found, by_keys=True)
    return found


def mixed_values(values: list[Any], *, by_keys: bool) -> list[Path]:
    """Where in the values of a column, () for all of each, are values of different types; `by_keys` objects of
    different keys, or objects and lists among others.
    """
    found: list[Path] = []
    _walk(values, (), found, by_keys)
    return found


def first_leaf(values: list[Any] | tuple[Any, ...]) -> Any:
    """The first value that is neither null nor a list, at any depth of lists."""
    for value in values:
        leaf = first_leaf(value) if isinstance(value, (list, tuple)) else value
        if leaf is not None:
            return leaf
    return None


def encode_paths(row: Any, paths: tuple[Path, ...]) -> Any:
    """The row with the value at each path as JSON text; null stays null."""
    for path in paths:
        row = encode_at(row, path, _text)
    return row


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encode_at(value: Any, path: Path, encode: Callable[[Any], Any]) -> Any:
    """The value with what is at the path encoded; null stays null."""
    if value is None:
        return None
    if not path:
        return encode(value)
    step, rest = path[0], path[1:]
    if step == 0 and isinstance(value, (list, tuple)):
        return [encode_at(item, rest, encode) for item in value]
    if isinstance(value, dict) and step in value:
        return {**value, step: encode_at(value[step], rest, encode)}
    return value


def type_at(kind: pa.DataType, path: Path) -> pa.DataType:
    """The type with JSON at the path."""
    if not path:
        return JSON
    if path[0] == 0 and pa.types.is_list(kind):
        return pa.list_(type_at(kind.value_type, path[1:]))
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(type_at(f.type, path[1:])) if f.name == path[0] else f for f in kind])
    return kind


def with_json(table: pa.Table, paths: tuple[Path, ...]) -> pa.Table:
    """The table whose text at each path is of the JSON type."""
    for path in paths:
        if path[0] in table.column_names:
            index = table.column_names.index(str(path[0]))
            kind = type_at(table.schema.field(index).type, path[1:])
            table = table.set_column(
                index, table.schema.field(index).with_type(kind), fit_column(table.column(index), kind)
            )
    return table
