"""Batches of plain texts encoded into arrays by the faster library, padded there; lists only if someone looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from martlet.errors import TokenizerError
from martlet.tokenizers.batch import BatchEncoding, Ragged
from martlet.tokenizers.encoding import Limits, Rows, encode_rows

if TYPE_CHECKING:
    from martlet.tokenizers.tokenizer import Tokenizer


def encode_ragged(
    tokenizer: Tokenizer, rows: Rows, adds_special: bool, limits: Limits, wanted: dict[str, bool], tensor_type: Any
) -> BatchEncoding | None:
    """What `tokenizers` gives for the rows, from arrays; None where only `tokenizers` can give it, or is to."""
    if not rows.is_batch or rows.is_split or wanted["special_tokens_mask"] or wanted["offset_mapping"]:
        return None
    if limits.stride or not all(isinstance(row, str) for row in rows.inputs):
        return None
    backend, max_length = tokenizer._backend, None
    with tokenizer._lock:
        if limits.truncation is not None:
            max_length = limits.max_length
            room = (max_length or 0) - (backend.num_special_tokens_to_add(False) if adds_special else 0)
            if limits.truncation == "only_second" or limits.truncation_side != "right" or room < 1:
                return None
        if backend.encode_special_tokens:
            return None
        found = tokenizer._fast.encode(backend, rows.inputs, adds_special, max_length)
        if found is None:
            return None
        if wanted["token_type_ids"] and any(backend.encode("a", None, False, adds_special).type_ids):
            return None
    ids, mask = _padded(Ragged(*found), limits)
    data: dict[str, Any] = {"input_ids": ids}
    if wanted["token_type_ids"]:
        data["token_type_ids"] = _types(mask, limits)
    if wanted["attention_mask"]:
        data["attention_mask"] = mask
    if wanted["length"]:
        data["length"] = np.diff(ids.offsets).tolist()

    def again() -> Sequence[Encoding]:
        made = encode_rows(backend, tokenizer._lock, rows, adds_special, limits, False)
        if [row.ids for row in made] != ids.lists():
            raise TokenizerError("BatchEncoding", "the tokenizer changed since", remedy="Encode the texts again.")
        return made

    if getattr(tensor_type, "value", tensor_type) is not None:
        data = {key: _matrix(value) if isinstance(value, Ragged) else value for key, value in data.items()}
    return BatchEncoding(data, tensor_type=tensor_type, n_sequences=1, encode=again)


def _padded(rows: Ragged, limits: Limits) -> tuple[Ragged, Ragged]:
    """The rows filled up as asked, and 1 for each of their own ids."""
    lengths = np.diff(rows.offsets)
    if limits.padding is None:
        return rows, Ragged(np.ones(len(rows.values), np.int8), rows.offsets)
    target = int(lengths.max()) if limits.padding == "longest" else int(limits.max_length or 0)
    if limits.pad_to_multiple_of:
        target = -(-target // limits.pad_to_multiple_of) * limits.pad_to_multiple_of
    widths = np.maximum(lengths, target)
    offsets = np.zeros(len(rows.offsets), np.int32)
    np.cumsum(widths, out=offsets[1:])
    starts = offsets[:-1] + (widths - lengths if limits.padding_side == "left" else 0)
    places = np.arange(len(rows.values)) + np.repeat(starts - rows.offsets[:-1], lengths)
    ids, mask = np.full(int(offsets[-1]), limits.pad_id, np.int32), np.zeros(int(offsets[-1]), np.int8)
    ids[places], mask[places] = rows.values, 1
    return Ragged(ids, offsets), Ragged(mask, offsets)


def _types(mask: Ragged, limits: Limits) -> Ragged:
    """0 for every id of a single text, and the padding's own."""
    values: NDArray[Any] = np.where(mask.values == 1, 0, limits.pad_type_id).astype(np.int8)
    return Ragged(values, mask.offsets)


def _matrix(rows: Ragged) -> Any:
    """Rows of one length as int64 [rows, length], others as lists."""
    lengths = np.diff(rows.offsets)
    if (lengths != lengths[0]).any():
        return rows.lists()
    return rows.values.reshape(len(lengths), -1).astype(np.int64)
