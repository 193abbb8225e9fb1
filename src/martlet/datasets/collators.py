"""Rows to one batch of tensors, under the names and with the results of `transformers`' collators.

A tokenizer is whatever has `pad`, `pad_token_id`, `padding_side` (and for masks `mask_token_id` and its length).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError, DatasetError, MissingDependencyError

IGNORED = -100  # a label that no loss counts
Features = Sequence[Any]


def _torch() -> Any:
    try:
        import torch
    except ImportError as problem:
        remedy = 'pip install torch, or pass return_tensors="np".'
        raise MissingDependencyError('return_tensors="pt"', "needs PyTorch", remedy=remedy) from problem
    return torch


def _tensor(values: Any, kind: str, dtype: Any = None) -> Any:
    """A batch's column in the form asked for."""
    if kind == "np":
        return np.array(values, dtype=dtype)
    torch = _torch()
    return torch.tensor(
        values, dtype=None if dtype is None else {np.int64: torch.int64, np.float32: torch.float32}[dtype]
    )


def _check_kind(kind: str) -> None:
    if kind not in ("pt", "np"):
        raise ArgumentError("return_tensors", "must be 'pt' or 'np'", found=repr(kind))


def default_data_collator(features: Features, return_tensors: str = "pt") -> dict[str, Any]:
    """Columns stacked, of equal shapes. "label" and "label_ids" become "labels"; strings and None stay out."""
    _check_kind(return_tensors)
    rows: list[Any] = [each if isinstance(each, Mapping) else vars(each) for each in features]
    batch: dict[str, Any] = {}
    for name, value in rows[0].items():
        if value is None or isinstance(value, str):
            continue
        values = [row[name] for row in rows]
        if name in ("label", "label_ids"):
            first = np.asarray(value).ravel()
            dtype = np.int64 if first.size and first.dtype.kind in "iub" else np.float32
            batch["labels"] = _stacked(name, values, return_tensors, dtype)
        else:
            batch[name] = _stacked(name, values, return_tensors, None)
    return {"labels": batch.pop("labels"), **batch} if "labels" in batch and "labels" not in rows[0] else batch


def _stacked(name: str, values: list[Any], kind: str, dtype: Any) -> Any:
    try:
        if kind == "pt" and hasattr(values[0], "detach"):
            return _torch().stack(list(values))
        if isinstance(values[0], np.ndarray):
            array = np.stack(values)
            return array if kind == "np" else _torch().from_numpy(array)
        return _tensor(values, kind, dtype)
    except (ValueError, TypeError, RuntimeError) as problem:
        raise DatasetError(
            f"column {name!r}",
            "must hold numbers of one shape in all rows of a batch",
            found=str(problem).split("\n")[0],
            remedy="DataCollatorWithPadding pads; remove columns that are not for the model.",
        ) from problem


@dataclass
class DefaultDataCollator:
    """`default_data_collator` as an object."""

    return_tensors: str = "pt"

    def __call__(self, features: Features, return_tensors: str | None = None) -> dict[str, Any]:
        return default_data_collator(features, return_tensors or self.return_tensors)


@dataclass
class DataCollatorWithPadding:
    """Rows padded by the tokenizer: to the longest, to `max_length`, to a multiple; "label" becomes "labels".

    Rows are dicts, or one dict of columns as `ds[:8]` gives it.
    """

    tokenizer: Any
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __post_init__(self) -> None:
        _check_kind(self.return_tensors)

    def __call__(self, features: Features) -> dict[str, Any]:
        batch = self._padded(features, self.return_tensors)
        for name in ("label", "label_ids"):
            if name in batch:
                batch["labels"] = batch.pop(name)
        return batch

    def _padded(self, features: Features, kind: str) -> dict[str, Any]:
        padded = self.tokenizer.pad(
            features if isinstance(features, Mapping) else [dict(row) for row in features],
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors=kind,
        )
        return dict(padded)

    def _filled(self, label: Any, width: int, fill: int) -> list[Any]:
        values = label.tolist() if hasattr(label, "tolist") else list(label)
        rest = [fill] * (width - len(values))
        return values + rest if self.tokenizer.padding_side == "right" else rest + values


@dataclass
class DataCollatorForTokenClassification(DataCollatorWithPadding):
    """Rows padded by the tokenizer, and their labels, one a token, with `label_pad_token_id`."""

    label_pad_token_id: int = IGNORED

    def __call__(self, features: Features) -> dict[str, Any]:
        name = "label" if "label" in features[0] else "labels"
        rest = [{key: value for key, value in row.items() if key != name} for row in features]
        batch = self._padded(rest, self.return_tensors)
        if name in features[0]:
            width = int(np.shape(batch["input_ids"])[1])
            labels = [self._filled(row[name], width, self.label_pad_token_id) for row in features]
            batch[name] = _tensor(labels, self.return_tensors, np.int64)
        return batch


@dataclass
class DataCollatorForMultipleChoice(DataCollatorWithPadding):
    """Rows of several choices each, `(rows, choices, tokens)`, padded by the tokenizer to one length; labels apart."""

    def __call__(self, features: Features) -> dict[str, Any]:
        name = "label" if "label" in features[0] else "labels"
        rest = [{key: value for key, value in row.items() if key != name} for row in features]
        counts = {len(value) for row in rest for value in row.values()}
        if len(counts) != 1:
            raise DatasetError(
                "DataCollatorForMultipleChoice", "needs every column to hold as many choices", found=sorted(counts),
                remedy="Rows of a tokenizer's columns alone, each a list of as many lists as there are choices.",
            )  # fmt: skip
        choices = counts.pop()
        flat = [{key: value[at] for key, value in row.items()} for row in rest for at in range(choices)]
        padded = self._padded(flat, self.return_tensors)
        batch = {key: value.reshape(len(rest), choices, -1) for key, value in padded.items()}
        if name in features[0]:
            batch["labels"] = _tensor([row[name] for row in features], self.return_tensors, np.int64)
        return batch


@dataclass
class DataCollatorForSeq2Seq:
    """Rows padded by the tokenizer, labels to their own longest; with `model`, `decoder_input_ids` made of them."""

    tokenizer: Any
    model: Any = None
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED
    return_tensors: str = "pt"

    def __post_init__(self) -> None:
        _check_kind(self.return_tensors)

    def __call__(self, features: Features, return_tensors: str | None = None) -> dict[str, Any]:
        kind = return_tensors or self.return_tensors
        _check_kind(kind)
        padder = DataCollatorWithPadding(self.tokenizer, self.padding, self.max_length, self.pad_to_multiple_of, kind)
        name = "label" if "label" in features[0] else "labels"
        labels = [row[name] for row in features] if name in features[0] else []
        batch = padder._padded([{k: v for k, v in row.items() if k != name} for row in features], kind)
        if all(label is None for label in labels):
            return {**batch, "labels": None}
        width = max(len(label) for label in labels)
        if self.padding == "max_length" and self.max_length is not None:
            width = self.max_length
        if self.pad_to_multiple_of is not None:
            width = -(-width // self.pad_to_multiple_of) * self.pad_to_multiple_of
        if self.padding is False or self.padding == "do_not_pad":
            filled = [list(label) for label in labels]
        else:
            filled = [padder._filled(label, width, self.label_pad_token_id) for label in labels]
        batch["labels"] = _tensor(filled, kind, np.int64)
        if self.model is not None and hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
            batch["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        return batch


@dataclass
class DataCollatorForLanguageModeling:
    """Labels from the ids: all of them (`mlm=False`), or a share that is masked (Devlin et al. 2018).

    Which tokens are masked, and by what, is a function of (seed, row, place), a row being the sample and step inside a
    Trainer and else how many rows came before it here: no generator's state is to be saved, and a row's mask does
    not depend on what else is in its batch. `seed=None` takes one from torch's (or NumPy's) global generator each time.
    """

    tokenizer: Any
    mlm: bool = True
    whole_word_mask: bool = False
    mlm_probability: float | None = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    seed: int | None = None
    num_rows: int = field(default=0, repr=False)  # collated so far

    def __post_init__(self) -> None:
        _check_kind(self.return_tensors)
        if self.mlm and getattr(self.tokenizer, "mask_token_id", None) is None:
            raise ArgumentError(
                "mlm", "needs a tokenizer with a mask token", remedy="Pass mlm=False for causal models."
            )
        if self.whole_word_mask and not self.mlm:
            raise ArgumentError("whole_word_mask", "is for mlm=True")
        shares = {name: getattr(self, name) for name in ("mlm_probability", "mask_replace_prob", "random_replace_prob")}
        for name, share in shares.items():
            if share is None and not self.mlm:
                continue
            if share is None or not 0 <= share <= 1:
                raise ArgumentError(name, "must be between 0 and 1", found=share)
        if self.mask_replace_prob + self.random_replace_prob > 1:
            raise ArgumentError("mask_replace_prob", "and random_replace_prob must sum to at most 1")
        if self.whole_word_mask:
            self.mask_replace_prob, self.random_replace_prob = 1.0, 0.0

    def __call__(self, features: Features, return_tensors: str | None = None) -> dict[str, Any]:
        kind = return_tensors or self.return_tensors
        rows = [dict(row) if isinstance(row, Mapping) else {"input_ids": _listed(row)} for row in features]
        is_bare = not isinstance(features[0], Mapping)
        padder = DataCollatorWithPadding(self.tokenizer, True, None, self.pad_to_multiple_of, kind)
        batch = padder._padded(rows, "np")
        if is_bare:
            batch.pop("attention_mask", None)
        ids = np.asarray(batch["input_ids"])
        special, spans = batch.pop("special_tokens_mask", None), batch.pop("offset_mapping", None)
        if self.mlm:
            batch["input_ids"], batch["labels"] = self._masked(ids, special, spans, kind)
        else:
            pad = getattr(self.tokenizer, "pad_token_id", None)
            batch["labels"] = ids.copy() if pad is None else np.where(ids == pad, IGNORED, ids)
        self.num_rows += len(rows)
        return batch if kind == "np" else {name: _torch().from_numpy(np.asarray(v)) for name, v in batch.items()}

    def _masked(self, ids: NDArray[Any], special: Any, spans: Any, kind: str) -> tuple[NDArray[Any], NDArray[Any]]:
        if special is None:
            found = [
                self.tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) for row in ids.tolist()
            ]
            special = np.asarray(found)
        may = ~np.asarray(special).astype(bool)
        keys = self._keys(len(ids), kind)
        drawn = uniform(keys, ids.shape[1], 0)
        if self.whole_word_mask:
            if spans is None:
                raise ArgumentError(
                    "whole_word_mask", "needs the column offset_mapping", found=", ".join(["input_ids"])
                )
            words = _words(np.asarray(spans), ~may)
            drawn = np.take_along_axis(drawn, np.maximum(words, 0), axis=1)  # a word is drawn by its first token
        chosen = may & (drawn < (self.mlm_probability or 0.0))
        labels = np.where(chosen, ids, IGNORED)
        how = uniform(keys, ids.shape[1], 1)
        other = (uniform(keys, ids.shape[1], 2) * len(self.tokenizer)).astype(ids.dtype)
        out = np.where(chosen & (how < self.mask_replace_prob), self.tokenizer.mask_token_id, ids)
        is_other = chosen & (how >= self.mask_replace_prob) & (how < self.mask_replace_prob + self.random_replace_prob)
        return np.where(is_other, other, out), labels

    def _keys(self, num_rows: int, kind: str) -> NDArray[np.uint64]:
        """What each row's mask is a function of."""
        training = sys.modules.get("martlet.nn.draws")  # loaded by a Trainer alone; not ours to import
        draws = training.current_draws() if training is not None else None
        if draws is not None and len(draws.samples) == num_rows:
            return _mixed(_mixed(np.asarray(draws.samples, np.uint64), draws.seed), draws.step)
        worker = 0
        if "torch" in sys.modules and (info := _torch().utils.data.get_worker_info()) is not None:
            worker = info.id + 1
        if self.seed is not None:
            seed = self.seed
        elif kind == "pt":
            seed = int(_torch().randint(1 << 62, (1,)))
        else:
            seed = int(np.random.randint(1 << 62))
        rows = np.arange(self.num_rows, self.num_rows + num_rows, dtype=np.uint64)
        return _mixed(_mixed(rows, seed), worker)


def _listed(row: Any) -> list[int]:
    return row.tolist() if hasattr(row, "tolist") else list(row)


def _words(spans: NDArray[Any], special: NDArray[Any]) -> NDArray[np.int64]:
    """For each token, the place of the first token of its word: a word starts after a gap or a special token."""
    starts, ends = spans[:, :, 0], spans[:, :, 1]
    before = np.concatenate([np.full((len(ends), 1), -1), ends[:, :-1]], axis=1)
    after_special = np.concatenate([np.zeros((len(ends), 1), bool), special[:, :-1]], axis=1)
    is_first = ~special & ((starts != before) | after_special)
    places = np.where(is_first, np.arange(spans.shape[1]), -1)
    return np.maximum.accumulate(places, axis=1)


def _mixed(words: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """splitmix64 (Steele et al. 2014) of each word and a salt."""
    with np.errstate(over="ignore"):
        z = (words ^ np.uint64(salt & (1 << 64) - 1)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def uniform(keys: NDArray[np.uint64], width: int, which: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) by (key, place, which), a row a key."""
    places = np.arange(width, dtype=np.uint64) + np.uint64(which << 40)
    mixed = _mixed(np.bitwise_xor(keys[:, None], _mixed(places, 0)[None, :]), 1)
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


@dataclass
class DataCollatorWithFlattening:
    """Rows end to end in one long row, without padding: `position_ids` start again at each row, so that no row attends
    to another; labels are the ids, with `separator_id` for the first of each row.

    `return_flash_attn_kwargs` adds the rows' offsets (`cu_seq_lens_q`, `cu_seq_lens_k`, `max_length_q`,
    `max_length_k`), `return_seq_idx` the row each token is of.
    """

    return_tensors: str = "pt"
    return_position_ids: bool = field(default=True, kw_only=True)
    separator_id: int = field(default=IGNORED, kw_only=True)
    return_flash_attn_kwargs: bool = field(default=False, kw_only=True)
    return_seq_idx: bool = field(default=False, kw_only=True)
    position_ids_start: int = field(default=0, kw_only=True)

    def __call__(
        self, features: Features, return_tensors: str | None = None, separator_id: int | None = None
    ) -> dict[str, Any]:
        kind = return_tensors or self.return_tensors
        _check_kind(kind)
        apart = self.separator_id if separator_id is None else separator_id
        rows = [row for row in features if len(row["input_ids"])]
        if not rows:
            raise DatasetError("batch", "needs a row with a token", found=f"{len(features)} empty rows")
        ids = [np.asarray(row["input_ids"], np.int64) for row in rows]
        labels = [np.array(row.get("labels", row["input_ids"]), np.int64) for row in rows]
        for label in labels:
            label[:1] = apart
        lengths = np.array([len(row) for row in ids], np.int64)
        out: dict[str, Any] = {"input_ids": np.concatenate(ids)[None], "labels": np.concatenate(labels)[None]}
        if self.return_position_ids:
            starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
            out["position_ids"] = (np.arange(lengths.sum()) - starts + self.position_ids_start)[None]
        if self.return_seq_idx:
            out["seq_idx"] = np.repeat(np.arange(len(ids), dtype=np.int32), lengths)[None]
        if self.return_flash_attn_kwargs:
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            out["cu_seq_lens_q"] = out["cu_seq_lens_k"] = offsets
            out["max_length_q"] = out["max_length_k"] = int(lengths.max())
        if kind == "np":
            return out
        return {n: _torch().from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for n, v in out.items()}
