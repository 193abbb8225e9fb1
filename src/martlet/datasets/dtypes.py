"""Value dtypes: Hugging Face's names ("int64", "timestamp[us, tz=UTC]") <-> Arrow types. No features, no rows."""

from __future__ import annotations

import re

import pyarrow as pa

from martlet.errors import ArgumentError

_PLAIN = {
    "null": pa.null(),
    "bool": pa.bool_(),
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date32": pa.date32(),
    "date64": pa.date64(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "string": pa.string(),
    "utf8": pa.string(),
    "large_string": pa.large_string(),
    "large_utf8": pa.large_string(),
    "string_view": pa.string_view(),
}
_NAMES = {
    arrow: name for name, arrow in reversed(_PLAIN.items()) if name not in ("float", "double", "utf8", "large_utf8")
}
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:,\s*tz=([\w/+\-:]+))?\]")
_DURATION = re.compile(r"duration\[(s|ms|us|ns)\]")
_TIME = re.compile(r"time(?:32\[(s|ms)\]|64\[(us|ns)\])")
_DECIMAL = re.compile(r"decimal(128|256)\((\d+),\s*(-?\d+)\)")
_FIXED = re.compile(r"fixed_size_binary\[(\d+)\]")


def arrow_type(dtype: str) -> pa.DataType:
    """The Arrow type of a dtype's name. ArgumentError for a name that is none."""
    if dtype in _PLAIN:
        return _PLAIN[dtype]
    if match := _TIMESTAMP.fullmatch(dtype):
        return pa.timestamp(match[1], match[2])
    if match := _DURATION.fullmatch(dtype):
        return pa.duration(match[1])
    if match := _TIME.fullmatch(dtype):
        return pa.time32(match[1]) if match[1] else pa.time64(match[2])
    if match := _DECIMAL.fullmatch(dtype):
        return (pa.decimal128 if match[1] == "128" else pa.decimal256)(int(match[2]), int(match[3]))
    if match := _FIXED.fullmatch(dtype):
        return pa.binary(int(match[1]))
    raise ArgumentError(
        "Value",
        "needs the name of an Arrow type",
        found=repr(dtype),
        remedy="Examples: int64, float32, string, timestamp[us, tz=UTC], decimal128(10, 2); Json() for mixed objects.",
    )


def dtype_of(arrow: pa.DataType) -> str:
    """The name of an Arrow type: `arrow_type(dtype_of(t)) == t`, but for a dictionary, which is its values' type."""
    if pa.types.is_dictionary(arrow):
        return dtype_of(arrow.value_type)
    if arrow in _NAMES:
        return _NAMES[arrow]
    if pa.types.is_timestamp(arrow):
        return f"timestamp[{arrow.unit}, tz={arrow.tz}]" if arrow.tz else f"timestamp[{arrow.unit}]"
    if pa.types.is_time32(arrow) or pa.types.is_time64(arrow) or pa.types.is_duration(arrow):
        return str(arrow)
    if pa.types.is_decimal128(arrow) or pa.types.is_decimal256(arrow):
        bits = 128 if pa.types.is_decimal128(arrow) else 256
        return f"decimal{bits}({arrow.precision}, {arrow.scale})"
    if pa.types.is_fixed_size_binary(arrow):
        return f"fixed_size_binary[{arrow.byte_width}]"
    raise ArgumentError("features", f"there is no Value for the Arrow type {arrow}", remedy="Cast the column first.")
