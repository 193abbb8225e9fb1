"""What a model learns: each objective's supervised items, its summed loss, and labels that cannot be meant."""

# B rows, P padded width, T tokens of all rows end to end, S supervised tokens, D hidden size, V vocabulary, C classes

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from martlet.errors import ArgumentError, TrainingDataError, UnsupportedError
from martlet.nn.decoder import CausalLM, Trace, run_padded
from martlet.training.losses import (
    IGNORED,
    cross_entropy_sum,
    head_cross_entropy_sum,
    multi_label_sum,
    squared_error_sum,
)

Inputs = dict[str, Any]
_NOT_TAKEN = ("labels", "start_positions", "end_positions")


class Objective:
    """`count` items a batch supervises, and the sum of their losses: sums of any cut of a batch add up alike."""

    needs_labels = True
    names: tuple[str, ...] = ("labels",)

    def __init__(self, model: nn.Module) -> None:
        self.config: Any = getattr(model, "config", None)

    def prepare(self, inputs: Inputs) -> Inputs:
        """The batch with its labels; TrainingDataError for labels that cannot be meant."""
        for name in self.names:
            if name not in inputs:
                raise TrainingDataError("batch", f"must have {name!r}", found=", ".join(sorted(inputs)))
        self.check_tokens(inputs)
        self.check(inputs)
        return inputs

    def check(self, inputs: Inputs) -> None: ...

    def check_tokens(self, inputs: Inputs) -> None:
        """TrainingDataError for a batch that a model of ours cannot read: one that a user's collator made."""
        arch, ids, types = getattr(self.config, "arch", None), inputs.get("input_ids"), inputs.get("token_type_ids")
        if arch is None or not isinstance(ids, Tensor) or not ids.numel():
            return
        _check_range("input_ids", ids, arch.vocab_size, "Is it the tokenizer of this model?")
        mask = inputs.get("attention_mask")
        width = int(mask.sum(-1).max()) if isinstance(mask, Tensor) else ids.shape[-1]
        if arch.max_position_embeddings and width > arch.max_position_embeddings:
            raise TrainingDataError(
                "batch", f"must be within the model's context of {arch.max_position_embeddings} tokens",
                found=f"a row of {width}", remedy="Tokenize with truncation=True, or cut it into several rows.",
            )  # fmt: skip
        if isinstance(types, Tensor):
            if types.shape != ids.shape:
                found = f"{list(types.shape)} for ids of {list(ids.shape)}"
                raise TrainingDataError("token_type_ids", "must have one for each token", found=found)
            if arch.token_types:
                _check_range("token_type_ids", types, arch.token_types)

    def count(self, inputs: Inputs) -> int:
        labels = inputs[self.names[0]]
        return int((labels != IGNORED).sum()) if labels.dtype == torch.int64 else len(labels)

    def loss_sum(self, model: nn.Module, inputs: Inputs, smoothing: float, wants_outputs: bool) -> tuple[Tensor, Any]:
        outputs = model(**{name: value for name, value in inputs.items() if name not in _NOT_TAKEN})
        return self.of_outputs(outputs, inputs, smoothing), outputs

    def of_outputs(self, outputs: Any, inputs: Inputs, smoothing: float) -> Tensor:
        raise NotImplementedError

    @property
    def num_labels(self) -> int:
        config = self.config
        labels = config.get("id2label") if hasattr(config, "get") else getattr(config, "id2label", None)
        found = config.get("num_labels") if hasattr(config, "get") else getattr(config, "num_labels", None)
        return int(found or (len(labels) if labels else 2))


def logits_of(outputs: Any) -> Tensor:
    """The logits of whatever a model returned."""
    if isinstance(outputs, dict):
        return outputs["logits"]  # type: ignore[no-any-return]
    logits: Tensor | None = getattr(outputs, "logits", None)
    return outputs[0] if logits is None else logits


def loss_of(outputs: Any) -> Tensor | None:
    """The loss among what a model returned: by name, or the single number that a tuple begins with."""
    if isinstance(outputs, tuple | list) and not hasattr(outputs, "loss"):
        first = outputs[0] if outputs else None
        return first if isinstance(first, Tensor) and first.ndim == 0 else None
    return outputs.get("loss") if isinstance(outputs, dict) else getattr(outputs, "loss", None)


def _check_ids(labels: Tensor, num_labels: int, remedy: str = "Set num_labels= when the model is made.") -> None:
    if labels.dtype != torch.int64:
        raise TrainingDataError("labels", "must be whole numbers: the ids of classes", found=str(labels.dtype))
    real = labels[labels != IGNORED]
    if len(real) and (int(real.min()) < 0 or int(real.max()) >= num_labels):
        bad = int(real.min() if int(real.min()) < 0 else real.max())
        raise TrainingDataError(
            "labels", f"must be at least 0 and below {num_labels}, or -100", found=bad, remedy=remedy,
        )  # fmt: skip


def _check_range(name: str, values: Tensor, limit: int, remedy: str = "") -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= limit:
        raise TrainingDataError(
            name, f"must be at least 0 and below {limit}", found=low if low < 0 else high, remedy=remedy
        )


def _check_places(inputs: Inputs) -> None:
    """Labels are one for each token."""
    ids, labels = inputs.get("input_ids"), inputs["labels"]
    if ids is not None and ids.shape != labels.shape:
        found = f"{list(labels.shape)} for ids of {list(ids.shape)}"
        raise TrainingDataError("labels", "must have a label for each token", found=found)


class CausalObjective(Objective):
    """Each next token. Our own models take the ragged way: no padding and no unsupervised token meets the head."""

    needs_labels = False

    def prepare(self, inputs: Inputs) -> Inputs:
        if "labels" not in inputs:
            if "input_ids" not in inputs:
                raise TrainingDataError("batch", "must have 'input_ids' or 'labels'", found=", ".join(sorted(inputs)))
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")
            inputs["labels"] = ids.clone() if mask is None else ids.masked_fill(mask == 0, IGNORED)
        self.check_tokens(inputs)
        self.check(inputs)
        return inputs

    def check(self, inputs: Inputs) -> None:
        config = self.config
        vocab = config.arch.vocab_size if hasattr(config, "arch") else getattr(config, "vocab_size", 1 << 62)
        _check_places(inputs)
        _check_ids(inputs["labels"], vocab)

    def count(self, inputs: Inputs) -> int:
        return int((self.targets(inputs) != IGNORED).sum())

    @staticmethod
    def targets(inputs: Inputs) -> Tensor:
        """`(T,)`: the label of each real token's next one in its row, -100 for a row's last."""
        labels_BP, mask_BP = inputs["labels"], inputs.get("attention_mask")
        if mask_BP is None or bool(mask_BP.all()):
            real = labels_BP
            targets = torch.full_like(real, IGNORED)
            targets[:, :-1] = real[:, 1:]
            return targets.flatten()
        real_BP = mask_BP.bool()
        targets_T = torch.roll(labels_BP[real_BP], -1)
        targets_T[real_BP.sum(1).cumsum(0) - 1] = IGNORED
        return targets_T

    def loss_sum(self, model: nn.Module, inputs: Inputs, smoothing: float, wants_outputs: bool) -> tuple[Tensor, Any]:
        inner = unwrapped(model)
        if wants_outputs or not isinstance(inner, CausalLM):
            return super().loss_sum(model, inputs, smoothing, wants_outputs)
        unknown = inputs.keys() - {"input_ids", "attention_mask", "position_ids", "inputs_embeds", "labels"}
        if unknown:
            raise ArgumentError("model call", "a causal LM does not take it", found=", ".join(sorted(unknown)))
        _, out_TD, _ = run_padded(
            inner.model, inputs.get("input_ids"), inputs.get("attention_mask"), inputs.get("position_ids"), None,
            inputs.get("inputs_embeds"), False, Trace(),
        )  # fmt: skip
        targets_T = self.targets(inputs).to(out_TD.device)
        kept_S = (targets_T != IGNORED).nonzero()[:, 0]
        hidden_SD = out_TD if len(kept_S) == len(out_TD) else out_TD[kept_S]
        labels_S = targets_T[kept_S]
        head, arch = inner.lm_head, inner.arch
        if type(head) is not nn.Linear:  # adapted: the head has a forward of its own
            return cross_entropy_sum(inner.logits(hidden_SD), labels_S, smoothing), None
        loss = head_cross_entropy_sum(
            hidden_SD, head.weight, head.bias, labels_S, scale=arch.logit_scale, softcap=arch.logit_softcap,
            smoothing=smoothing,
        )  # fmt: skip
        return loss, None

    def of_outputs(self, outputs: Any, inputs: Inputs, smoothing: float) -> Tensor:
        logits_BPV, mask_BP = logits_of(outputs), inputs.get("attention_mask")
        flat = logits_BPV.flatten(0, 1) if mask_BP is None else logits_BPV[mask_BP.bool()]
        return cross_entropy_sum(flat, self.targets(inputs).to(flat.device), smoothing)


class TokenObjective(Objective):
    """A class, or a masked token, for each token: token classification and masked LM."""

    def check(self, inputs: Inputs) -> None:
        _check_places(inputs)
        _check_ids(inputs["labels"], self.num_labels)

    def of_outputs(self, outputs: Any, inputs: Inputs, smoothing: float) -> Tensor:
        logits = logits_of(outputs)
        return cross_entropy_sum(logits.flatten(0, 1), inputs["labels"].flatten().to(logits.device), smoothing)


class MaskedObjective(TokenObjective):
    def check(self, inputs: Inputs) -> None:
        config = self.config
        _check_places(inputs)
        _check_ids(inputs["labels"], config.arch.vocab_size if hasattr(config, "arch") else config.vocab_size)


class SequenceObjective(Objective):
    """One answer a row: a class, several classes (`problem_type` "multi_label_classification"), or numbers."""

    def problem(self, labels: Tensor) -> str:
        """As Hugging Face tells them: by `problem_type`, else one label is regression, whole numbers are classes."""
        if self.said:
            return self.said
        if self.num_labels == 1:
            return "regression"
        return "single_label_classification" if labels.dtype == torch.int64 else "multi_label_classification"

    @property
    def said(self) -> str:
        """The config's `problem_type`, or none."""
        config = self.config
        found = config.get("problem_type") if hasattr(config, "get") else getattr(config, "problem_type", None)
        return str(found or "")

    def check(self, inputs: Inputs) -> None:
        labels, num = inputs["labels"], self.num_labels
        match self.problem(labels):
            case "single_label_classification":
                if labels.ndim != 1:
                    raise TrainingDataError("labels", "must be one class a row", found=f"shape {list(labels.shape)}")
                _check_ids(labels, num)
            case "multi_label_classification":
                if labels.ndim == 1 and not self.said:
                    raise TrainingDataError(
                        "labels", "must be whole numbers, the ids of classes, or several zeros and ones a row",
                        found=f"{str(labels.dtype).removeprefix('torch.')} {float(labels[0]):g}",
                        remedy="Numbers to be met are regression: num_labels=1.",
                    )  # fmt: skip
                rule = f"must be {num} zeros and ones a row"
                if labels.ndim != 2 or labels.shape[1] != num:
                    raise TrainingDataError("labels", rule, found=f"shape {list(labels.shape)}")
                odd = labels[(labels != 0) & (labels != 1)]
                if len(odd):
                    raise TrainingDataError("labels", rule, found=f"{float(odd[0]):g}")
            case "regression":
                rule = f"must be {num} finite numbers a row" if num > 1 else "must be one finite number a row"
                if labels.numel() != len(labels) * num:
                    raise TrainingDataError("labels", rule, found=f"shape {list(labels.shape)}")
                odd = labels[~torch.isfinite(labels.float())]
                if len(odd):
                    raise TrainingDataError("labels", rule, found=f"{float(odd[0]):g}")
            case other:
                raise ArgumentError("problem_type", "is not one there is", found=repr(other))

    def count(self, inputs: Inputs) -> int:
        labels = inputs["labels"]
        if self.problem(labels) == "single_label_classification":
            return int((labels != IGNORED).sum())
        return len(labels)

    def of_outputs(self, outputs: Any, inputs: Inputs, smoothing: float) -> Tensor:
        logits = logits_of(outputs)
        labels = inputs["labels"].to(logits.device)
        problem = self.problem(labels)
        if problem == "single_label_classification":
            return cross_entropy_sum(logits, labels, smoothing)
        return multi_label_sum(logits, labels) if problem.startswith("multi") else squared_error_sum(logits, labels)


class QuestionObjective(Objective):
    """Where an answer starts and ends among the tokens: the mean of both cross-entropies a row."""

    names = ("start_positions", "end_positions")

    def check(self, inputs: Inputs) -> None:
        for name in self.names:
            if inputs[name].dtype != torch.int64 or int(inputs[name].min()) < 0:
                raise TrainingDataError(name, "must be places of tokens", found=inputs[name].tolist()[:4])

    def count(self, inputs: Inputs) -> int:
        return len(inputs["start_positions"])

    def of_outputs(self, outputs: Any, inputs: Inputs, smoothing: float) -> Tensor:
        total: Any = 0.0
        for scores, name in zip((outputs.start_logits, outputs.end_logits), self.names, strict=True):
            # an answer that was truncated away has a place past the end, and is not learnt
            places = inputs[name].to(scores.device)
            places = places.masked_fill(places >= scores.shape[1], IGNORED)
            if "attention_mask" in inputs:
                scores = scores.masked_fill(inputs["attention_mask"].to(scores.device) == 0, float("-inf"))
            total = total + cross_entropy_sum(scores, places, smoothing) / 2
        return total  # type: ignore[no-any-return]


class ChoiceObjective(Objective):
    """The right one of a row's choices."""

    def check(self, inputs: Inputs) -> None:
        if inputs["labels"].ndim != 1:
            raise TrainingDataError(
                "labels", "must be the place of one choice a row", found=f"shape {list(inputs['labels'].shape)}"
            )
        if "input_ids" in inputs:
            _check_ids(inputs["labels"], inputs["input_ids"].shape[1], "A label is the place of a row's right choice.")

    def of_outputs(self, outputs: Any, inputs: Inputs, smoothing: float) -> Tensor:
        logits = logits_of(outputs)
        return cross_entropy_sum(logits, inputs["labels"].to(logits.device), smoothing)


class OwnObjective(Objective):
    """A module that returns its own loss, a mean over the batch's items."""

    needs_labels = False

    def prepare(self, inputs: Inputs) -> Inputs:
        return inputs

    def count(self, inputs: Inputs) -> int:
        labels = inputs.get("labels")
        if isinstance(labels, Tensor):
            return int((labels != IGNORED).sum()) if labels.dtype == torch.int64 else len(labels)
        return len(next(value for value in inputs.values() if isinstance(value, Tensor)))

    def loss_sum(self, model: nn.Module, inputs: Inputs, smoothing: float, wants_outputs: bool) -> tuple[Tensor, Any]:
        if smoothing:
            raise UnsupportedError(
                "label_smoothing_factor", f"{type(model).__name__} computes a loss of its own",
                remedy="Pass compute_loss_func.",
            )  # fmt: skip
        outputs = model(**inputs)
        loss = loss_of(outputs)
        if loss is None:
            raise TrainingDataError(
                type(model).__name__, "gave no loss", remedy="Give it labels, or pass compute_loss_func."
            )
        return loss * self.count(inputs), outputs


def unwrapped(model: Any) -> Any:
    """The model inside adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


_KINDS: tuple[tuple[str, type[Objective]], ...] = (
    ("CausalLM", CausalObjective),
    ("LMHead", CausalObjective),
    ("MaskedLM", MaskedObjective),
    ("TokenClassification", TokenObjective),
    ("SequenceClassification", SequenceObjective),
    ("QuestionAnswering", QuestionObjective),
    ("MultipleChoice", ChoiceObjective),
)


def find_objective(model: nn.Module) -> Objective:
    """The objective of a model, by the head in its class's name; a module of another name brings its own loss."""
    inner = unwrapped(model)
    names = [kind.__name__ for kind in type(inner).__mro__]
    config = getattr(inner, "config", None)
    if getattr(config, "is_encoder_decoder", False) or any("ConditionalGeneration" in name for name in names):
        raise UnsupportedError(
            type(inner).__name__, "is an encoder-decoder, and no such family exists here",
            remedy="Train a decoder on prompts and targets with Seq2SeqTrainer.",
        )  # fmt: skip
    for name in names:
        for word, kind in _KINDS:
            if word in name:
                return kind(inner)
    return OwnObjective(inner)
