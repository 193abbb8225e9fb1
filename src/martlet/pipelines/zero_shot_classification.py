"""`ZeroShotClassificationPipeline`: labels that were never trained, by a model of natural language inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from martlet.errors import ArgumentError
from martlet.pipelines.encoder_tasks import ForwardPipeline, has_head, softmax


class ZeroShotClassificationPipeline(ForwardPipeline):
    """`pipe("text", candidate_labels=["news", "sport"])` -> `{"sequence", "labels", "scores"}`, the best label first.

    Each label is put into `hypothesis_template` ("This example is {}."); scores are the shares of entailment among the
    labels, or with `multi_label=True` of entailment against contradiction, each label for itself. Texts are cut to
    the model's length.
    """

    task = "zero-shot-classification"
    needs = "AutoModelForSequenceClassification"
    options: ClassVar[Mapping[str, Any]] = {
        "candidate_labels": None,
        "hypothesis_template": "This example is {}.",
        "multi_label": False,
    }

    @classmethod
    def takes(cls, model: Any) -> bool:
        return has_head(model, "sequence-classification")

    def __call__(  # type: ignore[override]  # as Hugging Face names them
        self, sequences: Any, candidate_labels: Any = None, **keywords: Any
    ) -> Any:
        """See the class."""
        given = {} if candidate_labels is None else {"candidate_labels": candidate_labels}
        return super().__call__(sequences, **given, **keywords)

    def check(self, asked: Mapping[str, Any]) -> None:
        template, labels = asked["hypothesis_template"], _labels(asked["candidate_labels"])
        if not labels:
            raise ArgumentError(
                "candidate_labels", "must name at least one label", found=repr(asked["candidate_labels"])
            )
        if template.format(labels[0]) == template:
            raise ArgumentError("hypothesis_template", "must have {} where the label goes", found=repr(template))
        self._entailment()

    def answer(self, batch: Sequence[Any], asked: Mapping[str, Any]) -> list[Any]:
        labels, template, out = _labels(asked["candidate_labels"]), asked["hypothesis_template"], []
        entails = self._entailment()
        for text in batch:
            pairs = [{"text": text, "text_pair": template.format(label)} for label in labels]
            encoded = self.encode(pairs, {"truncation": "only_first", **asked})
            logits = self.model(**self.inputs_of(encoded)).logits.float().cpu().numpy()
            if asked["multi_label"] or len(labels) == 1:
                scores = softmax(logits[:, [-1 if entails == 0 else 0, entails]])[:, 1]
            else:
                scores = softmax(logits[:, entails])
            order = np.argsort(scores)[::-1]
            named = {"labels": [labels[place] for place in order], "scores": [float(scores[place]) for place in order]}
            out.append({"sequence": text, **named})
        return out

    def _entailment(self) -> int:
        """The number of the label that says a hypothesis follows."""
        for name, number in self.model.config.label2id.items():
            if name.lower().startswith("entail"):
                return int(number)
        raise ArgumentError(
            f"{self.task} pipeline",
            "needs a model of natural language inference: one with a label 'entailment'",
            found=", ".join(self.model.config.label2id),
        )


def _labels(given: Any) -> list[str]:
    if isinstance(given, str):
        return [label.strip() for label in given.split(",") if label.strip()]
    return list(given or ())
