"""Token ids to text as they come, one at a time, without ever showing half a character."""

from __future__ import annotations

import codecs
import json
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from martlet.tokenizers.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_MIN_KEPT = 8  # tokens; below this a window is not worth shortening


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable spelling of the 256 bytes: character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spelling = {chr(byte): byte for byte in printable}
    for shift, byte in enumerate(byte for byte in range(256) if byte not in set(printable)):
        spelling[chr(256 + shift)] = byte
    return spelling


class StreamDetokenizer:
    """`put(id)` gives the text that is now certain, `end()` the rest.

    Promise: the pieces together equal `tokenizer.decode(ids, ...)` with the same settings, no piece ends inside a
    character, and the work per token does not grow with the length of the answer.
    """

    def __init__(
        self, tokenizer: Tokenizer, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer._backend
        self._skipped = _special_ids(tokenizer) if skip_special_tokens else frozenset()
        kinds = _decoder_kinds(tokenizer)
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace") if kinds == ("ByteLevel",) else None
        self._falls_back_to_bytes = "ByteFallback" in kinds
        asked = clean_up_tokenization_spaces
        self._cleans = tokenizer.cleans_up_spaces if asked is None else asked and not tokenizer.is_bpe
        self._uncleaned = ""
        self._window: list[int] = []
        self._shown = ""  # the part of the window's text that was given out
        self._last_shown = 0  # tokens of the window at the last time something was given out

    def put(self, token_id: int) -> str:
        """The new text that became certain with this token; often "" while a character is incomplete."""
        token_id = int(token_id)
        if token_id in self._skipped:
            return ""
        token = self._backend.id_to_token(token_id) if token_id >= 0 else None
        if token is None:  # rows of a padded embedding have no text, and decode leaves them out too
            return ""
        if self._bytes is not None:
            return self._clean(self._bytes.decode(_token_bytes(token)))
        self._window.append(token_id)
        if self._falls_back_to_bytes and _is_byte_token(token):
            return ""  # a run of byte tokens is valid, or not, as a whole
        text = self._decode(self._window)
        if text.endswith(_REPLACEMENT):
            return ""
        return self._clean(self._show(text))

    def end(self) -> str:
        """What is still held back, an incomplete character as U+FFFD. The stream then starts anew."""
        if self._bytes is not None:
            text = self._bytes.decode(b"", final=True)
        else:
            text = self._decode(self._window)[len(self._shown) :] if self._window else ""
        text = self._clean(text, last=True)
        self._window, self._shown, self._last_shown, self._uncleaned = [], "", 0, ""
        if self._bytes is not None:
            self._bytes.reset()
        return text

    def _decode(self, ids: list[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=False)

    def _show(self, text: str) -> str:
        piece = text[len(self._shown) :]
        self._shown = text
        kept = self._window[self._last_shown :]
        # A decoder may treat the first token in a way of its own, so a window starts with a token that has text.
        if self._last_shown >= _MIN_KEPT and (start := self._decode(kept)):
            self._window, self._shown = kept, start
        self._last_shown = len(self._window)
        return piece

    def _clean(self, text: str, last: bool = False) -> str:
        if not self._cleans:
            return text
        self._uncleaned += text
        cut = len(self._uncleaned) if last else _safe_cut(self._uncleaned)
        ready, self._uncleaned = self._uncleaned[:cut], self._uncleaned[cut:]
        return self._tokenizer.clean_up_tokenization(ready)


def _safe_cut(text: str) -> int:
    """Where text may be cut so that cleaning both parts equals cleaning the whole: before a space after a letter."""
    for cut in range(len(text) - 1, 0, -1):
        if text[cut] == " " and text[cut - 1].isalnum():
            return cut
    return 0


def _token_bytes(token: str) -> bytes:
    alphabet = byte_alphabet()
    values = [alphabet.get(char, -1) for char in token]
    return token.encode("utf-8") if -1 in values else bytes(values)


def _is_byte_token(token: str) -> bool:
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return False
    return all(char in "0123456789ABCDEFabcdef" for char in token[3:5])


def _special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(number for number, token in tokenizer.added_tokens_decoder.items() if token.special)


def _decoder_kinds(tokenizer: Tokenizer) -> tuple[str, ...]:
    decoder = tokenizer._backend.decoder
    if decoder is None:
        return ()
    described = json.loads(decoder.__getstate__())
    parts = described["decoders"] if described["type"] == "Sequence" else [described]
    return tuple(str(part["type"]) for part in parts)
