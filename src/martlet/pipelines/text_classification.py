"""`TextClassificationPipeline`: texts to labels and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from martlet.errors import ArgumentError
from martlet.pipelines.encoder_tasks import FUNCTIONS, ForwardPipeline, has_head

UNSET = ""  # as Hugging Face's: None asks for every label


class TextClassificationPipeline(ForwardPipeline):
    """`pipe("I love it")` -> `[{"label": "POSITIVE", "score": 0.99}]`; a list of texts gives a list of such dicts.

    A text may be `{"text": ..., "text_pair": ...}`. `top_k` n gives the n best labels as a list, None all of them;
    `function_to_apply` "softmax", "sigmoid" or "none", by default as the model's problem_type and labels ask.
    """

    task = "text-classification"
    needs = "AutoModelForSequenceClassification"
    options: ClassVar[Mapping[str, Any]] = {"top_k": UNSET, "function_to_apply": None}

    @classmethod
    def takes(cls, model: Any) -> bool:
        return has_head(model, "sequence-classification")

    def __call__(self, inputs: Any, **keywords: Any) -> Any:
        """See the class."""
        result = super().__call__(inputs, **keywords)
        return [result] if isinstance(inputs, str) and "top_k" not in keywords else result

    def is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, str | Mapping)

    def check(self, asked: Mapping[str, Any]) -> None:
        function, top_k = asked["function_to_apply"], asked["top_k"]
        if function is not None and str(function).lower() not in FUNCTIONS:
            raise ArgumentError("function_to_apply", f"must be one of {', '.join(FUNCTIONS)}", found=repr(function))
        if top_k not in (UNSET, None) and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ArgumentError("top_k", "must be a whole number of at least 1, or None", found=repr(top_k))

    def answer(self, batch: Sequence[Any], asked: Mapping[str, Any]) -> list[Any]:
        logits = self.model(**self.inputs_of(self.encode(batch, asked))).logits.float().cpu().numpy()
        scores_BC = FUNCTIONS[str(asked["function_to_apply"] or self._function()).lower()](logits)
        names, out = self.model.config.id2label, []
        for scores in scores_BC:
            best = [
                {"label": names[int(place)], "score": float(scores[place])}
                for place in (-scores).argsort(kind="stable")
            ]
            out.append(best[0] if asked["top_k"] == UNSET else best[: asked["top_k"]])
        return out

    def _function(self) -> str:
        problem, num_labels = self.model.config.problem_type, self.model.config.num_labels
        if problem == "regression":
            return "none"
        return "sigmoid" if problem == "multi_label_classification" or num_labels == 1 else "softmax"
