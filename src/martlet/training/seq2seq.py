"""Sequence to sequence on decoders: a prompt, and a target that alone is learnt; evaluation may generate."""

# B rows, P padded width of prompt and target, N new tokens

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from martlet.errors import ArgumentError, TrainingDataError, UnsupportedError
from martlet.generation.config import GenerationConfig
from martlet.kinds import check_kinds
from martlet.training.arguments import TrainingArguments
from martlet.training.collators import pad_id
from martlet.training.losses import IGNORED
from martlet.training.objectives import CausalObjective, Inputs, unwrapped
from martlet.training.samples import RowReader, encode_answer
from martlet.training.trainer import Trainer

PAIRS = (("text", "text_target"), ("prompt", "completion"))


@dataclass
class Seq2SeqTrainingArguments(TrainingArguments):
    """TrainingArguments, and how an evaluation generates.

    `predict_with_generate`: predictions are generated ids, without the prompt's. `generation_max_length`: the most new
    tokens of a prediction; `generation_num_beams`; `generation_config`: a GenerationConfig, or a folder of one.
    """

    sortish_sampler: bool = False
    predict_with_generate: bool = False
    generation_max_length: int | None = None
    generation_num_beams: int | None = None
    generation_config: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kinds(self, Seq2SeqTrainingArguments, frozenset(each.name for each in fields(TrainingArguments)))
        if self.sortish_sampler:
            raise UnsupportedError(
                "sortish_sampler", "is not supported: nothing is padded, so nothing is gained", found=True
            )
        for name in ("generation_max_length", "generation_num_beams"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ArgumentError(name, "must be a whole number of at least 1", found=repr(value))
        if isinstance(self.generation_config, str | os.PathLike):
            self.generation_config = GenerationConfig.from_pretrained(self.generation_config)
        if not isinstance(self.generation_config, GenerationConfig | None):
            found = type(self.generation_config).__name__
            raise ArgumentError("generation_config", "must be a GenerationConfig or a folder", found=found)

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        config = self.generation_config
        return {**found, "generation_config": None if config is None else config.to_dict()}


class Seq2SeqTrainer(Trainer):
    """A Trainer of decoders on pairs: the loss is on the target, the prompt is only read.

    Rows have `input_ids` and `labels` (the target's ids, not aligned with the prompt's, as a tokenizer's `text_target`
    gives them; padding is dropped), or `text` and `text_target`, or `prompt` and `completion`, as text or as messages
    for a chat template; a text's target ends with the end-of-text token. Rows to predict need no target. With
    `predict_with_generate`, predictions are what the model writes after the prompt. Keywords of `evaluate` and
    `predict` go to `generate`.
    """

    def __init__(self, model: Any = None, args: Any = None, *place: Any, **more: Any) -> None:
        self._generation: dict[str, Any] = {}
        super().__init__(model, Seq2SeqTrainingArguments() if args is None else args, *place, **more)
        if not isinstance(self.args, Seq2SeqTrainingArguments):
            raise ArgumentError("args", "must be Seq2SeqTrainingArguments", found=type(self.args).__name__)

    def _hold(self, model: Any) -> None:
        super()._hold(model)
        if not isinstance(self.objective, CausalObjective):
            raise UnsupportedError(
                type(unwrapped(model)).__name__, "Seq2SeqTrainer trains decoders with an LM head",
                remedy="Load it with AutoModelForCausalLM; no encoder-decoder family exists here.",
            )  # fmt: skip
        self.objective = TargetObjective(unwrapped(model))

    def reader(self, is_training: bool) -> RowReader:
        found = super().reader(is_training)
        return TargetReader(found.tokenizer, None, found.context, found.vocab_size, is_training)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval",
        **generation: Any,
    ) -> dict[str, float]:  # fmt: skip
        """As `Trainer.evaluate`; keywords go to `generate`."""
        self._generation = generation
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test",
        **generation: Any,
    ) -> Any:  # fmt: skip
        """As `Trainer.predict`; keywords go to `generate`."""
        self._generation = generation
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Loss, generated ids `(B, N)` and the targets' ids of one batch; without generating, as `Trainer` does."""
        if not self.args.predict_with_generate or prediction_loss_only:  # type: ignore[attr-defined]
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if self.world.shards:
            raise UnsupportedError("predict_with_generate", "cannot go with fsdp: no rank has all weights")
        prompts, targets = split_rows(inputs)
        loss = None
        with torch.no_grad():
            if "labels" in inputs:
                loss = self.compute_loss(model, dict(inputs)).detach()
            made = self._generated(model, prompts)
        labels = None if "labels" not in inputs else _padded(targets, IGNORED, left=False)
        return loss, made, labels

    def _generated(self, model: Any, prompts: list[Tensor]) -> Tensor:
        args: Any = self.args
        pad = pad_id(self.processing_class)
        keywords: dict[str, Any] = {"pad_token_id": pad}
        if args.generation_max_length is not None:
            keywords["max_new_tokens"] = args.generation_max_length
        if args.generation_num_beams is not None:
            keywords["num_beams"] = args.generation_num_beams
        keywords |= self._generation
        if args.generation_config is not None:
            keywords.setdefault("generation_config", args.generation_config)
        ids = _padded(prompts, pad, left=True)
        mask = _padded([torch.ones_like(each) for each in prompts], 0, left=True)
        made: Tensor = model.generate(ids, attention_mask=mask, **keywords)
        return made[:, ids.shape[1] :]


class TargetObjective(CausalObjective):
    """A prompt and its target end to end, in which the target's labels are given, never made of the ids."""

    needs_labels = True

    def prepare(self, inputs: Inputs) -> Inputs:
        if "labels" not in inputs:
            raise TrainingDataError("batch", "must have targets", found=", ".join(sorted(inputs)))
        return super().prepare(inputs)


class TargetReader(RowReader):
    """A row -> ids of prompt and target end to end, and labels that are -100 on the prompt."""

    def read(self, row: Any, number: int) -> Any:
        if not isinstance(row, Mapping):
            raise TrainingDataError(f"row {number}", "must be a dict of columns", found=type(row).__name__)
        prompt, target = self._pair(row, number)
        if not prompt:
            raise TrainingDataError(f"row {number}", "a prompt must have a token", found="none")
        if not target and (self.needs_labels or target is not None):
            names = " or ".join(name for _, name in (*PAIRS, ("", "labels")))
            raise TrainingDataError(
                f"row {number}", f"must have a target with a token: {names}", found=", ".join(sorted(map(str, row)))
            )
        sample = {"input_ids": [*prompt, *(target or ())]}
        if target:
            sample["labels"] = [IGNORED] * len(prompt) + list(target)
        self._check(sample, number)
        return sample

    def _pair(self, row: Mapping[str, Any], number: int) -> tuple[list[int], list[int] | None]:
        if "input_ids" in row:
            mask = row.get("attention_mask")
            ids = _ints(row["input_ids"])
            prompt = ids if mask is None else [each for each, real in zip(ids, _ints(mask), strict=True) if real]
            labels = row.get("labels")
            return prompt, None if labels is None else [each for each in _ints(labels) if each != IGNORED]
        for source, aim in PAIRS:
            if source in row:
                if self.tokenizer is None:
                    raise TrainingDataError(
                        f"row {number}", "is text, and there is no tokenizer", found=", ".join(sorted(row)),
                        remedy="Pass processing_class=tokenizer.",
                    )  # fmt: skip
                answer = row.get(aim)
                nothing = "" if isinstance(row[source], str) else []
                before, after = encode_answer(
                    self.tokenizer, row[source], nothing if answer is None else answer, number
                )
                return before, None if answer is None else after
        raise TrainingDataError(
            f"row {number}", "must have input_ids and labels, text and text_target, or prompt and completion",
            found=", ".join(sorted(map(str, row))),
        )  # fmt: skip


def split_rows(inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
    """Each row's prompt and target, without padding; a row without labels is all prompt."""
    ids_BP, mask_BP = inputs["input_ids"], inputs["attention_mask"].bool()
    labels_BP = inputs.get("labels", torch.full_like(ids_BP, IGNORED))
    prompts = [ids[mask & (labels == IGNORED)] for ids, mask, labels in zip(ids_BP, mask_BP, labels_BP, strict=True)]
    return prompts, [labels[labels != IGNORED] for labels in labels_BP]


def _padded(rows: list[Tensor], fill: int, *, left: bool) -> Tensor:
    width = max(len(each) for each in rows)
    return torch.stack(
        [F.pad(each, (width - len(each), 0) if left else (0, width - len(each)), value=fill) for each in rows]
    )


def _ints(values: Any) -> list[int]:
    return [int(each) for each in values]
