"""`FeatureExtractionPipeline`: a text's final hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from martlet.pipelines.encoder_tasks import ForwardPipeline


class FeatureExtractionPipeline(ForwardPipeline):
    """`pipe("text")` -> `[[[...], ...]]`: one row, its tokens, their states; with `return_tensors=True` a tensor."""

    task = "feature-extraction"
    needs = "AutoModel"
    options: ClassVar[Mapping[str, Any]] = {"return_tensors": False, "tokenize_kwargs": None}

    @classmethod
    def takes(cls, model: Any) -> bool:
        return model.parts.head is None and not model.parts.lm_head

    def answer(self, batch: Sequence[Any], asked: Mapping[str, Any]) -> list[Any]:
        rows = self.encode(batch, asked, **dict(asked["tokenize_kwargs"] or {}))
        states = self.model(**self.inputs_of(rows)).last_hidden_state
        kept = [states[row : row + 1, : len(each["input_ids"])] for row, each in enumerate(rows)]
        return kept if asked["return_tensors"] else [each.float().cpu().tolist() for each in kept]
