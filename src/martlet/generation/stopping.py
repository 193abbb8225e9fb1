"""What ends a row, and why: each stop looks at the row's ids after a token and names its reason or says nothing.

Stops keep no state of a row, so one set serves every sequence and every beam of a prompt."""

# T tokens of the row so far, prompt included

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from martlet.errors import ArgumentError
from martlet.generation.backend import Ids
from martlet.generation.processors import as_torch, id_list

if TYPE_CHECKING:
    from martlet.generation.config import GenerationConfig


class Stop(Protocol):
    """Why the row `ids` `(T,)` ends with its last token, or None. `text` is that token's text, for who has it."""

    def __call__(self, ids: Ids, text: str | None = None, /) -> str | None: ...


@dataclass(slots=True)
class MaxLength:
    """Ends a row of `max_length` tokens, prompt included."""

    max_length: int
    max_position_embeddings: int | None = None

    def __call__(self, ids: Ids, text: str | None = None) -> str | None:
        return "length" if ids.size >= self.max_length else None


@dataclass(slots=True)
class MaxTime:
    """Ends a row at the first token more than `max_time` seconds after `started_s` of `clock`."""

    max_time: float
    started_s: float | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if self.started_s is None:
            self.started_s = self.clock()

    def __call__(self, ids: Ids, text: str | None = None) -> str | None:
        return "time" if self.clock() - (self.started_s or 0.0) > self.max_time else None


@dataclass(slots=True)
class EosToken:
    """Ends a row at any of the ids."""

    eos_token_id: Any

    def __post_init__(self) -> None:
        self.eos_token_id = frozenset(id_list(self.eos_token_id))

    def __call__(self, ids: Ids, text: str | None = None) -> str | None:
        return "eos" if ids.size and int(ids[-1]) in self.eos_token_id else None


class TokenBytes:
    """The bytes each token adds to a text, kept once found. What it adds at a text's very start is not asked."""

    def __init__(self, tokenizer: Any) -> None:
        from martlet.tokenizers.streaming import byte_alphabet

        self._decode = tokenizer.decode
        self._token_of = getattr(tokenizer, "convert_ids_to_tokens", None)
        self._kinds = decoder_kinds(tokenizer)
        self._alphabet = byte_alphabet()
        self._found: dict[int, bytes] = {}

    def __getitem__(self, token_id: int) -> bytes:
        if token_id not in self._found:
            self._found[token_id] = self._find(token_id)
        return self._found[token_id]

    def _find(self, token_id: int) -> bytes:
        token = None if self._token_of is None else self._token_of(token_id)
        if isinstance(token, str):
            if "ByteLevel" in self._kinds and all(char in self._alphabet for char in token):
                return bytes(self._alphabet[char] for char in token)
            if "ByteFallback" in self._kinds and (byte := fallback_byte(token)) is not None:
                return byte
        once, twice = self._text([token_id]), self._text([token_id, token_id])
        added = twice[len(once) :] if twice.startswith(once) else once
        return added.encode("utf-8", "replace")

    def _text(self, ids: list[int]) -> str:
        try:
            return str(self._decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        except TypeError:  # a tokenizer whose decode takes ids alone
            return str(self._decode(ids))


def fallback_byte(token: str) -> bytes | None:
    """The byte that a SentencePiece token like "<0x0A>" stands for."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return None
    return None


def decoder_kinds(tokenizer: Any) -> frozenset[str]:
    """The steps of a fast tokenizer's decoder, by the names in tokenizer.json; none for other tokenizers."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return frozenset()
    kinds: set[str] = set()
    parts = [json.loads(decoder.__getstate__())]
    while parts:
        part = parts.pop()
        kinds.add(str(part.get("type")))
        parts += part.get("decoders", [])
    return frozenset(kinds)


_known: weakref.WeakKeyDictionary[Any, TokenBytes] = weakref.WeakKeyDictionary()


def token_bytes(tokenizer: Any) -> TokenBytes:
    """The tokenizer's `TokenBytes`, shared by all who ask."""
    try:
        if tokenizer not in _known:
            _known[tokenizer] = TokenBytes(tokenizer)
        return _known[tokenizer]
    except TypeError:  # one that cannot be hashed, or weakly held
        return TokenBytes(tokenizer)


@dataclass(slots=True)
class StopString:
    """Ends a row whose last token completes one of the strings, though the string may end inside the token, and begin
    in the prompt. Special tokens count by their text."""

    tokenizer: Any
    stop_strings: Any
    _ends: list[bytes] = field(init=False, repr=False)
    _bytes: TokenBytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        strings = [self.stop_strings] if isinstance(self.stop_strings, str) else list(self.stop_strings)
        if not all(isinstance(one, str) and one for one in strings):
            raise ArgumentError("stop_strings", "must be strings of at least one character", found=repr(strings))
        self._ends = [one.encode("utf-8") for one in strings]
        self._bytes = token_bytes(self.tokenizer)

    def __call__(self, ids: Ids, text: str | None = None) -> str | None:
        if not self._ends or not ids.size:
            return None
        last = self._bytes[int(ids[-1])]
        longest = max(map(len, self._ends))
        pieces, num_before, at = [last], 0, ids.size - 2
        while at >= 0 and num_before < longest - 1 and len(pieces) < longest:
            pieces.append(self._bytes[int(ids[at])])
            num_before += len(pieces[-1])
            at -= 1
        tail = b"".join(reversed(pieces))
        for end in self._ends:  # no match may end before the last token's first byte
            if tail.find(end, max(num_before - len(end) + 1, 0)) >= 0:
                return "stop_string"
        return None


@dataclass(slots=True)
class FromCriteria:
    """One of Hugging Face's stopping criteria, called with a tensor `(1, T)` over the row's memory and no scores."""

    wrapped: Callable[..., Any]

    def __call__(self, ids: Ids, text: str | None = None) -> str | None:
        result = self.wrapped(as_torch(ids[None]), None)
        is_done = np.asarray(result.tolist() if hasattr(result, "tolist") else result)
        if is_done.size != 1 or is_done.dtype.kind not in "bi":
            raise ArgumentError(
                type(self.wrapped).__name__, "must return one True or False for one row", found=repr(result)
            )
        return "criteria" if bool(is_done.reshape(-1)[0]) else None


def build_stops(
    config: GenerationConfig,
    *,
    prompt_length: int,
    tokenizer: Any = None,
    extra: Sequence[Callable[..., Any]] = (),
    started_s: float | None = None,
) -> list[Stop]:
    """What ends a row of `config` (`config.row`), in the order in which reasons are named: "eos", "stop_string",
    "length", "time" (`started_s` on `time.monotonic`), then `extra`, Hugging Face's stopping criteria: "criteria", but
    for ours among them.

    A criterion with a true `takes_numpy` is called with ids `(T,)` alone. ArgumentError for stop strings and no
    tokenizer.
    """
    stops: list[Stop] = []
    if config.eos_token_id is not None:
        stops.append(EosToken(config.eos_token_id))
    if config.stop_strings:
        if tokenizer is None:
            raise ArgumentError("stop_strings", "needs the tokenizer", remedy="Pass tokenizer=... to generate.")
        stops.append(StopString(tokenizer, config.stop_strings))
    if config.max_new_tokens is not None:
        stops.append(MaxLength(prompt_length + config.max_new_tokens))
    elif config.max_length is not None:
        stops.append(MaxLength(config.max_length))
    if config.max_time is not None:
        stops.append(MaxTime(config.max_time, started_s))
    return stops + [from_criteria(one) for one in extra]


def from_criteria(criterion: Callable[..., Any]) -> Stop:
    """A stopping criterion of Hugging Face's kind as a stop; one with a true `takes_numpy` gets ids `(T,)` alone, and
    ours in Hugging Face's dress name their own reasons."""
    from martlet.generation.adapters import RowStop

    if isinstance(criterion, RowStop) and type(criterion).__call__ is RowStop.__call__:
        return criterion.stop
    if getattr(criterion, "takes_numpy", False):
        return lambda ids, text=None: "criteria" if criterion(ids) else None
    return FromCriteria(criterion)
