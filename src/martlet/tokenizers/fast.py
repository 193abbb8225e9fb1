"""The ids of many texts by the fastest library that gives `tokenizers`' own: proved at its first use, never assumed."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError, MissingDependencyError, TokenizerError, UnsupportedError

if TYPE_CHECKING:
    import tokenizers

Ids = tuple[NDArray[np.int32], NDArray[np.int32]]  # the ids of all texts end to end, and the offset of each text
TURNED_OFF = "MARTLET_FAST_TOKENIZE"
FEWEST_TEXTS = 32  # in a batch; fewer are given to `tokenizers`
PAYS_CHARS = 1 << 20  # what a tokenizer encodes in batches before the check is made of itself: it takes as long
_MAX_GAPS = 1 << 22  # ids without a token
log = logging.getLogger("martlet.tokenizers")


@dataclass(frozen=True)
class Backend:
    """The library that is taken, and why not another."""

    name: str
    version: str
    reason: str = ""


class _Plain:
    """`tokenizers` itself."""

    def __init__(self, written: str) -> None:
        import tokenizers

        self.inner = tokenizers.Tokenizer.from_str(written)
        self._max_length: int | None = None
        self._lock = threading.Lock()

    def encode(self, texts: list[str], adds_special: bool, max_length: int | None) -> Ids:
        with self._lock:
            if max_length != self._max_length:
                self._max_length = max_length
                self.inner.no_truncation() if max_length is None else self.inner.enable_truncation(max_length)
            return self._encoded(texts, adds_special)

    def _encoded(self, texts: list[str], adds_special: bool) -> Ids:
        rows = [row.ids for row in self.inner.encode_batch_fast(texts, add_special_tokens=adds_special)]
        offsets = np.zeros(len(rows) + 1, np.int32)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return np.fromiter((number for row in rows for number in row), np.int32, int(offsets[-1])), offsets


class _Fast(_Plain):
    """`fastokens`: ids as bytes, without a Python integer."""

    def __init__(self, written: str) -> None:
        import fastokens

        self.inner = fastokens.Tokenizer.from_json_str(written)
        self._max_length = None
        self._lock = threading.Lock()

    def _encoded(self, texts: list[str], adds_special: bool) -> Ids:
        inner: Any = self.inner
        ids, offsets = inner.encode_batch_flat(texts, add_special_tokens=adds_special)
        return np.frombuffer(ids, np.uint32).view(np.int32), np.frombuffer(offsets, np.uint64).astype(np.int32)


_lock = threading.RLock()
_proofs: dict[str, str] = {}  # by tokenizer: "" if fastokens is equal, else why it is not taken
_encoders: dict[tuple[str, bool], Any] = {}


@lru_cache(maxsize=16)
def _key(written: str) -> str:
    import hashlib  # reads OpenSSL

    return hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()


def encoder_of(written: str, is_fast: bool) -> Any:
    with _lock:
        key = (_key(written), is_fast)
        if key not in _encoders:
            while len(_encoders) >= 8:
                _encoders.pop(next(iter(_encoders)))
            _encoders[key] = _Fast(written) if is_fast else _Plain(written)
        return _encoders[key]


def chosen_backend(written: str, fast: bool | str = "auto") -> Backend:
    """The library for a tokenizer. With `fast=True` an error where it is not the fast one."""
    from importlib.metadata import version

    if fast not in (True, False, "auto"):
        raise ArgumentError("fast", "must be 'auto', True or False", found=repr(fast))
    is_off = os.environ.get(TURNED_OFF, "") == "0"
    if fast is False or (is_off and fast != True):  # noqa: E712  "auto" is no bool
        return Backend("tokenizers", version("tokenizers"), "the fast one is turned off")
    why = _why_not(written)
    if not why:
        return Backend("fastokens", version("fastokens"))
    if fast is True:
        if importlib.util.find_spec("fastokens") is None:
            raise MissingDependencyError("fast=True", why, remedy='pip install "martlet[fast-tokenize]"')
        raise UnsupportedError("fast=True", f"fastokens is not taken for this tokenizer: {why}")
    return Backend("tokenizers", version("tokenizers"), why)


def _why_not(written: str) -> str:
    if importlib.util.find_spec("fastokens") is None:
        return "fastokens is not installed"
    key = _key(written)
    with _lock:
        if key not in _proofs:
            _proofs[key] = _compared(written)
            if _proofs[key]:
                log.info("tokenize: %s", _proofs[key])
        return _proofs[key]


def _compared(written: str) -> str:
    """ "" if both libraries give the same ids for every text of the check, else the first difference."""
    from martlet.tokenizers.proving import proving_texts

    try:
        plain, fast = encoder_of(written, False), encoder_of(written, True)
        texts = proving_texts(plain.inner)
        for part, adds_special, max_length in ((texts, True, None), (texts[::5], False, None), (texts[::9], True, 7)):
            ids, offsets = plain.encode(part, adds_special, max_length)
            others, ends = fast.encode(part, adds_special, max_length)
            if np.array_equal(ids, others) and np.array_equal(offsets, ends):
                continue
            for number, text in enumerate(part):
                mine = ids[offsets[number] : offsets[number + 1]]
                if not np.array_equal(mine, others[ends[number] : ends[number + 1]]):
                    return f"fastokens gives other ids for {text[:40]!r}"
            return "fastokens gives other ids"
    except Exception as problem:  # what it does not support it says with errors of its own
        return f"fastokens cannot read this tokenizer: {' '.join(str(problem).split())[:120]}"
    return ""


# A tokenizer's own


@dataclass
class Shortcut:
    """What a tokenizer knows of the faster library. Its text `written` is made anew when the backend changed."""

    is_exposed: bool = False  # a user holds the backend, and may change it in ways that are not seen from here
    seen_chars: int = 0
    _state: Any = None
    _written: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def written(self, backend: tokenizers.Tokenizer) -> str:
        """The tokenizer as JSON, without padding and truncation."""
        with self._lock:
            state = _state_of(backend)
            if self.is_exposed or state != self._state:
                self._written, self._state = written_form(backend), state
            return self._written

    def forget(self) -> None:
        """The backend's tokens changed."""
        self._state = None

    def encode(
        self, backend: tokenizers.Tokenizer, texts: list[str], adds_special: bool, max_length: int | None
    ) -> Ids | None:
        """The ids `backend` gives, by the faster library; None where it is not taken.

        It is taken once it was proved equal; that is done when the texts so far took about as long as the proof does.
        """
        if self.is_exposed or len(texts) < FEWEST_TEXTS or os.environ.get(TURNED_OFF, "") == "0":
            return None
        self.seen_chars += sum(map(len, texts))
        if importlib.util.find_spec("fastokens") is None:
            return None
        written = self.written(backend)
        if self.seen_chars < PAYS_CHARS and _proofs.get(_key(written)) is None:
            return None
        if chosen_backend(written).name != "fastokens":
            return None
        try:
            found: Ids = encoder_of(written, True).encode(texts, adds_special, max_length)
            return found
        except UnicodeEncodeError:  # a lone surrogate: `tokenizers` refuses it too, and says where
            return None


def written_form(backend: tokenizers.Tokenizer) -> str:
    """A backend as JSON, without padding and truncation: they are of a call."""
    text = as_json(backend)
    plain = {"padding": None, "truncation": None}
    # a vocabulary takes long to read and write again, and what changes stands before it (no quote in a text is bare)
    at = text.find(',"added_tokens":')
    if at > 0 and (head := json.loads(text[:at] + "}")).keys() <= {"version", *plain}:
        return json.dumps({**head, **plain}, ensure_ascii=False)[:-1] + text[at:]
    return json.dumps({**json.loads(text), **plain}, ensure_ascii=False)


def as_json(backend: tokenizers.Tokenizer, pretty: bool = False) -> str:
    """A backend as the text of tokenizer.json. TokenizerError for ids so sparse that writing them would not end."""
    vocab = backend.get_vocab()
    largest = max(vocab.values(), default=0)
    if largest > _MAX_GAPS + 2 * len(vocab):  # the library walks every id up to the largest
        token = next(token for token, number in vocab.items() if number == largest)
        raise TokenizerError(
            f"tokenizer: {token!r}", f"has an id that is too large among {len(vocab)} tokens", found=largest
        )
    return backend.to_str(pretty=pretty)


def _state_of(backend: tokenizers.Tokenizer) -> Any:
    parts: tuple[Any, ...] = (backend.normalizer, backend.pre_tokenizer, backend.post_processor)
    states = tuple(None if part is None else part.__getstate__() for part in parts)
    return (*states, backend.get_vocab_size(with_added_tokens=True))
