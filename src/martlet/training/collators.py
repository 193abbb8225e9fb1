"""Samples -> one padded batch of tensors, under Hugging Face's names. Padding ends at the model's door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from martlet.errors import ArgumentError, TrainingDataError
from martlet.nn.draws import current_draws, mix
from martlet.training.losses import IGNORED

MASKING_PLACE = 1 << 20  # apart from the places of dropout


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


def default_data_collator(features: Sequence[Any], return_tensors: str = "pt") -> dict[str, Any]:
    """Rows as tensors; ragged columns are padded."""
    _only_torch(return_tensors)
    return pad_batch(features)


@dataclass
class DataCollatorWithPadding:
    """Pads rows to the longest with the tokenizer's padding token."""

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __post_init__(self) -> None:
        _only_torch(self.return_tensors)
        if self.padding not in (True, "longest") or self.max_length is not None:
            raise ArgumentError("padding", "must be True: to the longest row of a batch", found=repr(self.padding))

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        return pad_batch(features, pad_id(self.tokenizer), self.pad_to_multiple_of)


@dataclass
class DataCollatorForTokenClassification(DataCollatorWithPadding):
    """Pads rows and their labels, labels with -100."""


@dataclass
class DataCollatorForLanguageModeling:
    """Labels from the ids: all of them (`mlm=False`), or a share that is masked (Devlin et al. 2018).

    Of the chosen tokens 80 % become the mask, 10 % a random token, 10 % stay. Which ones belongs to (seed, step,
    sample) inside a Trainer.
    """

    tokenizer: Any
    mlm: bool = True
    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __post_init__(self) -> None:
        _only_torch(self.return_tensors)
        if self.mlm and getattr(self.tokenizer, "mask_token_id", None) is None:
            raise ArgumentError("mlm", "needs a tokenizer with a mask token", remedy="Pass mlm=False for causal LMs.")
        if self.mlm and not 0 < self.mlm_probability <= 1:
            raise ArgumentError("mlm_probability", "must be above 0 and at most 1", found=self.mlm_probability)
        if self.mask_replace_prob + self.random_replace_prob > 1:
            raise ArgumentError("mask_replace_prob", "and random_replace_prob must sum to at most 1")

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        rows = [dict(each) if isinstance(each, Mapping) else {"input_ids": each} for each in features]
        special = [row.pop("special_tokens_mask", None) for row in rows]
        batch = pad_batch(rows, pad_id(self.tokenizer), self.pad_to_multiple_of)
        if not self.mlm:
            batch.setdefault("labels", batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED))
            return batch
        batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
        for index, row in enumerate(rows):
            self._mask(batch, index, row["input_ids"], special[index])
        return batch

    def _mask(self, batch: dict[str, Any], index: int, ids: Any, special: Any) -> None:
        if special is None:
            special = self.tokenizer.get_special_tokens_mask(list(ids), already_has_special_tokens=True)
        draws, generator = current_draws(), None
        if draws is not None:
            seed = mix(draws.seed, draws.step, draws.samples[index], MASKING_PLACE) >> 1
            generator = torch.Generator().manual_seed(seed)
        count = len(special)
        chance, kind = torch.rand((2, count), generator=generator)
        other = torch.randint(len(self.tokenizer), (count,), generator=generator)
        places = torch.nonzero((chance < self.mlm_probability) & ~torch.tensor(special, dtype=torch.bool))[:, 0]
        row, labels = batch["input_ids"][index], batch["labels"][index]
        labels[places] = row[places]
        masked = places[kind[places] < self.mask_replace_prob]
        drawn = places[(kind[places] >= 1 - self.random_replace_prob) & (kind[places] >= self.mask_replace_prob)]
        row[masked] = self.tokenizer.mask_token_id
        row[drawn] = other[drawn]


def pad_id(tokenizer: Any) -> int:
    """The padding id: any id does, since a mask goes with it."""
    found = getattr(tokenizer, "pad_token_id", None)
    return 0 if found is None else int(found)


def _only_torch(return_tensors: str) -> None:
    if return_tensors != "pt":
        raise ArgumentError("return_tensors", "must be 'pt'", found=repr(return_tensors))
