"""Guessing tokens ahead, from a draft model or from the text so far. The loop checks every guess, so that the result is
exactly the one it would have come to alone, greedy or sampled."""

# L ids of a row, T drafted ids

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from martlet.errors import ArgumentError, CacheMemoryError, UnsupportedError
from martlet.generation.backend import Ids, Session
from martlet.generation.config import GenerationConfig
from martlet.generation.loop import Drafter
from martlet.generation.rows import NO_TOKENS, LiveRow

Schedule = Literal["constant", "heuristic", "heuristic_transient"]


@dataclass(frozen=True, slots=True)
class PromptLookup:
    """Drafts what followed the latest earlier occurrence of the row's last ids: the longest match up to
    `max_ngram_size` ids, then up to `num_tokens` of what came after it.

    Follows prompt lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding.
    """

    num_tokens: int
    max_ngram_size: int = 2

    def propose(self, rows: Sequence[LiveRow]) -> list[Ids]:
        return [self.look_up(row.ids.view()) for row in rows]

    def look_up(self, ids_L: Ids) -> Ids:
        for size in range(min(self.max_ngram_size, len(ids_L) - 1), 0, -1):
            windows = np.lib.stride_tricks.sliding_window_view(ids_L[:-1], size)
            matches = np.flatnonzero((windows == ids_L[-size:]).all(axis=1))
            if len(matches):
                begin = int(matches[-1]) + size
                return ids_L[begin : begin + self.num_tokens].copy()
        return NO_TOKENS

    def learn(self, row: LiveRow, num_drafted: int, num_accepted: int) -> None:
        """What was accepted says nothing about the next match."""

    def release(self, row: LiveRow) -> None:
        """Nothing is held for a row."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class _DraftRow:
    session_row: int
    read_L: Ids  # what the draft model has read of this row, wrong guesses included
    num_tokens: int


@dataclass(slots=True)
class DraftModel:
    """Drafts with a smaller model of the same vocabulary, whose tokens pass the row's own processors and its own
    draws: where both models agree on the scores they agree on the sample.

    `schedule`: "constant" drafts `num_tokens` a time; the heuristics draft two more after a draft accepted whole and
    one fewer after any other. A draft ends early after a token the draft model gives less than `least_confidence`.
    """

    session: Session
    num_tokens: int = 20
    schedule: Schedule = "constant"
    least_confidence: float = 0.0
    context: int | None = None  # tokens the draft model can hold
    prefill_chunk_size: int | None = None
    rows: dict[int, _DraftRow] = field(default_factory=dict)

    def propose(self, rows: Sequence[LiveRow]) -> list[Ids]:
        """Drafts of all rows; none where the draft model's memory is exhausted, and its rows are begun again."""
        try:
            return self._propose(rows)
        except CacheMemoryError:
            for held in self.rows.values():
                self.session.release(held.session_row)
            self.rows.clear()
            return [NO_TOKENS] * len(rows)

    def _propose(self, rows: Sequence[LiveRow]) -> list[Ids]:
        drafts: list[list[int]] = [[] for _ in rows]
        open_places = [place for place, row in enumerate(rows) if self._budget(row) > 0]
        unread = {place: self._catch_up(rows[place]) for place in open_places}
        while open_places:
            output = self.session.step([(self._held(rows[place]).session_row, unread[place]) for place in open_places])
            still_open = []
            for order, place in enumerate(open_places):
                row, held = rows[place], self._held(rows[place])
                held.read_L = np.append(held.read_L, unread[place])
                scores_V = output.logits[order]
                for process in row.request.processors:
                    scores_V = process(held.read_L, scores_V)
                if np.isnan(scores_V).any() or scores_V.max() == -np.inf:
                    continue  # no guess; the checking model has its own scores
                token = row.request.choose(held.read_L, scores_V, row.stream)
                drafts[place].append(token)
                unread[place] = [token]
                is_sure = self.least_confidence <= 0.0 or _probability(scores_V, token) >= self.least_confidence
                if is_sure and len(drafts[place]) < self._budget(row):
                    still_open.append(place)
            open_places = still_open
        return [np.array(draft, dtype=np.int64) for draft in drafts]

    def learn(self, row: LiveRow, num_drafted: int, num_accepted: int) -> None:
        if self.schedule == "constant":
            return
        held = self._held(row)
        held.num_tokens = held.num_tokens + 2 if num_accepted == num_drafted else max(1, held.num_tokens - 1)

    def release(self, row: LiveRow) -> None:
        held = self.rows.pop(row.number, None)
        if held is not None:
            self.session.release(held.session_row)

    def close(self) -> None:
        self.session.close()

    def _held(self, row: LiveRow) -> _DraftRow:
        if row.number not in self.rows:
            self.rows[row.number] = _DraftRow(self.session.add(), NO_TOKENS, self.num_tokens)
        return self.rows[row.number]

    def _budget(self, row: LiveRow) -> int:
        num_tokens = self._held(row).num_tokens
        if self.context is not None:
            num_tokens = min(num_tokens, self.context - len(row.ids))
        return row.cap_draft(num_tokens)

    def _catch_up(self, row: LiveRow) -> list[int]:
        """Forgets guesses that did not come true; returns the ids that are still to be read, at least the last."""
        held, ids_L = self._held(row), row.ids.view()
        shared = min(len(held.read_L), len(ids_L) - 1)
        differing = np.flatnonzero(held.read_L[:shared] != ids_L[:shared])
        agreed = int(differing[0]) if len(differing) else shared
        if agreed < len(held.read_L):
            self.session.truncate(held.session_row, agreed)
            held.read_L = held.read_L[:agreed]
        size = self.prefill_chunk_size or len(ids_L)
        for begin in range(agreed, len(ids_L) - size, size):  # the last chunk is read with the other rows'
            self.session.step([(held.session_row, ids_L[begin : begin + size].tolist())])
        unread_L = ids_L[self.session.length(held.session_row) :]
        held.read_L = ids_L[: len(ids_L) - len(unread_L)].copy()
        return list(map(int, unread_L))


def _probability(scores_V: np.ndarray, token: int) -> float:
    weights_V = np.exp(scores_V.astype(np.float64) - float(scores_V.max()))
    return float(weights_V[token] / weights_V.sum())


def open_drafter(model: Any, config: GenerationConfig, assistant: Any) -> Drafter | None:
    if config.prompt_lookup_num_tokens is not None:
        return PromptLookup(config.prompt_lookup_num_tokens, config.max_matching_ngram_size or 2)
    if assistant is None:
        return None
    if not hasattr(assistant, "open_session"):
        raise ArgumentError("assistant_model", "must be a model loaded by martlet", found=type(assistant).__name__)
    if assistant.arch.vocab_size != model.arch.vocab_size:
        raise UnsupportedError(
            "assistant_model",
            f"its vocabulary must be the model's, {model.arch.vocab_size} ids",
            found=f"{assistant.arch.vocab_size} ids",
            remedy="Assistants with another tokenizer are not supported.",
        )

    def setting(name: str, default: Any) -> Any:
        values = (getattr(each, name, None) for each in (config, getattr(assistant, "generation_config", None)))
        return next((value for value in values if value is not None), default)

    return DraftModel(
        assistant.open_session(),
        num_tokens=setting("num_assistant_tokens", 20),
        schedule=setting("num_assistant_tokens_schedule", "constant"),
        least_confidence=setting("assistant_confidence_threshold", 0.4),
        context=assistant.arch.max_position_embeddings,
        prefill_chunk_size=config.prefill_chunk_size,
    )
