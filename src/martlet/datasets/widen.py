"""Schemas that grow: what two parts of one table have in common, and what had to change for it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

JSON = pa.json_()
Path = tuple[str | int, ...]  # field names; 0 is "each element of the list"


@dataclass(frozen=True, slots=True)
class Change:
    """A column, or a field in one, that became another type than it was at first."""

    path: Path
    was: pa.DataType
    now: pa.DataType

    def __str__(self) -> str:
        now = "JSON" if self.now.equals(JSON) else self.now
        return f"{spelled(self.path)} was {self.was} at first and is {now}"

    @property
    def is_lossy(self) -> bool:
        """Whether values converted to the new type would not be spelled as in the file."""
        return bool(self.now.equals(JSON) or (pa.types.is_temporal(self.was) and is_text(self.now)))


def spelled(path: Path) -> str:
    return ".".join("[]" if step == 0 else str(step) for step in path)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def unify_types(was: pa.DataType, new: pa.DataType, path: Path, changes: list[Change]) -> pa.DataType:
    """The narrowest type that holds both; JSON where only that does. What differs from `was` goes to `changes`."""
    if was.equals(new) or pa.types.is_null(new):
        return was
    if pa.types.is_struct(was) and pa.types.is_struct(new):
        return pa.struct(_unify_fields(list(was), list(new), path, changes))
    if pa.types.is_list(was) and pa.types.is_list(new):
        inner = unify_types(was.value_type, new.value_type, (*path, 0), changes)
        return pa.list_(pa.field(was.value_field.name, inner))
    now = _wider(was, new)
    if not now.equals(was):
        changes.append(Change(path, was, now))
    return now


def _wider(was: pa.DataType, new: pa.DataType) -> pa.DataType:
    if pa.types.is_null(was):
        return new
    if is_number(was) and is_number(new):
        if pa.types.is_integer(was) and pa.types.is_integer(new):
            unsigned = pa.types.is_unsigned_integer(was) and pa.types.is_unsigned_integer(new)
            return pa.uint64() if unsigned else pa.int64()
        return pa.float64()
    if pa.types.is_timestamp(was) and pa.types.is_timestamp(new):
        order = ["s", "ms", "us", "ns"]
        return was if order.index(was.unit) >= order.index(new.unit) else new
    if (is_text(was) or pa.types.is_temporal(was)) and (is_text(new) or pa.types.is_temporal(new)):
        return pa.string()
    if pa.types.is_decimal(was) and pa.types.is_decimal(new):
        scale = max(was.scale, new.scale)
        return pa.decimal256(max(was.precision - was.scale, new.precision - new.scale) + scale, scale)
    if {str(was), str(new)} == {"string", "large_string"}:
        return pa.large_string()
    return JSON


def _unify_fields(was: list[pa.Field], new: list[pa.Field], path: Path, changes: list[Change]) -> list[pa.Field]:
    fields = {field.name: field for field in was}
    for field in new:
        inside = (*path, field.name)
        if field.name not in fields:
            changes.append(Change(inside, pa.null(), field.type))
            fields[field.name] = field
        else:
            known = fields[field.name]
            fields[field.name] = known.with_type(unify_types(known.type, field.type, inside, changes))
    return list(fields.values())


def unify_schemas(was: pa.Schema, new: pa.Schema) -> tuple[pa.Schema, list[Change]]:
    """One schema for both, columns of `was` first, and what changed on the way."""
    if was.equals(new):
        return was, []
    changes: list[Change] = []
    return pa.schema(_unify_fields(list(was), list(new), (), changes), metadata=was.metadata), changes


def fit_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table under a schema that `unify_schemas` made wider: missing columns are null, numbers are converted."""
    if table.schema.equals(schema):
        return table
    columns = [
        fit_column(table.column(field.name), field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def fit_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type.equals(kind):
        return column
    return pa.chunked_array([_fit(chunk, kind) for chunk in column.chunks], kind)


def _fit(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type.equals(kind):
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _fit(array, kind.storage_type))
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        if not kind.num_fields:
            return array.cast(kind)
        have = {field.name: index for index, field in enumerate(array.type)}
        parts = [
            _fit(array.field(have[field.name]), field.type) if field.name in have else pa.nulls(len(array), field.type)
            for field in kind
        ]
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=mask)
    if pa.types.is_list(kind) and pa.types.is_list(array.type):
        values = _fit(array.flatten(), kind.value_type)
        mask = array.is_null() if array.null_count else None
        lengths = array.value_lengths().fill_null(0).cast(pa.int64())
        offsets = pc.cumulative_sum(pa.concat_arrays([pa.array([0], pa.int64()), lengths])).cast(pa.int32())
        return pa.ListArray.from_arrays(offsets, values, type=kind, mask=mask)
    return array.cast(kind, safe=False)
