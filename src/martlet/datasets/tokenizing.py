"""`tokenize`: text columns to columns of int32 ids, Arrow to Arrow, by the fastest library that gives the same ids."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from martlet.datasets.arguments import verb
from martlet.datasets.sources.source import log
from martlet.errors import ArgumentError, MissingDependencyError, UnsupportedError

Ids = tuple[NDArray[np.int32], NDArray[np.int32]]  # the ids of all texts end to end, and the offset of each text
TURNED_OFF = "MARTLET_FAST_TOKENIZE"


@verb
def tokenize(
    dataset: Any,
    tokenizer: Any,
    text_column: str | Sequence[str] = "text",
    *,
    add_special_tokens: bool = True,
    truncation: bool = False,
    max_length: int | None = None,
    return_attention_mask: bool = False,
    remove_columns: str | Sequence[str] | None = None,
    fast: bool | str = "auto",
    batch_size: int = 1000,
) -> Any:
    """The dataset with `input_ids` (list<int32>) for its text column; for several columns, `<column>_input_ids`.

    The ids are the tokenizer's own, row for row, without padding; they go from the tokenizer's buffer to Arrow, on all
    cores. `fast="auto"` takes `fastokens` (the extra fast-tokenize) for a vocabulary for which a check over texts of
    many languages has just shown it to be equal id for id, else `tokenizers`; True makes anything else an error, False
    (or MARTLET_FAST_TOKENIZE=0) turns it off. `tokenize_backend(tokenizer)` says which is taken, and why. Results are
    cached like any map's. Streams give lists of Python integers.
    """
    if truncation and max_length is None:
        raise ArgumentError("truncation", "needs max_length=")
    columns = [text_column] if isinstance(text_column, str) else list(text_column)
    known = dataset.column_names
    if known is not None and (strange := [name for name in columns if name not in known]):
        raise ArgumentError("text_column", f"must be one of {', '.join(known)}", found=", ".join(map(repr, strange)))
    written = _written(tokenizer)
    chosen_backend(written, fast)  # now, so that an error is the caller's
    batch = TokenizeBatch(
        written, tuple(columns), add_special_tokens, max_length if truncation else None, return_attention_mask, fast
    )
    removed = [remove_columns] if isinstance(remove_columns, str) else list(remove_columns or [])
    if not hasattr(dataset, "set_format"):
        return dataset.map(batch.lists, batched=True, batch_size=batch_size, remove_columns=removed or None)
    form = dataset.with_format("arrow", columns=columns)
    made = form.map(batch, batched=True, batch_size=batch_size, desc="tokenize")
    made = made.remove_columns(removed) if removed else made
    return made.with_format(None)


def tokenize_backend(tokenizer: Any, fast: bool | str = "auto") -> str:
    """Which library `tokenize` takes for this tokenizer, with its version, and why not the fast one."""
    backend = chosen_backend(_written(tokenizer), fast)
    return f"{backend.name} {backend.version}" + (f" ({backend.reason})" if backend.reason else "")


@dataclass(frozen=True)
class TokenizeBatch:
    """A table of texts to a table of ids. It is its attributes: what it is hashed and sent to workers by."""

    written: str
    columns: tuple[str, ...]
    adds_special: bool
    max_length: int | None
    masks: bool
    fast: bool | str

    def __call__(self, table: pa.Table) -> pa.Table:
        encoder = _encoder(self.written, chosen_backend(self.written, self.fast).name == "fastokens")
        made = {}
        for column in self.columns:
            prefix = "" if len(self.columns) == 1 else f"{column}_"
            texts = table.column(column)
            ids, offsets = encoder.encode(_texts(column, texts), self.adds_special, self.max_length)
            lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
            made[f"{prefix}input_ids"] = _holed(lists, texts)
            if self.masks:
                ones = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ones(len(ids), np.int8)))
                made[f"{prefix}attention_mask"] = _holed(ones, texts)
        return pa.table(made)

    def lists(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The same of columns of lists."""
        table = self(pa.table({name: pa.array(batch[name], pa.string()) for name in self.columns}))
        return {name: table.column(name).to_pylist() for name in table.column_names}


def _texts(name: str, column: pa.ChunkedArray) -> list[str]:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ArgumentError(f"column {name!r}", "must be text to be tokenized", found=column.type)
    return ["" if text is None else text for text in column.to_pylist()]


def _holed(lists: pa.Array, texts: pa.ChunkedArray) -> pa.Array:
    """Null where the text is."""
    if not texts.null_count:
        return lists
    return pa.compute.if_else(texts.is_valid().combine_chunks(), lists, pa.scalar(None, lists.type))


def _written(tokenizer: Any) -> str:
    """The tokenizer as the JSON of `tokenizers`, without padding and truncation."""
    inner = tokenizer if hasattr(tokenizer, "to_str") else getattr(tokenizer, "backend_tokenizer", None)
    if inner is None or not hasattr(inner, "to_str"):
        raise UnsupportedError(
            f"tokenize with a {type(tokenizer).__name__}",
            "needs a tokenizer made of `tokenizers` (a fast one)",
            remedy="ds.map(lambda batch: tokenizer(batch['text']), batched=True) takes any.",
        )
    return json.dumps({**json.loads(inner.to_str()), "padding": None, "truncation": None}, ensure_ascii=False)


# Encoders


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
    return hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()


def _encoder(written: str, is_fast: bool) -> Any:
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
    from martlet.datasets.proving import proving_texts

    try:
        plain, fast = _encoder(written, False), _encoder(written, True)
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
