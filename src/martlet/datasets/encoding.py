"""Python values -> Arrow arrays of a feature, or of the kind the values imply."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets.features import arrow_field, encode, is_null, kind_of
from martlet.datasets.image import Image
from martlet.datasets.kinds import ArrayXD, ClassLabel, Json, LargeList, List, Value, walk
from martlet.datasets.mixed import encode_at, first_leaf, mixed_values
from martlet.datasets.widen import Path
from martlet.errors import ArgumentError, FeatureError

# What tokenizers give fits in less than 64 bits, and is kept so, as Hugging Face keeps it.
NARROW = {"attention_mask": "int8", "special_tokens_mask": "int8", "input_ids": "int32", "token_type_ids": "int8"}
_MISFIT = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError, ValueError)


def array_of(values: Any, kind: Any, name: str = "") -> pa.Array:
    """An Arrow array of the kind. FeatureError for a value that does not fit."""
    field = arrow_field(name, kind)
    try:
        return _array_of(values, kind, field)
    except FeatureError as problem:
        raise FeatureError(f"column {name!r}", str(problem).rstrip(".")) if name else problem from problem
    except _MISFIT as problem:
        raise FeatureError(f"column {name!r}", f"must be {kind!r}", found=str(problem).split("\n")[0]) from problem


def _array_of(values: Any, kind: Any, field: pa.Field) -> pa.Array:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return cast_array(_joined(values), kind)
    if isinstance(kind, ArrayXD):
        return _nested_arrays(values, kind)
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf" and isinstance(kind, Value):
        return pa.array(values).cast(field.type)
    # pixels keep their type: of a list the narrowest would be taken
    values = list(values) if isinstance(kind, Image) else plain_values(values)
    if any(isinstance(sub, ClassLabel | Json | Image | ArrayXD) or _encodes(sub) for sub in walk(kind)):
        values = [encode(kind, value) for value in values]
        if any(isinstance(sub, ArrayXD) for sub in walk(kind)):
            values = [_as_lists(value) for value in values]
    else:
        try:
            return _whole(values, field.type)
        except FeatureError:
            raise
        except _MISFIT:
            values = [encode(kind, value) for value in values]
    return _whole(values, field.type)


def _whole(values: list[Any], target: pa.DataType) -> pa.Array:
    """Values as an array of a type. FeatureError for fractions where it has whole numbers: Arrow would cut them off."""
    found = _shown(values) if _holds(target, pa.types.is_integer) else None
    if found is not None and found.type == target:
        return found
    return _cast_whole(found, target) if found is not None and _cuts(found.type, target) else pa.array(values, target)


def _shown(values: list[Any]) -> pa.Array | None:
    """The array that values imply; None where they imply none."""
    try:
        return pa.array(values)
    except (*_MISFIT, pa.ArrowException):
        return None


def _cast_whole(array: pa.Array, target: pa.DataType) -> pa.Array:
    try:
        return array.cast(target)
    except pa.ArrowException as problem:
        raise FeatureError("values", f"must fit {target}", found=str(problem).split("\n")[0]) from problem


def _holds(kind: pa.DataType, is_such: Any) -> bool:
    """Whether a type, or one inside it, is such."""
    return bool(is_such(kind)) or any(_holds(kind.field(at).type, is_such) for at in range(kind.num_fields))


def _cuts(found: pa.DataType, target: pa.DataType) -> bool:
    """Whether values of a type lose their fractions in another."""
    if pa.types.is_struct(target) and pa.types.is_struct(found):
        names = [sub.name for sub in target if found.get_field_index(sub.name) >= 0]
        return any(_cuts(found.field(name).type, target.field(name).type) for name in names)
    if _is_listed(target) and _is_listed(found):
        return _cuts(found.value_type, target.value_type)
    return bool(pa.types.is_integer(target) and (pa.types.is_floating(found) or pa.types.is_decimal(found)))


def inferred(
    values: Any, name: str = "", *, before: Any = None, on_mixed_types: str | None = None
) -> tuple[pa.Array, Any]:
    """An Arrow array of values and its kind: that of the column `before` if they fit it, else what they imply.

    `on_mixed_types="use_json"` keeps values of several types as Json. FeatureError where no type holds them all.
    """
    if before is not None and not is_null(before):
        try:
            return _kept(values, before, name), before
        except (FeatureError, *_MISFIT):
            pass
    if isinstance(values, pa.Array | pa.ChunkedArray):
        array = plain_array(_joined(values))
        return array, kind_of(pa.field(name, array.type))
    if hasattr(values, "detach"):
        values = _of_tensor(values)
    if isinstance(values, np.ndarray) and 1 < values.ndim <= 5 and values.dtype.kind in "biuf":
        kind: Any = Value(str(values.dtype))
        for _ in range(values.ndim - 1):
            kind = List(kind)
        return _list_array(values), kind
    values = _scalars(values)
    dtype = _dtype_of_scalars(values)
    values = plain_values(values)
    picture = next((value for value in values if value is not None), None)
    if "PIL" in sys.modules and type(picture).__module__.split(".")[0] == "PIL":
        return array_of(values, Image(), name), Image()
    takes_any = on_mixed_types == "use_json"
    if takes_any and isinstance(first_leaf(values), dict) and (paths := mixed_values(values, by_keys=True)):
        return _partly_json(values, paths, name)
    try:
        array = pa.array(values)
    except (*_MISFIT, pa.ArrowException) as problem:
        if takes_any:
            return _partly_json(values, mixed_values(values, by_keys=False) or [()], name)
        raise FeatureError(
            f"column {name!r}",
            "needs values of one type",
            found=str(problem).split("\n")[0],
            remedy='Give features=, or on_mixed_types="use_json" to keep any values.',
        ) from problem
    if dtype is not None:
        array = array.cast(pa.from_numpy_dtype(dtype))
    kind = kind_of(pa.field(name, array.type))
    if name in NARROW and _innermost(kind) == "int64" and _narrows(array, NARROW[name]):
        kind = _renamed(kind, NARROW[name])
        array = array.cast(arrow_field(name, kind).type)
    return plain_array(array), kind


def _partly_json(values: list[Any], paths: list[Path], name: str) -> tuple[pa.Array, Any]:
    """Values of which those at the paths are Json, and the others what they imply."""
    texts = values
    for path in paths:
        texts = [encode_at(value, path, Json().encode_example) for value in texts]
    try:
        kind = kind_of(pa.field(name, pa.array(texts).type))
    except (*_MISFIT, pa.ArrowException):
        return array_of(values, Json(), name), Json()
    for path in paths:
        kind = _json_at(kind, path)
    return pa.array(texts, arrow_field(name, kind).type), kind


def _json_at(kind: Any, path: Path) -> Any:
    if not path:
        return Json()
    if isinstance(kind, List):
        return List(_json_at(kind.feature, path[1:]), length=kind.length)
    if isinstance(kind, dict):
        return {name: _json_at(sub, path[1:]) if name == path[0] else sub for name, sub in kind.items()}
    return kind  # nothing but nulls


def _scalars(values: Any) -> Any:
    """Values with arrays and tensors of no dimension as NumPy's scalars, if the first is such."""
    first = next((value for value in values if value is not None), None) if isinstance(values, list | tuple) else None
    if getattr(first, "ndim", None) != 0 or not (hasattr(first, "detach") or isinstance(first, np.ndarray)):
        return values
    arrays = (_of_tensor(value) if hasattr(value, "detach") else value for value in values)
    return [array[()] if isinstance(array, np.ndarray) and array.ndim == 0 else array for array in arrays]


def _dtype_of_scalars(values: Any) -> np.dtype[Any] | None:
    """The dtype of NumPy's scalars that are all of one: np.float32 stays float32."""
    if not isinstance(values, list | tuple):
        return None
    first = next((value for value in values if value is not None), None)
    if not isinstance(first, np.generic) or first.dtype.kind not in "biuf":
        return None
    kinds = {type(value) for value in values if value is not None}
    return first.dtype if len(kinds) == 1 else None


def _has_more(kind: Any, value: Any) -> bool:
    """Whether a value has fields, at any depth, that its kind does not."""
    if isinstance(kind, dict) and isinstance(value, Mapping):
        return any(name not in kind or _has_more(kind[name], sub) for name, sub in value.items())
    if isinstance(kind, List | LargeList) and isinstance(value, list | tuple):
        return any(_has_more(kind.feature, item) for item in value)
    return False


def _kept(values: Any, before: Any, name: str) -> pa.Array:
    """Values in the kind their column had; a string is not turned into a number to fit, nor a number into a string."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return cast_array(_joined(values), before)
    if isinstance(before, ArrayXD):
        return _nested_arrays(values, before)
    if (
        isinstance(values, np.ndarray)
        and values.ndim == 1
        and values.dtype.kind in "biuf"
        and isinstance(before, Value)
    ):
        return pa.array(values).cast(arrow_field(name, before).type)
    values = plain_values(values)
    if any(isinstance(sub, dict) for sub in walk(before)) and any(_has_more(before, value) for value in values):
        raise FeatureError(f"column {name!r}", f"is {before!r}", found="other fields")  # Arrow would leave them out
    if any(isinstance(sub, ClassLabel | Json | ArrayXD) or _encodes(sub) for sub in walk(before)):
        values = [_as_lists(encode(before, value)) for value in values]
    return _fitting(values, arrow_field(name, before).type)


def _fitting(values: list[Any], target: pa.DataType) -> pa.Array:
    """Values as an array of a type, if that loses nothing of them. FeatureError otherwise."""
    found = _shown(values)
    if found is None or found.type == target:
        return pa.array(values, target) if found is None else found
    if not _alike(found.type, target):
        raise FeatureError("values", f"must be {target}", found=found.type)
    return _cast_whole(found, target) if _holds(target, pa.types.is_integer) else pa.array(values, target)


def _alike(found: pa.DataType, target: pa.DataType) -> bool:
    """Whether two types have lists, structs and numbers in the same places."""
    if pa.types.is_null(found):
        return True
    if pa.types.is_struct(target) or pa.types.is_struct(found):
        both = pa.types.is_struct(target) and pa.types.is_struct(found)
        names = [sub.name for sub in target if found.get_field_index(sub.name) >= 0] if both else []
        return both and all(_alike(found.field(name).type, target.field(name).type) for name in names)
    if _is_listed(target) or _is_listed(found):
        return _is_listed(target) and _is_listed(found) and _alike(found.value_type, target.value_type)
    if pa.types.is_integer(target):
        return bool(pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_boolean(found))
    return True


def cast_array(array: pa.Array, kind: Any) -> pa.Array:
    """An Arrow array cast to a kind: names to labels, paths to pictures, lists to arrays. FeatureError if it cannot."""
    array = plain_array(array)
    target = arrow_field("", kind).type
    if isinstance(kind, dict) and pa.types.is_struct(array.type):
        return _cast_struct(array, kind, target)
    if isinstance(kind, List | LargeList) and _is_listed(array.type):
        return _cast_list(array, kind, target)
    if hasattr(kind, "cast_storage") and not (array.type == target and not isinstance(kind, ClassLabel)):
        return kind.cast_storage(array)
    if array.type == target:
        return array
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        if isinstance(kind, Value) and kind.dtype in ("string", "large_string") and pa.types.is_nested(array.type):
            raise pa.ArrowInvalid(f"{array.type} is not text")
        return array.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
        raise FeatureError("a cast", f"to {kind!r} is not possible from {array.type}", found=problem) from problem


def _cast_struct(array: pa.Array, kind: Mapping[str, Any], target: pa.DataType) -> pa.Array:
    surplus = [sub.name for sub in array.type if sub.name not in kind]
    if surplus:
        raise FeatureError("a cast", f"to a struct of {', '.join(kind)} would lose fields", found=", ".join(surplus))
    parts = [
        cast_array(_field_of(array, name), sub)
        if array.type.get_field_index(name) >= 0
        else pa.nulls(len(array), arrow_field("", sub).type)
        for name, sub in kind.items()
    ]
    return pa.StructArray.from_arrays(parts, fields=list(target), mask=array.is_null() if array.null_count else None)


def _field_of(array: pa.Array, name: str) -> pa.Array:
    return array.field(name)


def _cast_list(array: pa.Array, kind: Any, target: pa.DataType) -> pa.Array:
    length = kind.length if isinstance(kind, List) else -1
    if array.type == target and not any(isinstance(sub, ClassLabel) for sub in walk(kind)):
        return array
    if length == -1 and pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_field))
    if length != -1 or array.null_count:  # offsets of null lists may hide values; Arrow's own cast knows
        values = array.flatten()
        if values.type != arrow_field("item", kind.feature).type and _plain(kind.feature):
            return array.cast(target)
        rows = array.to_pylist()
        if length != -1 and any(row is not None and len(row) != length for row in rows):
            raise FeatureError("a cast", f"to lists of {length} items", found="lists of other lengths")
        return pa.array([encode(kind, row) for row in rows], target)
    values = cast_array(array.flatten(), kind.feature)
    offsets = array.offsets
    if len(offsets) and offsets[0].as_py():
        offsets = pa.compute.subtract(offsets, offsets[0])
    if isinstance(kind, LargeList):
        return pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), values, type=target)
    return pa.ListArray.from_arrays(offsets.cast(pa.int32()), values, type=target)


def plain_array(array: Any) -> Any:
    """The array without extension types and dictionaries at any depth; chunked stays chunked."""
    if isinstance(array, pa.ChunkedArray):
        if not _is_dressed(array.type):
            return array
        chunks = [plain_array(chunk) for chunk in array.chunks]
        return pa.chunked_array(chunks, chunks[0].type if chunks else plain_array(pa.array([], array.type)).type)
    kind = array.type
    if not _is_dressed(kind):
        return array
    if isinstance(kind, pa.BaseExtensionType):
        return plain_array(array.storage)
    if pa.types.is_dictionary(kind):
        return plain_array(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return plain_array(pa.compute.run_end_decode(array))
    if pa.types.is_struct(kind):
        parts = [plain_array(array.field(index)) for index in range(kind.num_fields)]
        names = [sub.name for sub in kind]
        return pa.StructArray.from_arrays(parts, names, mask=array.is_null() if array.null_count else None)
    if pa.types.is_map(kind):
        return pa.array(
            [None if row is None else [{"key": k, "value": v} for k, v in row] for row in array.to_pylist()]
        )
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        flat = pa.list_ if pa.types.is_list_view(kind) else pa.large_list
        return plain_array(array.cast(flat(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return plain_array(array.cast(pa.list_(kind.value_type))).cast(
            pa.list_(plain_array(array.flatten()).type, kind.list_size)
        )
    values = plain_array(array.values)
    made = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
    return made.from_arrays(
        array.offsets, values, mask=array.is_null() if array.null_count and not array.offset else None
    )


def _is_dressed(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return True
    if pa.types.is_map(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return True
    return any(_is_dressed(kind.field(index).type) for index in range(kind.num_fields))


def plain_values(values: Any) -> Any:
    """Values as Arrow takes them: tensors as arrays, rows of arrays as lists, series as lists."""
    if isinstance(values, np.ndarray):
        return values.tolist() if values.dtype != object and values.ndim > 1 else list(values)
    if hasattr(values, "detach"):
        return _of_tensor(values).tolist()
    if hasattr(values, "to_list") and not isinstance(values, list | tuple):
        values = values.to_list()
    if isinstance(values, Mapping) or not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise ArgumentError("a column", "must be a list of values", found=type(values).__name__)
    values = values if isinstance(values, list) else list(values)
    first = next((value for value in values if value is not None), None)
    return [plain_value(value) for value in values] if _is_strange(first) else values


def _is_strange(value: Any) -> bool:
    """Whether a value, or the first in it, is something Arrow does not take."""
    while isinstance(value, list | tuple) and value:
        value = next((item for item in value if item is not None), None)
    if isinstance(value, dict):
        return any(_is_strange(sub) for sub in value.values())
    return not (value is None or isinstance(value, str | bytes | int | float | list | tuple)) or isinstance(
        value, np.generic
    )


def plain_value(value: Any) -> Any:
    """One value as Arrow takes it, at any depth."""
    if isinstance(value, np.ndarray):
        if value.ndim > 1 and value.dtype.kind in "biuf":
            return [plain_value(row) for row in value]  # Arrow keeps the dtype of arrays in lists
        return value.item() if value.ndim == 0 else value.tolist() if value.ndim > 1 else value
    if isinstance(value, np.generic):
        return value.item() if value.dtype.kind in "biufUS" else value
    if hasattr(value, "detach"):
        return plain_value(_of_tensor(value))
    if isinstance(value, Mapping):
        return {key: plain_value(sub) for key, sub in value.items()}
    if isinstance(value, list | tuple):
        one = _dtype_of_scalars(value) if all(sub is not None for sub in value) else None
        return [plain_value(sub) for sub in value] if one is None else np.array(value, one)
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime()
    if hasattr(value, "to_list"):
        return value.to_list()
    if hasattr(value, "__array__") and type(value).__module__.split(".")[0] != "PIL":  # JAX, CuPy, a user's own
        return plain_value(np.asarray(value))
    return value


def _of_tensor(tensor: Any) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())


def _nested_arrays(values: Any, kind: ArrayXD) -> pa.Array:
    """Rows of arrays as nested lists; each row's shape is checked."""
    scalar = np.dtype(bool if kind.dtype == "bool" else kind.dtype) if _is_numeric(kind.dtype) else None
    if isinstance(values, np.ndarray) and values.dtype != object and scalar is not None:
        _check_shape(values.shape[1:], kind)
        return _list_array(values.astype(scalar, copy=False))
    rows: list[Any] = []
    for value in values:
        if value is None:
            rows.append(None)
            continue
        if hasattr(value, "detach"):
            value = _of_tensor(value)
        try:
            array = np.asarray(value, dtype=scalar)
        except (ValueError, TypeError) as problem:
            raise FeatureError("an array", f"must be {kind!r}", found=str(problem)) from problem
        if kind.shape[0] is None and array.size == 0:
            array = array.reshape([size or 0 for size in kind.shape])
        _check_shape(array.shape, kind)
        rows.append(array)
    if rows and scalar is not None and all(row is not None and row.shape == rows[0].shape for row in rows):
        return _list_array(np.stack(rows))
    return pa.array([None if row is None else row.tolist() for row in rows], kind())


def _check_shape(shape: tuple[int, ...], kind: ArrayXD) -> None:
    if len(shape) != len(kind.shape) or any(
        want not in (None, have) for want, have in zip(kind.shape, shape, strict=True)
    ):
        raise FeatureError("an array", f"must have the shape {kind.shape}", found=shape)


def _list_array(values: np.ndarray[Any, Any]) -> pa.Array:
    """An array of 2 or more dimensions as nested lists, without a Python object in between."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for axis in range(values.ndim - 1, 0, -1):
        count = int(np.prod(values.shape[:axis], dtype=np.int64))
        array = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * values.shape[axis]), array)
    return array


def _is_numeric(dtype: str) -> bool:
    return dtype == "bool" or dtype.startswith(("int", "uint", "float"))


def _as_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_as_lists(item) for item in value]
    return {key: _as_lists(sub) for key, sub in value.items()} if isinstance(value, dict) else value


def _encodes(kind: Any) -> bool:
    return hasattr(kind, "encode_example") and not isinstance(kind, Value | ArrayXD)


def _plain(kind: Any) -> bool:
    return all(isinstance(sub, Value | List | LargeList | dict) for sub in walk(kind))


def _is_listed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _joined(array: Any) -> Any:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _innermost(kind: Any) -> str | None:
    while isinstance(kind, List):
        kind = kind.feature
    return kind.dtype if isinstance(kind, Value) else None


def _renamed(kind: Any, dtype: str) -> Any:
    return List(_renamed(kind.feature, dtype), length=kind.length) if isinstance(kind, List) else Value(dtype)


def _narrows(array: pa.Array, dtype: str) -> bool:
    while pa.types.is_list(array.type):
        array = array.flatten()
    found, limits = pa.compute.min_max(array).as_py(), np.iinfo(dtype)
    return found["min"] is None or (limits.min <= found["min"] and found["max"] <= limits.max)
