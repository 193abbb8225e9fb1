"""What pipelines over one forward pass share: inputs read lazily, texts to rows, batches, keywords. Loads no model."""

# B rows, P padded width

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from martlet.errors import ArgumentError
from martlet.pipelines.inputs import Answers, batches
from martlet.pipelines.options import unknown_keyword

TOKENIZER_KEYWORDS = ("truncation", "max_length", "padding", "add_special_tokens")


class ForwardPipeline:
    """Texts through a tokenizer and a model, once each. A row's answer does not depend on `batch_size`.

    Keywords given to `pipeline` hold for every call, those of a call for that call; an unknown one is an ArgumentError.
    """

    task: ClassVar[str]
    needs: ClassVar[str]  # the class a model must be loaded with
    options: ClassVar[Mapping[str, Any]] = {}  # name -> default

    def __init__(self, model: Any, tokenizer: Any, *, task: str = "", device: Any = None, **keywords: Any) -> None:
        if not hasattr(model, "parts") or not self.takes(model):
            raise ArgumentError(
                f"{self.task} pipeline",
                f"needs a model of {self.needs}",
                found=type(model).__name__,
                remedy=f"Load it with martlet.{self.needs}.",
            )
        if not callable(tokenizer) or not callable(getattr(tokenizer, "decode", None)):
            raise ArgumentError("tokenizer", "must be a tokenizer", found=type(tokenizer).__name__)
        self.model, self.tokenizer = model.eval(), tokenizer
        self._given = self._read(keywords)
        if device is not None:
            from martlet.nn.devices import find_device

            model.to(find_device("cpu" if device == -1 else device))

    @classmethod
    def takes(cls, model: Any) -> bool:
        """Whether the model is of the kind this task needs."""
        raise NotImplementedError

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> Any:
        """The dtype of the model's weights."""
        return self.model.dtype

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model.name_or_path!r}, device={str(self.device)!r})"

    def __call__(self, inputs: Any, **keywords: Any) -> Any:
        """The answer to an input, a list of answers to a list, an iterator of them for a dataset or an iterator."""
        asked = {**self.defaults(), **self._given, **self._read(keywords)}
        self.check(asked)
        if self.is_one(inputs):
            return next(self._answers(iter([inputs]), asked))
        if isinstance(inputs, list | tuple):
            return list(self._answers(iter(inputs), asked))
        if not hasattr(inputs, "__iter__") and not hasattr(inputs, "__getitem__"):
            raise ArgumentError(f"{self.task} pipeline", "needs text", found=type(inputs).__name__)
        if isinstance(inputs, Iterator):
            return self._answers(inputs, asked)
        return Answers(lambda: self._answers(iter(inputs), asked), len(inputs) if hasattr(inputs, "__len__") else None)

    predict = transform = __call__

    def is_one(self, inputs: Any) -> bool:
        """Whether an input stands for itself, rather than for several."""
        return isinstance(inputs, str)

    def check(self, asked: Mapping[str, Any]) -> None:
        """ArgumentError for values of keywords that cannot be."""

    def answer(self, batch: Sequence[Any], asked: Mapping[str, Any]) -> list[Any]:
        """The answers to a batch, in order."""
        raise NotImplementedError

    def defaults(self) -> dict[str, Any]:
        return {"batch_size": 1, **self.options}

    def _read(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        known = {*self.defaults(), *TOKENIZER_KEYWORDS, "num_workers", "tokenizer_kwargs"}
        for name in keywords:
            if name not in known:
                raise unknown_keyword(f"{self.task} pipeline", name, sorted(known))
        size = keywords.get("batch_size", 1)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ArgumentError("batch_size", "must be a whole number of at least 1", found=repr(size))
        return {name: value for name, value in keywords.items() if name != "num_workers"}

    def _answers(self, items: Iterator[Any], asked: Mapping[str, Any]) -> Iterator[Any]:
        import torch

        for batch in batches(items, asked["batch_size"]):
            with torch.inference_mode():
                made = self.answer(batch, asked)
            yield from made

    def encode(self, texts: Sequence[Any], asked: Mapping[str, Any], **more: Any) -> list[Any]:
        """Each text's encoding by itself; a dict is `{"text", "text_pair"}`, a list of two a pair."""
        own = {name: asked[name] for name in TOKENIZER_KEYWORDS if name in asked and name != "padding"}
        own |= dict(asked.get("tokenizer_kwargs") or {}) | more
        own.pop("padding", None)  # rows meet the model without it
        encoded = []
        for place, text in enumerate(texts):
            if isinstance(text, Mapping) and set(text) <= {"text", "text_pair"} and "text" in text:
                encoded.append(self.tokenizer(text["text"], text.get("text_pair"), **own))
            elif isinstance(text, str) or own.get("is_split_into_words"):
                encoded.append(self.tokenizer(text, **own))
            else:
                raise ArgumentError(
                    f"{self.task} pipeline, input {place} of its batch",
                    'must be a string, or {"text": ..., "text_pair": ...}',
                    found=type(text).__name__,
                )
        return encoded

    def inputs_of(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Encodings as the padded tensors a model takes."""
        import torch

        width = max(len(row["input_ids"]) for row in rows)
        if min(len(row["input_ids"]) for row in rows) == 0:
            raise ArgumentError(f"{self.task} pipeline", "every text must have a token", found="an empty text")
        names = ["input_ids"]
        if all("token_type_ids" in row for row in rows) and not self.model.arch.causal:
            names += ["token_type_ids"] if self.model.arch.token_types else []
        out = {
            name: torch.tensor([[*row[name], *[0] * (width - len(row[name]))] for row in rows], device=self.device)
            for name in names
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in rows], device=self.device)
        return out | {"attention_mask": (torch.arange(width, device=self.device) < lengths[:, None]).long()}


def softmax(x: Any) -> Any:
    """Over the last axis, of a numpy array."""
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "softmax": softmax,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "none": lambda x: x,
}


def has_head(model: Any, task: str) -> bool:
    """Whether a model's head is of the task, named as `martlet.arch.Task` does."""
    head = model.parts.head
    return head is not None and head.task.value == task
