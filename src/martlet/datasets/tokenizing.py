"""`tokenize`: text columns to columns of int32 ids, Arrow to Arrow, by the fastest library that gives the same ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets.arguments import verb
from martlet.errors import ArgumentError, UnsupportedError
from martlet.tokenizers.fast import chosen_backend, encoder_of, written_form


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
    """A table of texts to columns of ids. It is its attributes: what it is hashed and sent to workers by."""

    written: str
    columns: tuple[str, ...]
    adds_special: bool
    max_length: int | None
    masks: bool
    fast: bool | str

    def __call__(self, table: pa.Table) -> dict[str, pa.Array]:
        encoder = encoder_of(self.written, chosen_backend(self.written, self.fast).name == "fastokens")
        made: dict[str, pa.Array] = {}
        for column in self.columns:
            prefix = "" if len(self.columns) == 1 else f"{column}_"
            texts = table.column(column)
            ids, offsets = encoder.encode(_texts(column, texts), self.adds_special, self.max_length)
            lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
            made[f"{prefix}input_ids"] = _holed(lists, texts)
            if self.masks:
                ones = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ones(len(ids), np.int8)))
                made[f"{prefix}attention_mask"] = _holed(ones, texts)
        return made

    def lists(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The same of columns of lists."""
        made = self(pa.table({name: pa.array(batch[name], pa.string()) for name in self.columns}))
        return {name: column.to_pylist() for name, column in made.items()}


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
    if hasattr(tokenizer, "written"):  # ours, which keeps it
        return str(tokenizer.written())
    inner = tokenizer if hasattr(tokenizer, "to_str") else getattr(tokenizer, "backend_tokenizer", None)
    if inner is None or not hasattr(inner, "to_str"):
        raise UnsupportedError(
            f"tokenize with a {type(tokenizer).__name__}",
            "needs a tokenizer made of `tokenizers` (a fast one)",
            remedy="ds.map(lambda batch: tokenizer(batch['text']), batched=True) takes any.",
        )
    return written_form(inner)
