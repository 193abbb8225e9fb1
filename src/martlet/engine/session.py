"""Rows of one generation on the engine: what generation asks of a backend, over the extension's engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from martlet.engine.extension import native
from martlet.errors import GenerationError, UnsupportedError
from martlet.rope import frequencies, turns_over

if TYPE_CHECKING:
    from martlet.engine.model import EngineModel


@dataclass(slots=True)
class EngineStep:
    """One step's logits, float32 `(rows, vocab)` or `(tokens, vocab)`; the engine traces nothing else."""

    logits: NDArray[np.float32]
    hidden_states: list[list[Any]] | None = None
    attentions: list[list[Any]] | None = None


@dataclass(slots=True)
class _Row:
    number: int  # the engine's
    ids: list[int] = field(default_factory=list)


class EngineSession:
    """Rows with keys and values in pages; rows of one past share its pages. Row numbers are never reused."""

    def __init__(self, model: EngineModel) -> None:
        self.model = model
        self._engine = native().Engine(model.handle, model.isa, model.num_threads, 0)
        self._rows: dict[int, _Row] = {}
        self._next = 0
        # tables that follow the length of their row are made for each step, the others once
        self._grows = any(turns_over(rope, 1, 1 << 24) for rope in model.ropes)
        self._tables = [frequencies(rope, model.arch.head_dim, 1) for rope in model.ropes]

    def add(self) -> int:
        return self._keep(_Row(self._engine.add()))

    def fork(self, row: int) -> int:
        past = self._rows[row]
        return self._keep(_Row(self._engine.fork(past.number), list(past.ids)))

    def truncate(self, row: int, length: int) -> None:
        kept = self._rows[row]
        before = len(kept.ids)
        del kept.ids[length:]
        if any(turns_over(rope, length, before) for rope in self.model.ropes):
            length = 0  # its keys were turned for the longer row: the next step reads it again
        self._engine.truncate(kept.number, length)

    def release(self, row: int) -> None:
        self._engine.release(self._rows.pop(row).number)

    def length(self, row: int) -> int:
        return len(self._rows[row].ids)

    def close(self) -> None:
        for row in list(self._rows):
            self.release(row)

    @property
    def cache_bytes(self) -> int:
        """Memory of all pages in use."""
        size: int = self._engine.cache_bytes
        return size

    def step(
        self,
        batch: Sequence[tuple[int, Sequence[int]]],
        *,
        logits: Literal["last", "all"] = "last",
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> EngineStep:
        """Feeds each `(row, its next tokens)`; returns the logits after each row's last token, or after every one."""
        if hidden_states or attentions:
            raise UnsupportedError(
                "native engine",
                "hidden states and attentions are not kept",
                remedy="Load the model with backend='torch'.",
            )
        rows = [self._rows[row] for row, _ in batch]
        before = [len(row.ids) for row in rows]
        try:
            fed = [self._tokens_to_feed(row, tokens) for row, (_, tokens) in zip(rows, batch, strict=True)]
            scores = self._run(rows, fed, logits == "all")
        except ValueError as error:
            self._forget(rows, before)
            raise GenerationError("native engine", str(error)) from error
        except MemoryError as error:
            self._forget(rows, before)
            raise GenerationError("native engine", "memory for keys and values is exhausted") from error
        if logits == "all":  # a row fed again from its start still answers for its new tokens alone
            ends = np.cumsum([len(tokens) for tokens in fed])
            asked = [len(tokens) for _, tokens in batch]
            if any(len(tokens) != count for tokens, count in zip(fed, asked, strict=True)):
                places = [np.arange(end - count, end) for end, count in zip(ends, asked, strict=True)]
                scores = scores[np.concatenate(places)]
        return EngineStep(scores)

    def _run(self, rows: list[_Row], fed: list[list[int]], wants_all: bool) -> NDArray[np.float32]:
        counts = np.array([len(tokens) for tokens in fed], np.int32)
        tokens = np.array([token for each in fed for token in each], np.int32)
        numbers = np.array([row.number for row in rows], np.int32)
        scores = np.empty((len(tokens) if wants_all else len(rows), self.model.arch.vocab_size), np.float32)
        self._engine.step(numbers, counts, tokens, self._frequencies(rows), wants_all, scores)
        return scores

    def _frequencies(self, rows: list[_Row]) -> list[NDArray[np.float32]]:
        if not self._grows:
            return [np.tile(table, (len(rows), 1)) for table in self._tables]
        width = self.model.arch.head_dim
        return [np.stack([frequencies(rope, width, len(row.ids)) for row in rows]) for rope in self.model.ropes]

    def _tokens_to_feed(self, row: _Row, tokens: Sequence[int]) -> list[int]:
        before = len(row.ids)
        row.ids.extend(int(token) for token in tokens)
        if before and any(turns_over(rope, before, len(row.ids)) for rope in self.model.ropes):
            self._engine.truncate(row.number, 0)
        return row.ids[self._engine.length(row.number) :]

    def _forget(self, rows: list[_Row], before: list[int]) -> None:
        """A step that failed leaves the rows as they were, but for keys that were dropped to be made again."""
        for row, length in zip(rows, before, strict=True):
            del row.ids[length:]

    def _keep(self, row: _Row) -> int:
        number = self._next
        self._rows[number] = row
        self._next += 1
        return number
