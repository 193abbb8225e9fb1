"""Direct preference optimisation (Rafailov et al. 2023): a chosen answer over a rejected one, by a reference model."""

# B pairs; a batch holds 2 B rows: the chosen answers, then the rejected ones

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.errors import ArgumentError, TrainingDataError
from martlet.nn.decoder import CausalLM, Trace, run_padded
from martlet.training.collators import pad_batch, pad_id
from martlet.training.losses import IGNORED, token_losses
from martlet.training.objectives import CausalObjective, Inputs, logits_of, unwrapped
from martlet.training.samples import RowReader, encode_answer
from martlet.training.trainer import Trainer

LOSSES = ("sigmoid", "ipo", "hinge")


class DPOTrainer(Trainer):
    """Trains on pairs: rows of `prompt`, `chosen`, `rejected`, as text, or as messages for a chat template.

    `ref_model` stays as it is; without one, a model with adapters is its own reference with them switched off, and
    any other needs one. `beta` is the strength of the pull towards the reference; `loss_type` sigmoid, ipo or hinge.
    """

    def __init__(
        self,
        model: Any = None,
        ref_model: Any = None,
        args: Any = None,
        *,
        beta: float = 0.1,
        loss_type: str = "sigmoid",
        label_smoothing: float = 0.0,
        **more: Any,
    ) -> None:
        if beta <= 0:
            raise ArgumentError("beta", "must be above 0", found=beta)
        if loss_type not in LOSSES:
            raise ArgumentError("loss_type", f"must be one of {', '.join(LOSSES)}", found=repr(loss_type))
        if not 0 <= label_smoothing < 0.5:
            raise ArgumentError("label_smoothing", "must be at least 0 and below 0.5", found=label_smoothing)
        if ref_model is None and not hasattr(model, "disable_adapter"):
            raise ArgumentError("ref_model", "is needed, unless the model has adapters to switch off")
        if ref_model is model and model is not None:
            raise ArgumentError("ref_model", "must be another object than the model", found="the model itself")
        self.beta, self.loss_type, self.smoothing = beta, loss_type, label_smoothing
        if more.get("data_collator") is not None:
            raise ArgumentError("data_collator", "cannot be given: pairs are put together here")
        super().__init__(model, args, **more)
        if not hasattr(self.processing_class, "pad_token_id"):
            raise ArgumentError("processing_class", "must be a tokenizer")
        self.ref_model = ref_model
        if ref_model is not None:
            self.ref_model = ref_model.to(self.world.device).eval()
            for parameter in self.ref_model.parameters():
                parameter.requires_grad_(False)
        self.objective = PairObjective(unwrapped(self.model))
        self.data_collator = _Pairs(pad_id(self.processing_class))

    def reader(self, is_training: bool) -> RowReader:
        config = getattr(unwrapped(self.model), "config", None)
        arch = getattr(config, "arch", None)
        context = arch.max_position_embeddings if arch is not None else 0
        return PairReader(self.processing_class, None, context, arch.vocab_size if arch is not None else 0)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum over the pairs of -log sigmoid(beta * (how much more the model prefers the chosen answer))."""
        own = answer_log_probs(model, inputs)
        with torch.no_grad():
            if self.ref_model is not None:
                reference = answer_log_probs(self.ref_model, inputs)
            else:
                with model.disable_adapter():
                    reference = answer_log_probs(model, inputs)
        gain_2B = own - reference
        chosen_B, rejected_B = gain_2B.chunk(2)
        loss = self._losses(chosen_B - rejected_B).sum() / (num_items_in_batch or len(chosen_B))
        rewards = torch.stack((chosen_B, rejected_B), 1).detach() * self.beta
        return (loss, {"loss": loss, "logits": rewards}) if return_outputs else loss

    def _losses(self, margin_B: Tensor) -> Tensor:
        if self.loss_type == "ipo":  # Azar et al. 2023
            return (margin_B - 1 / (2 * self.beta)).square()
        if self.loss_type == "hinge":
            return torch.relu(1 - self.beta * margin_B)
        wrong = self.smoothing
        return -F.logsigmoid(self.beta * margin_B) * (1 - wrong) - F.logsigmoid(-self.beta * margin_B) * wrong


class PairObjective(CausalObjective):
    """Counts pairs; their loss is `DPOTrainer.compute_loss`."""

    def prepare(self, inputs: Inputs) -> Inputs:
        self.check(inputs)
        return inputs

    def count(self, inputs: Inputs) -> int:
        return len(inputs["input_ids"]) // 2


class PairReader(RowReader):
    """A row -> ids and labels of both answers, the prompt's labels -100."""

    def read(self, row: Any, number: int) -> Any:
        if not isinstance(row, Mapping) or not {"prompt", "chosen", "rejected"} <= row.keys():
            found = sorted(row) if isinstance(row, Mapping) else type(row).__name__
            raise TrainingDataError(f"row {number}", "must have prompt, chosen and rejected", found=found)
        return {name: self._answer(row["prompt"], row[name], number) for name in ("chosen", "rejected")}

    def _answer(self, prompt: Any, answer: Any, number: int) -> dict[str, list[int]]:
        before, after = encode_answer(self.tokenizer, prompt, answer, number)
        if not after:
            raise TrainingDataError(f"row {number}", "an answer must have a token", found="none")
        sample = {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}
        self._check(sample, number)
        return sample


class _Pairs:
    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return pad_batch([row["chosen"] for row in rows] + [row["rejected"] for row in rows], self.pad_token_id)


def answer_log_probs(model: nn.Module, inputs: Inputs) -> Tensor:
    """`(2 B,)`: log-probability of each row's supervised tokens, summed."""
    targets_T, inner = CausalObjective.targets(inputs), unwrapped(model)
    mask_BP = inputs["attention_mask"]
    kept = (targets_T != IGNORED).nonzero()[:, 0]
    if isinstance(inner, CausalLM):
        _, out_TD, _ = run_padded(inner.model, inputs["input_ids"], mask_BP, None, None, None, False, Trace())
        logits = inner.logits(out_TD[kept])
    else:
        out = logits_of(model(input_ids=inputs["input_ids"], attention_mask=mask_BP))
        logits = (out.flatten(0, 1) if bool(mask_BP.all()) else out[mask_BP.bool()])[kept]
    losses = token_losses(logits, targets_T[kept].to(logits.device))
    rows = torch.arange(len(mask_BP)).repeat_interleave(mask_BP.sum(1).cpu())[kept].to(losses.device)
    return -torch.zeros(len(mask_BP), device=losses.device).index_add(0, rows, losses)
