"""Padding of rows that are already ids, as a collator does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from martlet.errors import ArgumentError, TokenizerError
from martlet.tokenizers.batch import BatchEncoding
from martlet.tokenizers.encoding import Limits


def pad_rows(encoded: Any, limits: Limits, wants_mask: bool, return_tensors: str | None) -> BatchEncoding:
    """Pad every row to one length; tensors in, tensors of the same kind out. `encoded` itself is not changed."""
    columns = _columns(encoded)
    if "input_ids" not in columns:
        raise ArgumentError("pad", "needs input_ids", found=sorted(columns))
    return_tensors = return_tensors or _kind(columns["input_ids"])
    columns = {key: _plain(value) for key, value in columns.items()}
    ids = columns["input_ids"]
    if not ids:
        return BatchEncoding({**columns, "attention_mask": []} if wants_mask else columns)
    if not isinstance(ids[0], (list, tuple)):
        row = _pad_row(columns, _target([ids], limits), limits, wants_mask)
        return BatchEncoding(row, tensor_type=return_tensors)
    for key, rows in columns.items():
        if len(rows) != len(ids):
            raise ArgumentError("pad", f"needs as many rows of {key} as of input_ids ({len(ids)})", found=len(rows))
    target = _target(ids, limits)
    padded = [
        _pad_row({key: rows[number] for key, rows in columns.items()}, target, limits, wants_mask)
        for number in range(len(ids))
    ]
    return BatchEncoding({key: [row[key] for row in padded] for key in padded[0]}, tensor_type=return_tensors)


def _columns(encoded: Any) -> dict[str, Any]:
    if isinstance(encoded, Mapping):
        return dict(encoded)
    if isinstance(encoded, (list, tuple)) and encoded and all(isinstance(row, Mapping) for row in encoded):
        return {key: [row[key] for row in encoded] for key in encoded[0]}
    raise ArgumentError("pad", "needs a mapping of rows, or a list of mappings", found=type(encoded).__name__)


def _kind(value: Any) -> str | None:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    if type(value).__module__.partition(".")[0] == "torch":
        return "pt"
    return "np" if type(value).__module__.partition(".")[0] == "numpy" else None


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _target(ids: list[Any], limits: Limits) -> int | None:
    if limits.padding is None:
        return None
    length = max(len(row) for row in ids) if limits.padding == "longest" else limits.max_length
    if length is not None and limits.pad_to_multiple_of is not None:
        length = -(-length // limits.pad_to_multiple_of) * limits.pad_to_multiple_of
    return length


def _pad_row(row: dict[str, Any], target: int | None, limits: Limits, wants_mask: bool) -> dict[str, Any]:
    result = dict(row)
    count = len(row["input_ids"])
    if wants_mask and "attention_mask" not in result:
        result["attention_mask"] = [1] * count
    missing = max(0, (target or 0) - count)
    if missing:
        if limits.pad_id is None:
            raise TokenizerError("pad", "needs a pad token", remedy="Set tokenizer.pad_token = tokenizer.eos_token.")
        fills = {
            "input_ids": limits.pad_id,
            "attention_mask": 0,
            "token_type_ids": limits.pad_type_id,
            "special_tokens_mask": 1,
        }
        for key in fills.keys() & result.keys():
            fill = [fills[key]] * missing
            kept = list(result[key])
            result[key] = fill + kept if limits.padding_side == "left" else kept + fill
    return result
