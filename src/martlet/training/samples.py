"""Rows of a dataset -> samples a model takes: text and chats tokenized, columns chosen, bad rows refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from martlet.errors import ChatTemplateError, TrainingDataError
from martlet.training.losses import IGNORED

Row = dict[str, Any]
LABELS = ("labels", "label", "label_ids")
INPUTS = ("input_ids", "inputs_embeds")


@dataclass(frozen=True)
class RowReader:
    """Reads rows for one model. `context` in tokens and `vocab_size` are 0 where the model does not say."""

    tokenizer: Any
    columns: frozenset[str] | None  # what the model takes; None: every column is kept
    context: int = 0
    vocab_size: int = 0
    needs_labels: bool = False  # the objective's labels are a column of their own
    label_names: tuple[str, ...] = LABELS
    learns_text: bool = False  # the labels of a text are its own tokens
    has_choices: bool = False  # a row's ids are a list for each choice

    def read(self, row: Any, number: int) -> Any:
        """The sample of row `number`. TrainingDataError says what is wrong with it."""
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, Mapping):
            if self.columns is None:
                return row
            raise TrainingDataError(
                f"row {number}", "must be a dict of columns, or text", found=type(row).__name__,
                remedy="Pass a data_collator that reads it, with remove_unused_columns=False.",
            )  # fmt: skip
        sample = self._tokenized(dict(row), number)
        if self.columns is not None:
            kept = {name: value for name, value in sample.items() if name in self.columns and value is not None}
            if not kept:
                raise TrainingDataError(
                    f"row {number}", "has no column the model takes", found=", ".join(sorted(map(str, row))),
                    remedy=f"It takes {', '.join(sorted(self.columns))}.",
                )  # fmt: skip
            sample = kept
        self._check(sample, number)
        return sample

    def _tokenized(self, row: Row, number: int) -> Row:
        if any(name in row for name in INPUTS) or not ({"messages", "text"} & row.keys()):
            return row
        if self.columns is not None and (self.columns - set(self.label_names)) & (row.keys() - {"text", "messages"}):
            return row  # the model's inputs are there; the text is a column like any other
        if self.tokenizer is None:
            raise TrainingDataError(
                f"row {number}", "is text, and there is no tokenizer", found=", ".join(sorted(row)),
                remedy="Pass processing_class=tokenizer.",
            )  # fmt: skip
        if "messages" in row:
            ids, labels = encode_chat(self.tokenizer, row["messages"], row.get("tools"), number)
            return {"input_ids": ids, "labels": labels}
        text, pair = row.pop("text"), row.pop("text_pair", None)
        if not isinstance(text, str):
            raise TrainingDataError(f"row {number}", "the column 'text' must be text", found=type(text).__name__)
        encoded = dict(self.tokenizer(text, pair) if pair is not None else self.tokenizer(text))
        encoded.pop("attention_mask", None)  # nothing is padded here
        if self.learns_text:
            encoded["labels"] = list(encoded["input_ids"])
        return {**encoded, **row}

    def _check(self, sample: Row, number: int) -> None:
        ids = sample.get("input_ids")
        if ids is not None and self.has_choices:
            if not isinstance(ids, list | tuple) or not ids or not all(hasattr(each, "__len__") for each in ids):
                raise TrainingDataError(
                    f"row {number}, column 'input_ids'", "must hold a list of ids for each choice",
                    found=str(ids)[:40],
                )  # fmt: skip
            for each in ids:
                self._check_ids(each, number)
        elif ids is not None:
            self._check_ids(ids, number)
        if self.needs_labels and not any(name in sample for name in self.label_names):
            raise TrainingDataError(
                f"row {number}", f"must have a label: a column {' or '.join(map(repr, self.label_names))}",
                found=", ".join(sorted(sample)),
            )  # fmt: skip

    def _check_ids(self, ids: Any, number: int) -> None:
        array = _whole_numbers(ids, f"row {number}, column 'input_ids'")
        if not array.size:
            raise TrainingDataError(f"row {number}", "must have a token", found="none")
        if self.context and len(array) > self.context:
            raise TrainingDataError(
                f"row {number}", f"must be within the model's context of {self.context} tokens",
                found=f"{len(array)} tokens", remedy="Tokenize with truncation=True, or cut it into several rows.",
            )  # fmt: skip
        if self.vocab_size and (array.min() < 0 or array.max() >= self.vocab_size):
            bad = int(array.min() if array.min() < 0 else array.max())
            raise TrainingDataError(
                f"row {number}, column 'input_ids'", f"ids must be below the vocabulary of {self.vocab_size}",
                found=bad, remedy="Is it the tokenizer of this model?",
            )  # fmt: skip


def _whole_numbers(values: Any, subject: str) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(values, dtype=object)
    if array.size and (array.ndim != 1 or array.dtype.kind not in "iu"):
        found = f"shape {list(array.shape)}" if array.ndim != 1 else f"type {array.dtype}"
        raise TrainingDataError(subject, "must be a flat list of whole numbers", found=found)
    return array


def taken_columns(model: Any, label_names: Sequence[str]) -> frozenset[str]:
    """Names that the model's `forward` takes, and those of labels."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters pass all on
    names = {
        name
        for name, each in inspect.signature(inner.forward).parameters.items()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }
    return frozenset(names | set(label_names))


def encode_chat(tokenizer: Any, messages: Any, tools: Any = None, number: int = 0) -> tuple[list[int], list[int]]:
    """Ids of a chat, and labels that are -100 but on what the assistant says, its end-of-turn mark with it.

    By the template's `{% generation %}` marks, or else by role spans: what the prompt up to an assistant's turn
    renders to is left out. TrainingDataError if no token is supervised.
    """
    template = tokenizer.get_chat_template()
    if "{% generation" in template or "{%- generation" in template:
        encoded = tokenizer.apply_chat_template(messages, tools=tools, return_assistant_tokens_mask=True)
        ids, said = list(encoded["input_ids"]), list(encoded["assistant_masks"])
    else:
        ids, said = _by_role_spans(tokenizer, messages, tools, number)
    if not any(said):
        roles = [message.get("role") for message in messages if isinstance(message, Mapping)]
        raise TrainingDataError(
            f"row {number}", "must have a supervised token: a message of the assistant", found=f"roles {roles}"
        )
    return ids, [token if is_said else IGNORED for token, is_said in zip(ids, said, strict=True)]


def _by_role_spans(tokenizer: Any, messages: Any, tools: Any, number: int) -> tuple[list[int], list[int]]:
    """A span is what one more message adds to the text, past the generation prompt; the text is tokenized once."""

    def render(count: int, prompt: bool) -> str:
        text = tokenizer.apply_chat_template(
            messages[:count], tools=tools, tokenize=False, add_generation_prompt=prompt
        )
        return str(text)

    whole = render(len(messages), False)
    spans = []
    for turn, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before = render(turn, True) if turn else ""
        after = render(turn + 1, False)
        if not whole.startswith(before) or not whole.startswith(after):
            raise TrainingDataError(
                f"row {number}", "its chat template rewrites earlier turns, so the assistant's words cannot be found",
                remedy="Put {% generation %} marks into the template.",
            ) from ChatTemplateError("chat template", "a prefix of the chat is not a prefix of its text")  # fmt: skip
        spans.append((len(before), len(after)))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    said = [
        int(any(begin < end and begin >= first and end <= last for first, last in spans))
        for begin, end in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), said


def encode_answer(tokenizer: Any, prompt: Any, answer: Any, number: int = 0) -> tuple[list[int], list[int]]:
    """Ids of a prompt, and of its answer with the end-of-text token; or, of messages, with the template's own end."""
    if isinstance(prompt, str) and isinstance(answer, str):
        before = list(tokenizer(prompt)["input_ids"])
        after = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
        if tokenizer.eos_token_id is not None:
            after.append(tokenizer.eos_token_id)
        return before, after
    if not isinstance(prompt, list | tuple) or not isinstance(answer, list | tuple):
        raise TrainingDataError(f"row {number}", "prompt and answers must be text, or messages", found=type(prompt))
    whole = str(tokenizer.apply_chat_template([*prompt, *answer], tokenize=False))
    start = str(tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True))
    if not whole.startswith(start):
        raise TrainingDataError(f"row {number}", "its chat template rewrites the prompt once it is answered")
    before = list(tokenizer(start, add_special_tokens=False)["input_ids"])
    return before, list(tokenizer(whole[len(start) :], add_special_tokens=False)["input_ids"])


Fetch = Callable[[int], Any]


def length_of(sample: Any, column: str) -> int:
    """Tokens of a sample, for grouping: the length column, or its ids."""
    if not isinstance(sample, Mapping):
        raise TrainingDataError("group_by_length", "needs rows that are dicts", found=type(sample).__name__)
    if column in sample:
        return int(sample[column])
    if "input_ids" not in sample:
        raise TrainingDataError("group_by_length", f"needs a column {column!r} or 'input_ids'", found=sorted(sample))
    return len(sample["input_ids"])
