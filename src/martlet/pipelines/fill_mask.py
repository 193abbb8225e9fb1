"""`FillMaskPipeline`: the likeliest tokens for a text's masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from martlet.errors import ArgumentError
from martlet.pipelines.encoder_tasks import ForwardPipeline


class FillMaskPipeline(ForwardPipeline):
    """`pipe("Paris is the [MASK] of France.")` -> `[{"score", "token", "token_str", "sequence"}, ...]`, best first.

    A text of several masks gives a list of such lists. `top_k` (5) of them; `targets` are the only tokens considered.
    """

    task = "fill-mask"
    needs = "AutoModelForMaskedLM"
    options: ClassVar[Mapping[str, Any]] = {"top_k": 5, "targets": None}

    @classmethod
    def takes(cls, model: Any) -> bool:
        return bool(model.parts.lm_head) and not model.arch.causal

    def check(self, asked: Mapping[str, Any]) -> None:
        if isinstance(asked["top_k"], bool) or not isinstance(asked["top_k"], int) or asked["top_k"] < 1:
            raise ArgumentError("top_k", "must be a whole number of at least 1", found=repr(asked["top_k"]))
        if self.tokenizer.mask_token_id is None:
            raise ArgumentError("fill-mask pipeline", "needs a tokenizer with a mask token")

    def answer(self, batch: Sequence[Any], asked: Mapping[str, Any]) -> list[Any]:
        encoded = self.encode(batch, asked)
        places = [self._masks(row["input_ids"], text) for row, text in zip(encoded, batch, strict=True)]
        logits = self.model(**self.inputs_of(encoded)).logits.float()
        return [self._of_row(encoded[row]["input_ids"], logits[row], places[row], asked) for row in range(len(encoded))]

    def _masks(self, ids: Sequence[int], text: Any) -> list[int]:
        found = [place for place, number in enumerate(ids) if number == self.tokenizer.mask_token_id]
        if not found:
            raise ArgumentError(
                "fill-mask pipeline", f"a text must have a mask ({self.tokenizer.mask_token})", found=repr(text)[:60]
            )
        return found

    def _of_row(self, ids: Sequence[int], logits: Any, places: Sequence[int], asked: Mapping[str, Any]) -> list[Any]:
        shares = logits[list(places)].softmax(-1)
        targets = None if asked["targets"] is None else self._target_ids(asked["targets"])
        if targets is not None:
            shares = shares[:, targets]
        best = shares.topk(min(asked["top_k"], shares.shape[-1]))
        answers: list[list[dict[str, Any]]] = []
        for row, place in enumerate(places):
            answers.append([])
            for score, column in zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True):
                token = column if targets is None else targets[column]
                filled = list(ids)
                filled[place] = token
                answers[-1].append(
                    {
                        "score": score,
                        "token": token,
                        "token_str": self.tokenizer.decode([token]),
                        "sequence": self.tokenizer.decode(filled, skip_special_tokens=len(places) == 1),
                    }
                )
        return answers[0] if len(places) == 1 else answers

    def _target_ids(self, targets: Any) -> list[int]:
        vocab, out = self.tokenizer.get_vocab(), []
        for target in [targets] if isinstance(targets, str) else targets:
            number = vocab.get(target)
            if number is None:
                raise ArgumentError("targets", "must be tokens of the vocabulary", found=repr(target))
            out.append(number)
        return list(dict.fromkeys(out))
