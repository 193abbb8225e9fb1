"""From texts to encodings to a batch: what kind of input it is, how long it may be, what of it is returned."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import RLock
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import Encoding

from martlet.errors import ArgumentError, TokenizerError
from martlet.tokenizers.batch import BatchEncoding
from martlet.tokenizers.chat import Prompt

if TYPE_CHECKING:
    from martlet.tokenizers.tokenizer import Tokenizer

_NO_LIMIT = int(1e20)  # a model_max_length above this means none


@dataclass(frozen=True)
class Limits:
    """Padding and truncation of one call, resolved. `padding` is None, "longest" or "max_length"."""

    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    pad_to_multiple_of: int | None
    padding_side: str
    truncation_side: str
    pad_token: str | None
    pad_id: int | None
    pad_type_id: int

    def with_length(self, max_length: int | None) -> Limits:
        return self if max_length is None else replace(self, max_length=max_length)


def read_limits(
    tokenizer: Tokenizer,
    padding: bool | str | None,
    truncation: bool | str | None,
    max_length: int | None,
    stride: int,
    pad_to_multiple_of: int | None,
    padding_side: str | None,
    *,
    padding_only: bool = False,
    verbose: bool = True,
) -> Limits:
    """Resolve a call's arguments as Hugging Face does: `max_length` alone truncates, True means "longest"..."""
    for name, number in (("max_length", max_length), ("stride", stride), ("pad_to_multiple_of", pad_to_multiple_of)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
            raise ArgumentError(name, "must be a whole number of 0 or more", found=repr(number))
    if pad_to_multiple_of == 0:
        raise ArgumentError("pad_to_multiple_of", "must be 1 or more", found=0)
    side = padding_side or tokenizer.padding_side
    for name, value in (("padding_side", side), ("truncation_side", tokenizer.truncation_side)):
        if value not in ("left", "right"):
            raise ArgumentError(name, 'must be "left" or "right"', found=repr(value))
    if max_length is not None and padding is False and truncation is None and not padding_only:
        truncation = "longest_first"
    pads = _choice("padding", padding, "longest", ("longest", "max_length"), "do_not_pad")
    cuts = _choice(
        "truncation", truncation, "longest_first", ("longest_first", "only_first", "only_second"), "do_not_truncate"
    )
    if padding is True and max_length is not None and cuts is None and verbose and not padding_only:
        warnings.warn("max_length is not used by padding=True without truncation; did you mean padding='max_length'?",
                      stacklevel=3)  # fmt: skip
    if max_length is None and (pads == "max_length" or cuts is not None):
        if tokenizer.model_max_length > _NO_LIMIT:
            pads, cuts = (None if pads == "max_length" else pads), None
        else:
            max_length = tokenizer.model_max_length
    if pads is not None and tokenizer.pad_token_id is None:
        raise TokenizerError(
            "padding",
            "needs a pad token, and this tokenizer has none",
            remedy="Set tokenizer.pad_token = tokenizer.eos_token, or add one: "
            "tokenizer.add_special_tokens({'pad_token': '[PAD]'}).",
        )
    if pads and cuts and pad_to_multiple_of and max_length and max_length % pad_to_multiple_of:
        raise ArgumentError(
            "max_length", f"must be a multiple of pad_to_multiple_of ({pad_to_multiple_of})", found=max_length
        )
    return Limits(pads, cuts, max_length, stride, pad_to_multiple_of, side, tokenizer.truncation_side,
                  tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.pad_token_type_id)  # fmt: skip


def _choice(name: str, value: Any, default: str, choices: tuple[str, ...], off: str) -> str | None:
    value = getattr(value, "value", value)
    if value is None or value is False or value == off:
        return None
    if value is True:
        return default
    if value not in choices:
        raise ArgumentError(name, f"must be True, False or one of {', '.join(choices)}", found=repr(value))
    return str(value)


@dataclass(frozen=True)
class Rows:
    """Inputs as the backend takes them, one a row."""

    inputs: list[Any]
    is_batch: bool
    is_split: bool
    all_prompts: bool


def read_rows(text: Any, pair: Any, is_split: bool) -> Rows:
    """Tell apart one text, one list of words, and batches of either; join pairs."""
    if is_split:
        is_batch = isinstance(text, (list, tuple)) and bool(text) and isinstance(text[0], (list, tuple))
    else:
        is_batch = isinstance(text, (list, tuple))
    if not is_batch:
        inputs = [text if pair is None else (text, pair)]
    elif pair is None:
        inputs = list(text)
    elif isinstance(pair, str) or len(pair) != len(text):
        found = "one text" if isinstance(pair, str) else f"{len(pair)} for {len(text)} texts"
        raise ArgumentError("text_pair", "must be a list as long as text", found=found)
    else:
        inputs = list(zip(text, pair, strict=True))
    for number, row in enumerate(inputs):
        _check_row(row, is_split, f"text {number} of the batch" if is_batch else "text")
    prompts = bool(inputs) and all(isinstance(row, Prompt) for row in inputs)
    return Rows(inputs, is_batch, is_split, prompts)


def _check_row(row: Any, is_split: bool, subject: str) -> None:
    if isinstance(row, tuple) or (not is_split and isinstance(row, list)):
        parts = list(row) if len(row) == 2 else [row]
    else:
        parts = [row]
    if is_split and not all(isinstance(part, (list, tuple)) for part in parts):
        parts = [row]  # a tuple of two words
    for part in parts:
        if is_split and isinstance(part, (list, tuple)) and all(isinstance(word, str) for word in part):
            continue
        if isinstance(part, str) and not is_split:
            continue
        kind = "a list of words" if is_split else "a string"
        raise ArgumentError(subject, f"must be {kind}, or a pair of them", found=f"{type(part).__name__}: {part!r:.60}")


def _explained(rows: Rows, problem: Exception) -> Exception:
    """The backend calls a text that is not Unicode no text at all."""
    pending: list[Any] = list(rows.inputs)
    while pending:
        part = pending.pop()
        if isinstance(part, (list, tuple)):
            pending.extend(part)
        elif isinstance(part, str):
            try:
                part.encode("utf-8")
            except UnicodeEncodeError as wrong:
                return TokenizerError(
                    "text",
                    "must be Unicode text, without lone surrogates",
                    found=f"a surrogate at position {wrong.start}",
                    remedy="Decode its bytes with errors='replace'.",
                )
    return problem


def encode_rows(
    backend: tokenizers.Tokenizer, lock: RLock, rows: Rows, adds_special: bool, limits: Limits, splits_special: bool
) -> list[Encoding]:
    """Encode under the lock, with the backend's padding and truncation set for this call only."""
    if limits.truncation is not None and limits.max_length is not None and limits.stride >= max(limits.max_length, 1):
        raise ArgumentError("stride", f"must be below max_length ({limits.max_length})", found=limits.stride)
    with lock:
        try:
            if splits_special != backend.encode_special_tokens:
                backend.encode_special_tokens = splits_special
            _set_limits(backend, limits, rows, adds_special)
            if len(rows.inputs) == 1 and limits.padding is None:
                row = rows.inputs[0]
                first, second = row if _is_pair(row, rows.is_split) else (row, None)
                return [backend.encode(first, second, rows.is_split, adds_special)]
            return backend.encode_batch(rows.inputs, rows.is_split, adds_special)
        except (ValueError, TypeError) as problem:
            raise _explained(rows, problem) from problem
        except BaseException as problem:
            if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":  # of Rust, under none
                raise
            # the backend raises nothing more precise
            raise TokenizerError("encoding", str(problem).strip() or type(problem).__name__) from problem
        finally:
            backend.no_truncation()
            backend.no_padding()


def _is_pair(row: Any, is_split: bool) -> bool:
    if is_split:
        return isinstance(row, tuple) and len(row) == 2 and isinstance(row[0], (list, tuple))
    return isinstance(row, (list, tuple))


def _set_limits(backend: tokenizers.Tokenizer, limits: Limits, rows: Rows, adds_special: bool) -> None:
    if limits.truncation is not None and limits.max_length is not None:
        pair = any(_is_pair(row, rows.is_split) for row in rows.inputs)
        room = limits.max_length - (backend.num_special_tokens_to_add(pair) if adds_special else 0)
        if limits.stride and limits.stride >= room:
            raise ArgumentError(
                "stride", f"must leave room for new tokens, of which there is {room}", found=limits.stride
            )
        backend.enable_truncation(
            limits.max_length, stride=limits.stride, strategy=limits.truncation, direction=limits.truncation_side
        )
    if limits.padding is not None:
        backend.enable_padding(
            direction=limits.padding_side,
            pad_id=limits.pad_id,
            pad_type_id=limits.pad_type_id,
            pad_token=limits.pad_token,
            length=limits.max_length if limits.padding == "max_length" else None,
            pad_to_multiple_of=limits.pad_to_multiple_of,
        )


_PARTS = {
    "input_ids": "ids",
    "token_type_ids": "type_ids",
    "attention_mask": "attention_mask",
    "special_tokens_mask": "special_tokens_mask",
    "offset_mapping": "offsets",
}


def to_batch(
    encodings: Sequence[Encoding], is_batch: bool, wanted: dict[str, bool], overflows: bool, tensor_type: str | None
) -> BatchEncoding:
    """Gather the wanted parts. Overflowing parts of a text become rows of their own, with a map back to the text."""
    sources: list[int] = []
    rows: list[Encoding] = []
    for number, encoding in enumerate(encodings):
        parts = [encoding, *encoding.overflowing] if overflows else [encoding]
        rows += parts
        sources += [number] * len(parts)
    data: dict[str, Any] = {key: [getattr(row, part) for row in rows] for key, part in _PARTS.items() if wanted[key]}
    if wanted["length"]:
        data["length"] = [len(row) for row in rows]
    if overflows:
        data["overflow_to_sample_mapping"] = sources
    if not is_batch and tensor_type is None and not overflows:
        data = {key: value[0] if isinstance(value[0], list) else value for key, value in data.items()}
    return BatchEncoding(data, rows, tensor_type)
