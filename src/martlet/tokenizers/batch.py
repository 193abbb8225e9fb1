"""BatchEncoding: what a tokenizer returns, a mapping of names to rows with the way back to words and characters."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
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


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of numbers laid end to end: row i is values[offsets[i]:offsets[i + 1]]."""

    values: NDArray[Any]
    offsets: NDArray[np.int32]

    def lists(self) -> list[list[int]]:
        """The rows as lists of Python integers."""
        values = self.values.tolist()
        return [values[begin:end] for begin, end in pairwise(self.offsets.tolist())]


class BatchEncoding(UserDict[str, Any]):
    """A mapping (`input_ids`, `attention_mask`, ...) whose keys are attributes too.

    An integer index gives the `tokenizers.Encoding` of a row, a slice the same rows of every key.
    The methods that speak of words and characters need an encoding made from text; others raise TokenizerError.
    Values given as `Ragged` become lists when they are looked at. `encode` makes the encodings once they are asked for.
    """

    _data: dict[str, Any]

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
        encode: Callable[[], Sequence[Encoding]] | None = None,
    ) -> None:
        super().__init__(data or {})
        self._made = [encoding] if isinstance(encoding, Encoding) else encoding
        self._encode = encode
        if n_sequences is None and self._made:
            n_sequences = self._made[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    @property
    def data(self) -> dict[str, Any]:
        """The plain dict behind the mapping."""
        for key in self._data:
            self[key]
        return self._data

    @data.setter
    def data(self, data: dict[str, Any]) -> None:
        self._data = data

    @property
    def _encodings(self) -> Sequence[Encoding] | None:
        if self._made is None and self._encode is not None:
            self._made = self._encode()
        return self._made

    def token_arrays(self) -> dict[str, Ragged]:
        """The values that nobody looked at yet, as arrays."""
        return {key: value for key, value in self._data.items() if isinstance(value, Ragged)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = value

    def __delitem__(self, key: str) -> None:
        del self._data[key]

    def __copy__(self) -> BatchEncoding:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._data = dict(self._data)
        return new

    def __getitem__(self, item: str | int | slice) -> Any:
        if isinstance(item, str):
            value = self._data[item]
            if isinstance(value, Ragged):
                value = self._data[item] = value.lists()
            return value
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError("a key is a name, a slice, or the number of a row that was made from text")

    def __getattr__(self, name: str) -> Any:
        data = self.__dict__.get("_data", {})
        if name not in data:
            raise AttributeError(f"BatchEncoding has no {name!r}; it has {sorted(data)}")
        return self[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "encodings": self._encodings, "n_sequences": self._n_sequences}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data = state["data"]
        self._made, self._encode = state["encodings"], None
        self._n_sequences = state["n_sequences"]

    @property
    def is_fast(self) -> bool:
        """Whether rows know their words and characters."""
        return self._made is not None or self._encode is not None

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
