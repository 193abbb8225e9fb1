"""Reading prompts: all together, chunk by chunk, and what several begin with only once."""

# T tokens, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from martlet.generation.backend import Floats, Ids, Session, StepOutput
from martlet.generation.outputs import Records, as_array
from martlet.generation.rows import Request

SHARED = 32  # ids that prompts must have in common for one to wait for the other's keys


@dataclass(slots=True)
class Prefilled:
    """A prompt that the session has read, and what it says of the next token."""

    row: int
    logits_V: Floats
    hidden_states: list[Any] | None = None
    attentions: list[Any] | None = None
    unconditional_row: int | None = None
    unconditional_V: Floats | None = None


class Cancelled(Exception):
    """The caller asked to stop while prompts were being read."""


@dataclass(slots=True)
class Prefill:
    """Reads the prompts of requests into a session's rows."""

    session: Session
    records: Records
    chunk_size: int | None = None  # tokens of one prompt in one step
    is_cancelled: Callable[[], bool] | None = None

    def run(self, requests: Sequence[Request]) -> list[Prefilled]:
        """All prompts, guided ones with their negative prompts. Cancelled, with no row left, if the caller says so."""
        prompts = [request.ids_T for request in requests]
        guided = [place for place, request in enumerate(requests) if request.guidance is not None]
        read = self.read(prompts + [requests[place].unconditional_ids() for place in guided])
        for order, place in enumerate(guided):
            mirror = read[len(requests) + order]
            read[place].unconditional_row, read[place].unconditional_V = mirror.row, mirror.logits_V
        return read[: len(requests)]

    def read(self, prompts: Sequence[Ids]) -> list[Prefilled]:
        """A row for each prompt, which has read it all. Whatever is raised, no row is left."""
        shares = self.session.shares_prefixes and not self.records.keeps_states
        leaders = find_leaders(prompts) if shares else {}
        read: dict[int, Prefilled] = {}
        try:
            for place, ids_T in enumerate(prompts):
                if place not in leaders:
                    row = self.session.add(ids_T) if shares else self.session.add()
                    read[place] = Prefilled(row, np.empty(0, dtype=np.float32))
            self._feed(prompts, read, list(read))
            for place, (leader, num_shared) in leaders.items():
                row = self.session.fork(read[leader].row)
                read[place] = Prefilled(row, np.empty(0, dtype=np.float32))
                self.session.truncate(row, num_shared)
            self._feed(prompts, read, list(leaders))
        except BaseException:
            for past in read.values():
                self.session.release(past.row, keep=True)
            raise
        return [read[place] for place in range(len(prompts))]

    def _feed(self, prompts: Sequence[Ids], read: dict[int, Prefilled], places: list[int]) -> None:
        begins = {place: self.session.length(read[place].row) for place in places}
        while open_places := [place for place in places if begins[place] < len(prompts[place])]:
            if self.is_cancelled is not None and self.is_cancelled():
                raise Cancelled
            room = self.session.tokens_together or sum(map(len, prompts))
            batch: list[tuple[int, list[int]]] = []
            for place in open_places:
                begin = begins[place]
                count = min(len(prompts[place]) - begin, room, self.chunk_size or room)
                if count:
                    batch.append((place, prompts[place][begin : begin + count].tolist()))
                room -= count
            output = self.session.step(
                [(read[place].row, tokens) for place, tokens in batch],
                hidden_states=self.records.keeps_hidden_states,
                attentions=self.records.keeps_attentions,
            )
            for order, (place, tokens) in enumerate(batch):
                begins[place] += len(tokens)
                self._take(read[place], output, order, begins[place] == len(prompts[place]))

    def _take(self, past: Prefilled, output: StepOutput, order: int, is_last: bool) -> None:
        if is_last:
            past.logits_V = output.logits[order].copy()
        if output.hidden_states is not None:
            past.hidden_states = join_states(past.hidden_states, output.hidden_states[order])
        if output.attentions is not None:
            past.attentions = join_attentions(past.attentions, output.attentions[order])


def find_leaders(prompts: Sequence[Ids]) -> dict[int, tuple[int, int]]:
    """Prompts that begin as an earlier-read one does: place -> (the other's place, how many ids they share). A leader
    follows nobody."""
    order = sorted(range(len(prompts)), key=lambda place: prompts[place].astype(">i8").tobytes())
    found: dict[int, tuple[int, int]] = {}
    for before, place in pairwise(order):
        if before not in found:
            leader, num_shared = before, len(prompts[before])
        num_shared = min(num_shared, num_common(prompts[before], prompts[place]))  # all since the leader begin so
        usable = min(num_shared, len(prompts[place]) - 1)
        if usable >= SHARED:
            found[place] = (leader, usable)
    return found


def num_common(ids_T: Ids, others_T: Ids) -> int:
    """How many ids two rows begin with alike."""
    shorter = min(len(ids_T), len(others_T))
    differing = np.flatnonzero(ids_T[:shorter] != others_T[:shorter])
    return int(differing[0]) if len(differing) else shorter


def token_states(output: StepOutput, place: int, offset: int, length: int) -> tuple[list[Any] | None, list[Any] | None]:
    """The hidden states and attentions of one token of a step; `length` is the row's up to and with that token."""
    hidden = attentions = None
    if output.hidden_states is not None:
        hidden = [layer[offset : offset + 1] for layer in output.hidden_states[place]]
    if output.attentions is not None:
        attentions = [layer[:, offset : offset + 1, :length] for layer in output.attentions[place]]
    return hidden, attentions


def join_states(before: list[Any] | None, chunk: list[Any]) -> list[Any]:
    if before is None:
        return [as_array(layer) for layer in chunk]
    return [np.concatenate([old, as_array(new)]) for old, new in zip(before, chunk, strict=True)]


def join_attentions(before: list[Any] | None, chunk: list[Any]) -> list[Any]:
    """Earlier tokens did not see what a later chunk brought: zeros there."""
    if before is None:
        return [as_array(layer) for layer in chunk]
    joined = []
    for old, new in zip(before, chunk, strict=True):
        unseen = ((0, 0), (0, 0), (0, new.shape[2] - old.shape[2]))
        joined.append(np.concatenate([np.pad(old, unseen), as_array(new)], axis=1))
    return joined
