"""How rows are handed out: Python objects, NumPy, PyTorch, pandas, Polars, Arrow, or a user's transform."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from martlet.datasets import elsewhere
from martlet.datasets.features import decode, decodes
from martlet.datasets.kinds import ArrayXD, LargeList, List, Value
from martlet.errors import ArgumentError, MissingDependencyError, UnsupportedError

ALIASES = {
    None: None,
    "python": None,
    "numpy": "numpy",
    "np": "numpy",
    "torch": "torch",
    "pt": "torch",
    "pytorch": "torch",
    "pandas": "pandas",
    "pd": "pandas",
    "polars": "polars",
    "pl": "polars",
    "arrow": "arrow",
    "pa": "arrow",
    "pyarrow": "arrow",
    "custom": "custom",
}
ABSENT = {"tensorflow", "tf", "jax"}


@dataclass(frozen=True)
class Format:
    """What a dataset hands out. `columns` None is all; others are left out, or Python objects if `with_all`."""

    kind: str | None = None
    columns: tuple[str, ...] | None = None
    with_all: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    transform: Callable[..., Any] | None = None


PLAIN = Format()


def make_format(
    type: str | None, columns: Any, with_all: bool, names: Sequence[str], options: dict[str, Any]
) -> Format:
    """The Format of Hugging Face's arguments. ArgumentError for an unknown type or column."""
    if type in ABSENT:
        raise UnsupportedError("format", f"there is no {type!r}", remedy='Take "numpy" and convert.')
    if type not in ALIASES:
        known = sorted(name for name in ALIASES if name)
        raise ArgumentError("format", f"the types are {', '.join(known)}", found=repr(type))
    kind = ALIASES[type]
    options = {**options.pop("format_kwargs", {}), **options}  # ds.format spells them so
    transform = options.pop("transform", None)
    if kind == "custom" and not callable(transform):
        raise ArgumentError("format", 'type "custom" needs transform=, a function', found=transform)
    if kind in (None, "arrow", "pandas", "polars") and options:
        raise ArgumentError("format", f"{type!r} takes no options", found=", ".join(options))
    if columns is not None:
        columns = (columns,) if isinstance(columns, str) else tuple(columns)
        if strange := [name for name in columns if name not in names]:
            raise ArgumentError("format", f"the columns are {', '.join(names)}", found=", ".join(map(repr, strange)))
    if kind == "torch":
        _torch()
    return Format(kind, columns, with_all, dict(options), transform)


def python_lists(columns: Sequence[list[Any]], names: Sequence[str], features: Mapping[str, Any]) -> list[list[Any]]:
    """Columns as Python sees them, decoded."""
    return [
        [decode(features[name], value) for value in column] if decodes(features[name]) else column
        for name, column in zip(names, columns, strict=True)
    ]


def format_table(table: pa.Table, features: Mapping[str, Any], form: Format) -> Any:
    """A batch of rows in a format that is not plain Python."""
    if form.kind == "arrow":
        return table
    if form.kind == "pandas":
        return _pandas(table, features)
    if form.kind == "polars":
        return _polars(table)
    turn = numpy_column if form.kind == "numpy" else torch_column
    return {name: turn(table.column(name), features[name], form.options) for name in table.column_names}


def format_row(table: pa.Table, features: Mapping[str, Any], form: Format) -> Any:
    """One row, the only one of the table, in a format that is not plain Python."""
    if form.kind in ("arrow", "pandas", "polars"):
        return format_table(table, features, form)
    out = {}
    for name in table.column_names:
        kind = features[name]
        raw = _raw(table.column(name), kind)
        value = raw[0]
        out[name] = _numpy_value(value, form.options) if form.kind == "numpy" else _torch_value(value, form.options)
    return out


def numpy_column(column: Any, kind: Any, options: Mapping[str, Any]) -> Any:
    """A column as one array if its rows stack, else as an array of objects. Integers are int64, floats float32."""
    raw = _raw(column, kind)
    if isinstance(raw, np.ndarray) and raw.dtype != object:
        return _numpy_value(raw, options)
    return _stacked([_numpy_value(value, options) for value in raw])


def torch_column(column: Any, kind: Any, options: Mapping[str, Any]) -> Any:
    """A column as one tensor if its rows stack, else as a list. Integers are int64, floats float32."""
    raw = _raw(column, kind)
    if isinstance(raw, np.ndarray) and raw.dtype != object:
        return _torch_value(raw, options)
    if not len(raw):
        return _torch().empty(0)
    return _torch_stacked([_torch_value(value, options) for value in raw])


def _raw(column: Any, kind: Any) -> Any:
    """An array of numbers or texts where the column is one, else a list of rows (arrays, texts, dicts, None)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if decodes(kind):
        return [decode(kind, value) for value in array.to_pylist()]
    if isinstance(kind, ArrayXD | List | LargeList):
        found = _block(array)
        if found is not None:
            return found
        rows = [_row_array(row, kind) for row in array.to_pylist()]
        if isinstance(kind, ArrayXD) and kind.shape[0] is not None and array.null_count:
            return np.stack(rows)  # as fractions, which a row of nothing but NaN is
        return rows
    if _is_number(array.type) or pa.types.is_temporal(array.type):
        return array.to_numpy(zero_copy_only=False)
    values = array.to_pylist()
    if array.null_count == 0 and (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        return np.asarray(values) if values else np.empty(0, object)
    return values


def _block(array: Any) -> np.ndarray[Any, Any] | None:
    """Lists of equal lengths, and no nulls, as one array."""
    shape = [len(array)]
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        if array.null_count or not len(array):
            return None
        lengths = pa.compute.list_value_length(array)
        found = pa.compute.min_max(lengths).as_py()
        if found["min"] != found["max"]:
            return None
        shape.append(found["min"])
        array = array.flatten()
    if array.null_count or not _is_number(array.type):
        return None
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)


def _row_array(row: Any, kind: Any) -> Any:
    if row is None:
        if not isinstance(kind, ArrayXD):
            return None
        return np.nan if kind.shape[0] is None else np.full(kind.shape, np.nan)
    if isinstance(kind, ArrayXD):
        return np.asarray(row, dtype=kind.dtype)
    if any(isinstance(item, list | dict | type(None)) for item in row):
        return row
    scalar = kind.feature.dtype if isinstance(kind.feature, Value) else ""
    return np.asarray(row, dtype=scalar if scalar.startswith(("int", "uint", "float", "bool")) else None)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _numpy_value(value: Any, options: Mapping[str, Any]) -> Any:
    if value is None or isinstance(value, str | bytes | np.number):
        return value
    if isinstance(value, Mapping):
        return {key: _numpy_value(sub, options) for key, sub in value.items()}
    if isinstance(value, list | tuple):
        return _stacked([_numpy_value(sub, options) for sub in value])
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return _stacked([_numpy_value(sub, options) for sub in value])
        if np.issubdtype(value.dtype, np.character):
            return value
        default = {"i": np.int64, "u": np.int64, "f": np.float32}.get(value.dtype.kind)
        wanted = {"dtype": default, **options} if default else dict(options)
        return np.asarray(value, **wanted)
    if type(value) in (int, float) and not options:
        return np.asarray(value)[()]
    return np.asarray(value, **options)


def _stacked(values: list[Any]) -> Any:
    first = values[0] if values else None
    if isinstance(first, np.ndarray | np.number | np.bool_) and all(
        isinstance(value, np.ndarray | np.number | np.bool_)
        and (value.shape, value.dtype) == (first.shape, first.dtype)
        for value in values
    ):
        return np.stack(values)
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def _torch() -> Any:
    try:
        import torch
    except ImportError as problem:
        raise MissingDependencyError("format", '"torch" needs PyTorch', remedy="pip install torch") from problem
    return torch


def _torch_value(value: Any, options: Mapping[str, Any]) -> Any:
    torch = _torch()
    if value is None or isinstance(value, str | bytes):
        return str(value) if isinstance(value, np.str_) else value
    if isinstance(value, Mapping):
        return {key: _torch_value(sub, options) for key, sub in value.items()}
    if isinstance(value, list | tuple):
        return _torch_stacked([_torch_value(sub, options) for sub in value])
    if type(value).__module__.split(".")[0] == "PIL":
        pixels = np.asarray(value)  # channels first, and bytes stay bytes
        return torch.tensor((pixels[:, :, None] if pixels.ndim == 2 else pixels).transpose(2, 0, 1), **options)
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind == "O":
        return _torch_stacked([_torch_value(sub, options) for sub in value])
    if kind in "US" and kind:
        return value.tolist()
    if kind in "mM" and kind:
        raise UnsupportedError(
            "format", '"torch" has no dates or durations', remedy="Leave the column out: columns=[...]."
        )
    default: dict[str, Any] = {}
    if kind in "iu" and kind:
        default = {"dtype": torch.int64}
        value = value.astype(np.int64) if value.dtype in (np.uint16, np.uint32) else value
    elif kind == "f":
        default = {"dtype": torch.float32}
    return torch.tensor(value, **{**default, **options})


def _torch_stacked(values: list[Any]) -> Any:
    torch = _torch()
    first = values[0] if values else None
    if isinstance(first, torch.Tensor) and all(
        isinstance(value, torch.Tensor) and (value.shape, value.dtype) == (first.shape, first.dtype) for value in values
    ):
        return torch.stack(values)
    return values


def _pandas(table: pa.Table, features: Mapping[str, Any]) -> Any:
    try:
        import pandas  # noqa: F401
    except ImportError as problem:
        raise MissingDependencyError("format", '"pandas" needs pandas', remedy="pip install pandas") from problem
    frame = table.to_pandas()
    for name in table.column_names:
        kind = features[name]
        if isinstance(kind, ArrayXD):
            frame[name] = frame[name].map(lambda row, dtype=kind.dtype: whole_array(row, dtype), na_action="ignore")
        elif decodes(kind):
            frame[name] = [decode(kind, value) for value in table.column(name).to_pylist()]
    return frame


def whole_array(row: Any, dtype: str) -> Any:
    """A row of an ArrayXD column, which pandas holds as arrays of arrays, as the one array it is."""
    return np.asarray(row.tolist() if row.dtype != object else [whole_array(sub, dtype) for sub in row], dtype=dtype)


def _polars(table: pa.Table) -> Any:
    try:
        import polars
    except ImportError as problem:
        raise MissingDependencyError("format", '"polars" needs Polars', remedy="pip install polars") from problem
    return polars.from_arrow(table)


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
