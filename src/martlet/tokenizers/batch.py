"""BatchEncoding: what a tokenizer returns, a mapping of names to rows with the way back to words and characters."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from martlet.errors import ArgumentError, MissingDependencyError, TokenizerError


class CharSpan(NamedTuple):
    """Characters [start, end) of the original text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens [start, end) of one row."""

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """A mapping (`input_ids`, `attention_mask`, ...) whose keys are attributes too.

    An integer index gives the `tokenizers.Encoding` of a row, a slice the same rows of every key.
    The methods that speak of words and characters need an encoding made from text; others raise TokenizerError.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data or {})
        self._encodings = [encoding] if isinstance(encoding, Encoding) else encoding
        if n_sequences is None and self._encodings:
            n_sequences = self._encodings[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, item: str | int | slice) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError("a key is a name, a slice, or the number of a row that was made from text")

    def __getattr__(self, name: str) -> Any:
        data = self.__dict__.get("data", {})
        if name not in data:
            raise AttributeError(f"BatchEncoding has no {name!r}; it has {sorted(data)}")
        return data[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "encodings": self._encodings, "n_sequences": self._n_sequences}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data = state["data"]
        self._encodings = state["encodings"]
        self._n_sequences = state["n_sequences"]

    @property
    def is_fast(self) -> bool:
        """Whether rows know their words and characters."""
        return self._encodings is not None

    @property
    def encodings(self) -> Sequence[Encoding] | None:
        return self._encodings

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs, None when not known."""
        return self._n_sequences

    def _row(self, index: int) -> Encoding:
        if not self._encodings:
            raise TokenizerError("BatchEncoding", "words and characters are known only of an encoding made from text")
        return self._encodings[index]

    def _place(self, first: int, second: int | None) -> tuple[Encoding, int]:
        row, index = (0, first) if second is None else (first, second)
        encoding = self._row(row)
        return encoding, index + len(encoding) if index < 0 else index

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row, as the vocabulary spells them."""
        return self._row(batch_index).tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token: 0 or 1, the text of a pair it came from; None if it was added."""
        return self._row(batch_index).sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token: the number of its word within its text; None if it was added."""
        return self._row(batch_index).word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        encoding, index = self._place(batch_or_token_index, token_index)
        return encoding.token_to_sequence(index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        encoding, index = self._place(batch_or_token_index, token_index)
        return encoding.token_to_word(index)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        row, index = (0, batch_or_word_index) if word_index is None else (batch_or_word_index, word_index)
        found = self._row(row).word_to_tokens(index, sequence_index)
        return TokenSpan(*found) if found is not None else None

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters a token stands for; None for one that was added."""
        encoding, index = self._place(batch_or_token_index, token_index)
        found = encoding.token_to_chars(index)
        return None if found is None else CharSpan(*found)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token a character fell into; None for whitespace that no token holds."""
        row, index = (0, batch_or_char_index) if char_index is None else (batch_or_char_index, char_index)
        return self._row(row).char_to_token(index, sequence_index)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        row, index = (0, batch_or_word_index) if word_index is None else (batch_or_word_index, word_index)
        found = self._row(row).word_to_chars(index, sequence_index)
        return None if found is None else CharSpan(*found)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        row, index = (0, batch_or_char_index) if char_index is None else (batch_or_char_index, char_index)
        return self._row(row).char_to_word(index, sequence_index)

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turn every value into a tensor, in place: "pt" (torch, int64) or "np" (numpy). None changes nothing.

        Rows of different lengths raise TokenizerError: they need padding or truncation first.
        """
        kind = getattr(tensor_type, "value", tensor_type)
        if kind is None:
            return self
        if kind not in ("pt", "np"):
            raise ArgumentError("return_tensors", 'must be "pt", "np" or None', found=repr(kind))
        for key, value in self.data.items():
            rows = [value] if prepend_batch_axis else value
            self.data[key] = _to_tensor(key, rows, kind)
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> BatchEncoding:
        """Move the tensors to a torch device, in place; what is not a tensor stays."""
        self.data = {
            key: value.to(device=device, non_blocking=non_blocking) if callable(getattr(value, "to", None)) else value
            for key, value in self.data.items()
        }
        return self


def _to_tensor(key: str, rows: Any, kind: str) -> Any:
    if kind == "pt":
        try:
            import torch
        except ImportError as problem:
            raise MissingDependencyError(
                'return_tensors="pt"', "needs torch", remedy='pip install "martlet[torch]", or ask for "np".'
            ) from problem
        if torch.is_tensor(rows):
            return rows
    array = _to_array(key, rows)
    return torch.from_numpy(array) if kind == "pt" else array


def _to_array(key: str, rows: Any) -> np.ndarray[Any, Any]:
    if isinstance(rows, np.ndarray):
        return rows
    try:
        array = np.asarray(rows)
    except ValueError as problem:
        raise _ragged(key, rows) from problem
    if array.dtype == object:
        raise _ragged(key, rows)
    return array.astype(np.int64) if array.size == 0 else array


def _ragged(key: str, rows: Any) -> TokenizerError:
    lengths = sorted({len(row) for row in rows if hasattr(row, "__len__")})
    return TokenizerError(
        f"{key}",
        "a tensor needs rows of one length",
        found=f"lengths {lengths[:8]}",
        remedy="Pass padding=True, and truncation=True with max_length if rows may be too long.",
    )
