"""The Trainer's own collating: samples to one padded batch. Collators with a name are in `datasets.collators`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from martlet.errors import TrainingDataError
from martlet.training.losses import IGNORED


def pad_batch(
    samples: Sequence[Mapping[str, Any]], pad_token_id: int = 0, multiple: int | None = None
) -> dict[str, Any]:
    """Columns as tensors: ragged ones padded on the right (ids with `pad_token_id`, labels with -100, others with 0),
    and `attention_mask` (1 a token, 0 padding). "label" and "label_ids" become "labels"."""  # fmt: skip
    names = {name: None for sample in samples for name in sample}
    for name in names:
        if any(name not in sample for sample in samples):
            raise TrainingDataError("batch", f"every row must have the column {name!r}, or none", found="some do")
    out: dict[str, Any] = {}
    lengths = [len(sample["input_ids"]) for sample in samples] if "input_ids" in names else []
    for name in names:
        fill = pad_token_id if name == "input_ids" else IGNORED if "label" in name else 0
        key = "labels" if name in ("label", "label_ids") else name
        out[key] = _stack(name, [sample[name] for sample in samples], fill, multiple)
    if lengths and "attention_mask" not in out:
        width = out["input_ids"].shape[1]
        out["attention_mask"] = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return out


def _stack(name: str, values: list[Any], fill: int, multiple: int | None) -> Tensor:
    arrays = []
    for value in values:
        try:
            array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            raise TrainingDataError(
                f"column {name!r}", "must hold numbers", found=f"{type(value).__name__} {str(value)[:40]!r}",
                remedy="Tokenize it, remove it, or pass a data_collator that reads it.",
            )  # fmt: skip
        arrays.append(array)
    if len({array.ndim for array in arrays}) > 1:
        raise TrainingDataError(f"column {name!r}", "must have one shape in all rows", found="several")
    if arrays[0].ndim == 0 or (len({array.shape for array in arrays}) == 1 and not multiple):
        stacked = np.stack(arrays)
    else:
        width = max(array.shape[0] for array in arrays)
        width = -(-width // multiple) * multiple if multiple else width
        stacked = np.full((len(arrays), width, *arrays[0].shape[1:]), fill, arrays[0].dtype)
        for row, array in zip(stacked, arrays, strict=True):
            row[: len(array)] = array
    dtype = np.float32 if stacked.dtype.kind == "f" else np.int64
    return torch.from_numpy(np.ascontiguousarray(stacked, dtype=dtype))


def pad_id(tokenizer: Any) -> int:
    """The padding id: any id does, since a mask goes with it."""
    found = getattr(tokenizer, "pad_token_id", None)
    return 0 if found is None else int(found)
