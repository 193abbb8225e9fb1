"""The decode loop: greedy, sampled and drafted tokens for any number of ragged rows. Beams live in beams.py, padding
and argument checking in door.py."""

# B rows of one step, T tokens, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from martlet.errors import NonFiniteLogitsError
from martlet.generation.backend import Floats, Ids, Session, StepOutput
from martlet.generation.outputs import Records, RowResult, as_array
from martlet.generation.sampling import choose_greedy, choose_sampled, uniforms

Processor = Callable[[Ids, Floats], Floats]
Guidance = Callable[[Floats, Floats], Floats]  # scores, and those without the prompt
Stop = Callable[[Ids], str | None]
NOTHING_LEFT = "the logits processors left no token that can be chosen"
NO_TOKENS = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class Request:
    """One prompt, checked and ready: what shapes its scores, what ends it, how many sequences come of it."""

    index: int
    ids_T: Ids
    end: int  # ids the sequence may hold, prompt included, before the context is full
    processors: Sequence[Processor] = ()
    stops: Sequence[Stop] = ()
    num_sequences: int = 1
    num_eos: int = 0
    max_new_tokens: int | None = None  # the most that can come, where a beam's longest possible score needs it
    seed: int | None = None  # None: greedy
    first_stream: int = 0
    guidance: Guidance | None = None
    negative_ids_T: Ids | None = None  # what guidance is away from; None: the prompt's last token
    repairs_logits: bool = False  # a processor replaces NaN and infinity
    turns_over: Callable[[int, int], bool] = lambda length, grown: False  # would growing change what was read?

    def unconditional_ids(self) -> Ids:
        return self.ids_T[-1:] if self.negative_ids_T is None else self.negative_ids_T

    def shape_scores(
        self,
        ids_T: Ids,
        logits_V: Floats,
        unconditional_V: Floats | None,
        *,
        before: Callable[[Floats], Floats] | None = None,
        may_be_empty: bool = False,
    ) -> Floats:
        """What the next token after `ids_T` is chosen from. NonFiniteLogitsError where nothing can be.

        `before` is applied to the logits before the processors; `may_be_empty` lets these rule out every token.
        """
        if not self.repairs_logits:
            self.check_scores(logits_V, ids_T, "the model gave logits with NaN or infinity")
        scores_V = logits_V if before is None else before(logits_V)
        if self.guidance is not None and unconditional_V is not None:
            scores_V = self.guidance(scores_V, unconditional_V)
        for process in self.processors:
            scores_V = process(ids_T, scores_V)
        if self.processors or self.repairs_logits:
            self.check_scores(scores_V, ids_T, NOTHING_LEFT, may_be_empty)
        return scores_V

    def choose(self, ids_T: Ids, scores_V: Floats, stream: int) -> int:
        if self.seed is None:
            return choose_greedy(scores_V)
        return choose_sampled(scores_V, float(uniforms(self.seed, stream, len(ids_T))[0]))

    def check_scores(self, scores_V: Floats, ids_T: Ids, rule: str, may_be_empty: bool = False) -> None:
        highest = float(np.max(scores_V))  # NaN if any is; -inf if all are
        if not np.isfinite(highest) and not (may_be_empty and highest == -np.inf):
            raise NonFiniteLogitsError(
                f"row {self.index}, position {len(ids_T)}",
                rule,
                found=f"a highest score of {highest}",
                remedy="" if rule == NOTHING_LEFT else "Is the checkpoint whole, and its dtype wide enough?",
            )


class TokenBuffer:
    """Ids that grow at the end; `view` costs nothing."""

    def __init__(self, ids_T: Ids) -> None:
        self._held = np.empty(max(64, 2 * len(ids_T)), dtype=np.int64)
        self._held[: len(ids_T)] = ids_T
        self._length = len(ids_T)

    def __len__(self) -> int:
        return self._length

    def append(self, token: int) -> None:
        if self._length == len(self._held):
            self._held = np.concatenate([self._held, np.empty_like(self._held)])
        self._held[self._length] = token
        self._length += 1

    def view(self) -> Ids:
        return self._held[: self._length]


@dataclass(slots=True)
class LiveRow:
    """One sequence being generated."""

    number: int  # its place among the results
    request: Request
    stream: int
    ids: TokenBuffer
    session_row: int
    unconditional_row: int | None = None
    reason: str | None = None

    @property
    def num_new(self) -> int:
        return len(self.ids) - len(self.request.ids_T)

    def cap_draft(self, num_tokens: int) -> int:
        """How many of `num_tokens` guesses one step may check: the token after them must be inside the context, and
        no token's scores may depend on a guess after it."""
        room = max(0, min(num_tokens, self.request.end - len(self.ids) - 1))
        lengths = [len(self.ids)]
        if self.unconditional_row is not None:
            lengths.append(len(self.request.unconditional_ids()) + self.num_new)
        while room and any(self.request.turns_over(length, length + room) for length in lengths):
            room -= 1
        return room

    def append(self, token: int) -> None:
        """Adds the token and finds out whether it is the last."""
        self.ids.append(token)
        self.reason = end_reason(self.request, self.ids.view())

    def result(self) -> RowResult:
        ids_T = self.ids.view()
        num_prompt = len(self.request.ids_T)
        return RowResult(
            prompt=self.request.index,
            prompt_ids=ids_T[:num_prompt].tolist(),
            new_ids=ids_T[num_prompt:].tolist(),
            reason=self.reason or "",
        )


def end_reason(request: Request, ids_T: Ids) -> str | None:
    """Why `ids_T` is where the sequence ends, or None if it goes on."""
    for stop in request.stops:
        if (reason := stop(ids_T)) is not None:
            return reason
    return "context" if len(ids_T) >= request.end else None


class Drafter(Protocol):
    """Guesses tokens that one step then checks. Wrong guesses cost time, never a different result."""

    def propose(self, rows: Sequence[LiveRow]) -> list[Ids]:
        """For each row, the ids that may come next; possibly none."""
        ...

    def learn(self, row: LiveRow, num_drafted: int, num_accepted: int) -> None: ...

    def release(self, row: LiveRow) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Decoder:
    """Runs requests to their ends in one session."""

    session: Session
    records: Records = field(default_factory=Records)
    drafter: Drafter | None = None
    on_token: Callable[[int, int], None] | None = None  # result number, id
    is_cancelled: Callable[[], bool] | None = None
    prefill_chunk_size: int | None = None

    def run(self, requests: Sequence[Request]) -> list[RowResult]:
        """One result a sequence: all of the first request, then all of the second, and so on."""
        rows = self._start(requests)
        live = [row for row in rows if row.reason is None]
        while live:
            if self.is_cancelled is not None and self.is_cancelled():
                for row in live:
                    row.reason = "cancelled"
                    self._leave(row)
                break
            self._step(live)
            live = [row for row in live if row.reason is None]
        return [row.result() for row in rows]

    def _start(self, requests: Sequence[Request]) -> list[LiveRow]:
        """Reads each prompt once, forks it for each of its sequences, and chooses every first token."""
        prefilled = prefill(self.session, requests, self.prefill_chunk_size, self.records)
        rows: list[LiveRow] = []
        for request, past in zip(requests, prefilled, strict=True):
            for place in range(request.num_sequences):
                is_last = place == request.num_sequences - 1  # takes the prompt's own rows
                row = LiveRow(
                    number=len(rows),
                    request=request,
                    stream=request.first_stream + place,
                    ids=TokenBuffer(request.ids_T),
                    session_row=past.row if is_last else self.session.fork(past.row),
                )
                if past.unconditional_row is not None:
                    kept = past.unconditional_row
                    row.unconditional_row = kept if is_last else self.session.fork(kept)
                rows.append(row)
        number = 0
        for request, past in zip(requests, prefilled, strict=True):
            for row in rows[number : number + request.num_sequences]:
                self._select(row, past.logits_V.copy(), past.unconditional_V, past.hidden_states, past.attentions)
                if row.reason is not None:
                    self._leave(row)
            number += request.num_sequences
        return rows

    def _step(self, live: list[LiveRow]) -> None:
        """Feeds each row its last token and its draft, and keeps what the scores confirm."""
        drafts = [NO_TOKENS] * len(live) if self.drafter is None else self.drafter.propose(live)
        drafts = [draft[: row.cap_draft(len(draft))] for row, draft in zip(live, drafts, strict=True)]
        fed = [np.append(row.ids.view()[-1:], draft).tolist() for row, draft in zip(live, drafts, strict=True)]
        batch = [(row.session_row, tokens) for row, tokens in zip(live, fed, strict=True)]
        guided = [place for place, row in enumerate(live) if row.unconditional_row is not None]
        batch += [(mirror, fed[place]) for place in guided if (mirror := live[place].unconditional_row) is not None]
        kind: Literal["last", "all"] = "all" if any(len(draft) for draft in drafts) else "last"
        output = self.session.step(
            batch,
            logits=kind,
            hidden_states=self.records.keeps_hidden_states,
            attentions=self.records.keeps_attentions,
        )
        counts = [len(tokens) for _, tokens in batch] if kind == "all" else [1] * len(batch)
        starts = np.cumsum([0, *counts])
        mirrors = {place: starts[len(live) + order] for order, place in enumerate(guided)}
        for place, (row, draft) in enumerate(zip(live, drafts, strict=True)):
            self._verify(row, draft, output, place, int(starts[place]), mirrors.get(place))

    def _verify(self, row: LiveRow, draft: Ids, output: StepOutput, place: int, start: int, mirror: int | None) -> None:
        num_accepted = 0
        for offset in range(len(draft) + 1):
            unconditional_V = None if mirror is None else output.logits[mirror + offset]
            hidden, attentions = token_states(output, place, offset, len(row.ids))
            token = self._select(row, output.logits[start + offset], unconditional_V, hidden, attentions)
            if row.reason is not None or offset == len(draft) or token != draft[offset]:
                break
            num_accepted += 1
        if self.drafter is not None and len(draft):
            self.drafter.learn(row, len(draft), num_accepted)
        if row.reason is not None:
            self._leave(row)
        elif num_accepted < len(draft):
            for session_row in (row.session_row, row.unconditional_row):
                if session_row is not None:
                    surplus = len(draft) - num_accepted
                    self.session.truncate(session_row, self.session.length(session_row) - surplus)

    def _select(
        self, row: LiveRow, logits_V: Floats, unconditional_V: Floats | None, hidden: Any, attentions: Any
    ) -> int:
        ids_T = row.ids.view()
        step = row.num_new
        self.records.put(step, row.number, logits=logits_V, hidden_states=hidden, attentions=attentions)
        scores_V = row.request.shape_scores(ids_T, logits_V, unconditional_V)
        self.records.put(step, row.number, scores=scores_V)
        token = row.request.choose(ids_T, scores_V, row.stream)
        row.append(token)
        if self.on_token is not None:
            self.on_token(row.number, token)
        return token

    def _leave(self, row: LiveRow) -> None:
        self.session.release(row.session_row)
        if row.unconditional_row is not None:
            self.session.release(row.unconditional_row)
        if self.drafter is not None:
            self.drafter.release(row)


@dataclass(slots=True)
class Prefilled:
    """A prompt that the session has read, and what it says of the next token."""

    row: int
    logits_V: Floats
    hidden_states: list[Any] | None = None
    attentions: list[Any] | None = None
    unconditional_row: int | None = None
    unconditional_V: Floats | None = None


def prefill(session: Session, requests: Sequence[Request], chunk_size: int | None, records: Records) -> list[Prefilled]:
    """Reads all prompts together, `chunk_size` tokens of each at a time; guided ones with their negative prompts."""
    prompts = [request.ids_T for request in requests]
    guided = [place for place, request in enumerate(requests) if request.guidance is not None]
    prompts += [requests[place].unconditional_ids() for place in guided]
    read = [Prefilled(session.add(), np.empty(0, dtype=np.float32)) for _ in prompts]
    longest = max(map(len, prompts), default=0)
    size = chunk_size or longest
    for begin in range(0, longest, size or 1):
        places = [place for place, ids_T in enumerate(prompts) if len(ids_T) > begin]
        batch = [(read[place].row, prompts[place][begin : begin + size].tolist()) for place in places]
        output = session.step(batch, hidden_states=records.keeps_hidden_states, attentions=records.keeps_attentions)
        for order, place in enumerate(places):
            past = read[place]
            past.logits_V = output.logits[order].copy()
            if output.hidden_states is not None:
                past.hidden_states = join_states(past.hidden_states, output.hidden_states[order])
            if output.attentions is not None:
                past.attentions = join_attentions(past.attentions, output.attentions[order])
    for order, place in enumerate(guided):
        mirror = read[len(requests) + order]
        read[place].unconditional_row, read[place].unconditional_V = mirror.row, mirror.logits_V
    return read[: len(requests)]


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
