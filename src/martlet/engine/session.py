"""Rows of one generation on the engine: what generation asks of a backend, over the extension."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from martlet.engine.chooser import Chosen, EngineChooser
from martlet.engine.rows import PAGE, Rows
from martlet.errors import CacheMemoryError, GenerationError, MartletError, UnsupportedError
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

    shares_prefixes = True
    tokens_together = 512  # of one pass; more are taken in turns

    def __init__(self, model: EngineModel, rows: Rows) -> None:
        self.model, self.is_waiting = model, False
        self._store, self._engine = rows, rows.engine
        self._rows: dict[int, _Row] = {}
        self._next = 0
        # tables that follow the length of their row are made for each step, the others once
        self._grows = any(turns_over(rope, 1, 1 << 24) for rope in model.ropes)
        self._tables = [frequencies(rope, model.arch.head_dim, 1) for rope in model.ropes]
        rows.sessions.add(self)

    @property
    def is_limited(self) -> bool:
        return self._store.max_pages > 0

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def add(self, ids: NDArray[np.int64] | None = None) -> int:
        number, length = self._store.begin(ids)
        return self._keep(_Row(number, [] if ids is None else ids[:length].tolist()))

    def fork(self, row: int) -> int:
        past = self._rows[row]
        return self._keep(_Row(self._engine.fork(past.number), list(past.ids)))

    def truncate(self, row: int, length: int) -> None:
        kept, length = self._rows[row], max(0, length)
        before = len(kept.ids)
        del kept.ids[length:]
        if any(turns_over(rope, length, before) for rope in self.model.ropes):
            length = 0  # its keys were turned for the longer row: the next step reads it again
        self._engine.truncate(kept.number, length)

    def release(self, row: int, *, keep: bool = False) -> None:
        ended = self._rows.pop(row)
        self._store.end(ended.number, ended.ids, keep=keep)

    def length(self, row: int) -> int:
        return len(self._rows[row].ids)

    def close(self) -> None:
        for row in list(self._rows):
            self.release(row)
        self._store.sessions.discard(self)
        self._engine.trim()

    @property
    def cache_bytes(self) -> int:
        """Memory of all pages in use, also by other sessions of the model and by ended rows that are kept."""
        size: int = self._engine.pages_held * self._engine.page_bytes
        return size

    def fits(self, lengths: Sequence[int], batch: Sequence[tuple[int, int]] = ()) -> bool:
        """Whether the limit allows new rows of these lengths, and rows of `batch` to grow by so many tokens."""
        if not self.is_limited:
            return True
        new = _count_pages(lengths)
        grown = [(self._rows[row].number, count) for row, count in batch]
        return self._store.make_room(
            lambda: new + sum(self._engine.pages_needed(number, count) for number, count in grown)
        )

    def wait(self, lengths: Sequence[int]) -> bool:
        """Waits a moment for other sessions to give up memory; False where that is in vain."""
        return self._store.wait(self, _count_pages(lengths))

    def chooser(self, choice: Any, stream: int, ids: NDArray[np.int64]) -> EngineChooser:
        return EngineChooser(choice, stream, ids, self.model.arch.vocab_size)

    def advance(
        self,
        batch: Sequence[tuple[int, Sequence[int]]],
        choosers: Sequence[EngineChooser],
        max_steps: int,
        on_step: Callable[[list[Chosen]], bool] | None = None,
    ) -> list[list[Chosen]]:
        """As `generation.backend.Session` says. The interpreter lock is released; Ctrl-C is heard between steps."""
        rows = [self._rows[row] for row, _ in batch]
        spans = [(self.length(row), self.length(row) + len(tokens) + max_steps) for row, tokens in batch]
        if any(turns_over(rope, *span) for rope in self.model.ropes for span in spans):
            max_steps = 1  # the next step turns its keys otherwise
        handles = [chooser.handle for chooser in choosers]
        raised: list[BaseException] = []  # by the listener: no failure of the engine's

        def hear(step: list[Any]) -> bool:
            try:
                return on_step is not None and on_step([Chosen(*each) for each in step])
            except BaseException as error:
                raised.append(error)
                return False

        with self._undone_if_refused(rows):
            fed = [self._tokens_to_feed(row, tokens) for row, (_, tokens) in zip(rows, batch, strict=True)]
            listener = None if on_step is None else hear
            steps = self._engine.advance(*self._flat(rows, fed), self._frequencies(rows), handles, max_steps, listener)
        told = [[Chosen(*each) for each in step] for step in steps]
        for step in told[:-1]:
            for row, chosen in zip(rows, step, strict=True):
                row.ids.append(chosen.token)
        if raised:
            raise raised.pop()  # kept nowhere: its traceback holds this frame
        return told

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
        with self._undone_if_refused(rows):
            fed = [self._tokens_to_feed(row, tokens) for row, (_, tokens) in zip(rows, batch, strict=True)]
            scores = self._run(rows, fed, logits == "all")
        if logits == "all":  # a row fed again from its start still answers for its new tokens alone
            ends = np.cumsum([len(tokens) for tokens in fed])
            asked = [len(tokens) for _, tokens in batch]
            if any(len(tokens) != count for tokens, count in zip(fed, asked, strict=True)):
                places = [np.arange(end - count, end) for end, count in zip(ends, asked, strict=True)]
                scores = scores[np.concatenate(places)]
        return EngineStep(scores)

    def _run(self, rows: list[_Row], fed: list[list[int]], wants_all: bool) -> NDArray[np.float32]:
        num_places = sum(map(len, fed)) if wants_all else len(rows)
        scores = np.empty((num_places, self.model.arch.vocab_size), np.float32)
        self._engine.step(*self._flat(rows, fed), self._frequencies(rows), wants_all, scores)
        return scores

    def _flat(self, rows: list[_Row], fed: list[list[int]]) -> tuple[NDArray[np.int32], ...]:
        """The engine's numbers of the rows, their counts of tokens, and the tokens end to end."""
        counts, tokens = list(map(len, fed)), list(chain.from_iterable(fed))
        try:
            return tuple(np.array(each, np.int32) for each in ([row.number for row in rows], counts, tokens))
        except OverflowError as error:
            raise ValueError(f"token {max(tokens, key=abs)} is outside the vocabulary") from error

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

    @contextmanager
    def _undone_if_refused(self, rows: list[_Row]) -> Iterator[None]:
        """A step that failed leaves the rows as they were, but for keys that were dropped to be made again."""
        before = [len(row.ids) for row in rows]
        try:
            yield
        except BaseException as error:
            for row, length in zip(rows, before, strict=True):
                del row.ids[length:]
                with suppress(IndexError):  # another thread may have closed the session
                    self._engine.truncate(row.number, length)
            if isinstance(error, MemoryError):
                raise CacheMemoryError("native engine", "memory for keys and values is exhausted") from error
            if isinstance(error, OverflowError):
                raise _beyond(self._engine.kv_cache_dtype, error) from error
            if isinstance(error, (ValueError, IndexError)) and not isinstance(error, MartletError):
                raise GenerationError("native engine", str(error)) from error
            raise

    def _keep(self, row: _Row) -> int:
        number = self._next
        self._rows[number] = row
        self._next += 1
        return number


def _beyond(dtype: str, error: OverflowError) -> GenerationError:
    remedies = {"float16": "Pass kv_cache_dtype='bfloat16', or 'float32' for twice the memory."}
    return GenerationError(
        "keys and values",
        f"must be numbers that {dtype} holds, of at most {65504 if dtype == 'float16' else 3.39e38:,g}",
        found=str(error),
        remedy=remedies.get(dtype, "Pass kv_cache_dtype='float32'."),
    )


def _count_pages(lengths: Sequence[int]) -> int:
    return sum(-(-length // PAGE) for length in lengths)
