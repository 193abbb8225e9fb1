"""`QuestionAnsweringPipeline`: the span of a context that answers a question, in the form transformers 4 gave it."""

# T tokens of one window

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from martlet.errors import ArgumentError
from martlet.pipelines.encoder_tasks import ForwardPipeline, has_head, softmax

LIMITS = ("top_k", "max_answer_len", "doc_stride")


class QuestionAnsweringPipeline(ForwardPipeline):
    """`pipe(question=..., context=...)` -> `{"score", "start", "end", "answer"}`; start and end are characters.

    The score of a span is its start's share times its end's, of the context's tokens. `top_k` n gives the n best as a
    list; `max_answer_len` (15) tokens at most; a long context is read in windows that overlap by `doc_stride` (128)
    tokens, of `max_seq_len` (384) tokens at most. `handle_impossible_answer` lets "" compete.
    """

    task = "question-answering"
    needs = "AutoModelForQuestionAnswering"
    options: ClassVar[Mapping[str, Any]] = {
        "top_k": 1,
        "max_answer_len": 15,
        "doc_stride": 128,
        "max_seq_len": 384,
        "handle_impossible_answer": False,
    }

    @classmethod
    def takes(cls, model: Any) -> bool:
        return has_head(model, "question-answering")

    def __call__(self, inputs: Any = None, *, question: Any = None, context: Any = None, **keywords: Any) -> Any:
        """See the class; `inputs` may be `{"question", "context"}`, or a list of such."""
        if inputs is None:
            if question is None or context is None:
                raise ArgumentError("question-answering pipeline", "needs a question and a context")
            if isinstance(question, str):
                inputs = {"question": question, "context": context}
            else:
                contexts = [context] * len(question) if isinstance(context, str) else context
                inputs = [{"question": one, "context": each} for one, each in zip(question, contexts, strict=True)]
        return super().__call__(inputs, **keywords)

    def is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, Mapping)

    def check(self, asked: Mapping[str, Any]) -> None:
        for name in LIMITS:
            if isinstance(asked[name], bool) or not isinstance(asked[name], int) or asked[name] < 1:
                raise ArgumentError(name, "must be a whole number of at least 1", found=repr(asked[name]))

    def answer(self, batch: Sequence[Any], asked: Mapping[str, Any]) -> list[Any]:
        out = []
        for item in batch:
            if not isinstance(item, Mapping) or {"question", "context"} - set(item):
                raise ArgumentError("question-answering pipeline", "needs question and context", found=repr(item)[:60])
            if not item["question"] or not item["context"]:
                raise ArgumentError("question-answering pipeline", "question and context must not be empty")
            found = self._spans(item["question"], item["context"], asked)[: asked["top_k"]]
            out.append(found[0] if asked["top_k"] == 1 else found)
        return out

    def _spans(self, question: str, context: str, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        longest = min(asked["max_seq_len"], self.model.arch.max_position_embeddings)
        limits = {"max_length": longest, "stride": min(asked["doc_stride"], longest // 2), "truncation": "only_second"}
        windows = self.tokenizer(
            [question], [context], return_offsets_mapping=True, return_overflowing_tokens=True, **limits
        )
        best: dict[tuple[int, int], float] = {}
        empty = 1.0
        for row in range(len(windows["input_ids"])):
            names = [name for name in ("input_ids", "token_type_ids") if name in windows]
            out = self.model(**self.inputs_of([{name: windows[name][row] for name in names}]))
            inside = np.array([part == 1 for part in windows.sequence_ids(row)])
            allowed = inside.copy()
            if asked["handle_impossible_answer"]:
                allowed[0] = True
            start_T, end_T = (
                softmax(np.where(allowed, each[0].float().cpu().numpy(), -np.inf))
                for each in (out.start_logits, out.end_logits)
            )
            empty = min(empty, float(start_T[0] * end_T[0]))
            offsets = windows["offset_mapping"][row]
            shares = np.triu(np.outer(np.where(inside, start_T, 0), np.where(inside, end_T, 0)))
            shares = np.tril(shares, asked["max_answer_len"] - 1)
            for flat in np.argsort(-shares, axis=None, kind="stable")[: 4 * asked["top_k"]]:
                first, last = divmod(int(flat), len(inside))
                if shares[first, last] > 0:
                    place = (offsets[first][0], offsets[last][1])
                    best[place] = max(best.get(place, 0.0), float(shares[first, last]))
        spans = [{"score": score, "start": a, "end": b, "answer": context[a:b]} for (a, b), score in best.items()]
        if asked["handle_impossible_answer"]:
            spans.append({"score": empty, "start": 0, "end": 0, "answer": ""})
        return sorted(spans, key=lambda span: -span["score"])
