"""The decode loop: greedy, sampled and drafted tokens for any number of ragged rows, as many at once as memory holds.
Beams live in beams.py, reading prompts in prefill.py, padding and argument checking in door.py."""

# B rows of one step, T tokens, V vocabulary

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from martlet.errors import CacheMemoryError
from martlet.generation.backend import Chosen, Floats, Ids, Session, StepOutput
from martlet.generation.outputs import Records, RowResult
from martlet.generation.prefill import Cancelled, Prefill, Prefilled, token_states
from martlet.generation.rows import NO_TOKENS, NOT_FINITE, NOTHING_LEFT, LiveRow, Request, TokenBuffer
from martlet.generation.sampling import highest, log_probabilities

STEPS_TOGETHER = 256  # of a backend that chooses by itself, before Python has another look


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
    """Runs requests to their ends in one session. Rows that memory has no room for wait until others have left; one
    that had begun is read again, and goes on with the same tokens."""

    session: Session
    records: Records = field(default_factory=Records)
    drafter: Drafter | None = None
    on_token: Callable[[int, int], None] | None = None  # result number, id
    is_cancelled: Callable[[], bool] | None = None
    prefill_chunk_size: int | None = None
    _live: list[LiveRow] = field(default_factory=list)
    _waiting: deque[tuple[int, Request]] = field(default_factory=deque)  # with the number of its first result
    _sent_back: deque[LiveRow] = field(default_factory=deque)
    _done: list[LiveRow] = field(default_factory=list)

    def run(self, requests: Sequence[Request]) -> list[RowResult]:
        """One result a sequence: all of the first request, then all of the second, and so on."""
        number = 0
        for request in requests:
            self._waiting.append((number, request))
            number += request.num_sequences
        try:
            while self._live or self._waiting or self._sent_back:
                if self.is_cancelled is not None and self.is_cancelled():
                    raise Cancelled
                if not self._admit() and not self._live:
                    self._wait()
                if self._live:
                    self._step()
                    self._live = [row for row in self._live if row.reason is None]
        except Cancelled:
            self._cancel()
        return [row.result() for row in sorted(self._done, key=lambda row: row.number)]

    def _cancel(self) -> None:
        """Rows end where they are; those that had not begun end with their prompts."""
        for row in self._live:
            self._leave(row, "cancelled")
        begun = [self._begin(at + place, of, place) for at, of in self._waiting for place in range(of.num_sequences)]
        for row in [*self._sent_back, *begun]:
            row.reason = "cancelled"
            self._done.append(row)

    def _admit(self) -> bool:
        """Lets in rows that were sent back, then new requests, as many as fit; whether any came."""
        num_back = len(self._sent_back)
        try:
            while self._sent_back and self.session.fits(self._sent_back[0].lengths_to_read(), self._growth()):
                self._read_again(self._sent_back[0])
                self._live.append(self._sent_back.popleft())
            lengths: list[int] = []
            num_new = 0
            while not self._sent_back and num_new < len(self._waiting):
                lengths += self._waiting[num_new][1].lengths_to_read()
                if not self.session.fits(lengths, self._growth()):
                    break
                num_new += 1
            if num_new:
                self._start([self._waiting[place] for place in range(num_new)])
        except CacheMemoryError:  # another session was faster
            return False
        return num_new > 0 or len(self._sent_back) < num_back

    def _wait(self) -> None:
        """Nobody is here, and the first in line does not fit."""
        first = self._sent_back[0] if self._sent_back else self._waiting[0][1]
        if not self.session.wait(lengths := first.lengths_to_read()):
            raise too_large(max(lengths))

    def _start(self, admitted: Sequence[tuple[int, Request]]) -> None:
        """Reads each prompt once, forks it for each of its sequences, and chooses every first token."""
        reader = Prefill(self.session, self.records, self.prefill_chunk_size, self.is_cancelled)
        prefilled = reader.run([request for _, request in admitted])
        begun: list[tuple[LiveRow, Prefilled]] = []
        for (number, request), past in zip(admitted, prefilled, strict=True):
            self._waiting.popleft()
            for place in range(request.num_sequences):
                row = self._begin(number + place, request, place)
                is_last = place == request.num_sequences - 1  # takes the prompt's own rows
                row.session_row = past.row if is_last else self.session.fork(past.row)
                if (kept := past.unconditional_row) is not None:
                    row.unconditional_row = kept if is_last else self.session.fork(kept)
                begun.append((row, past))
        for row, past in begun:
            if row.request.choice is not None and not self.records.keeps_any:
                row.chooser = self.session.chooser(row.request.choice, row.stream, row.ids.view())
            # processors may write on what they get, which several sequences of one prompt share
            logits_V = past.logits_V if row.request.num_sequences == 1 else past.logits_V.copy()
            self._select(row, logits_V, past.unconditional_V, past.hidden_states, past.attentions)
            if row.reason is None:
                self._live.append(row)
            else:
                self._leave(row)

    def _begin(self, number: int, request: Request, place: int) -> LiveRow:
        return LiveRow(number, request, request.first_stream + place, TokenBuffer(request.ids_T))

    def _send_back(self) -> None:
        """Gives the youngest row's memory to those before it. It will be read again when there is room."""
        row = max(self._live, key=lambda row: row.number)
        self._release(row)
        self._live.remove(row)
        self._sent_back.appendleft(row)

    def _read_again(self, row: LiveRow) -> None:
        unread = [row.ids.view()[:-1]]
        if row.unconditional_row is not None:
            answer_T = row.ids.view()[len(row.request.ids_T) : -1]
            unread.append(np.concatenate([row.request.unconditional_ids(), answer_T]))
        numbers = Prefill(self.session, Records(), self.prefill_chunk_size, self.is_cancelled).read(unread)
        row.session_row = numbers[0].row
        if row.unconditional_row is not None:
            row.unconditional_row = numbers[1].row

    def _growth(self, counts: Mapping[int, int] | None = None) -> list[tuple[int, int]]:
        """Session rows, each with the tokens it is about to take: one, but where `counts` (by result) has more."""
        counts = counts or {}
        pairs = [(row.session_row, counts.get(row.number, 1)) for row in self._live]
        mirrors = [(row.unconditional_row, counts.get(row.number, 1)) for row in self._live]
        return pairs + [(number, count) for number, count in mirrors if number is not None]

    def _step(self) -> None:
        """One step of all rows, or several where the session can; first some rows leave if memory is short."""
        while self._live and not self.session.fits([], self._growth()):
            self._send_back()
        if not self._live:
            return
        try:
            if self.drafter is None and all(row.chooser is not None for row in self._live):
                self._advance(list(self._live))
            else:
                self._verify_drafts(list(self._live))
        except CacheMemoryError:  # another session was faster; the rows are as they were
            if not self.session.is_limited:
                raise
            self._send_back()

    def _advance(self, live: list[LiveRow]) -> None:
        """Steps that the backend makes by itself."""
        is_watched = self.on_token is not None or self.is_cancelled is not None
        is_watched = is_watched or any(row.request.is_watched for row in live)
        batch = [(row.session_row, row.ids.view()[-1:].tolist()) for row in live]
        choosers = [row.chooser for row in live]

        def take(chosen: Sequence[Chosen]) -> bool:
            for row, each in zip(live, chosen, strict=True):
                self._take(row, each)
            is_cancelled = self.is_cancelled is not None and self.is_cancelled()
            return not is_cancelled and all(row.reason is None for row in live)

        if is_watched:
            self.session.advance(batch, choosers, STEPS_TOGETHER, take)
        else:
            for chosen in self.session.advance(batch, choosers, STEPS_TOGETHER):
                take(chosen)
        for row in live:
            if row.reason is not None:
                self._leave(row)

    def _take(self, row: LiveRow, chosen: Chosen) -> int:
        if chosen.token < 0:
            rule = NOT_FINITE if chosen.failure == "not finite" else NOTHING_LEFT
            raise row.request.fail(rule, len(row.ids), chosen.failure)
        if chosen.logprobs is not None:
            row.logprobs.append(chosen.logprobs)
        row.append(chosen.token)
        if self.on_token is not None:
            self.on_token(row.number, chosen.token)
        return chosen.token

    def _verify_drafts(self, live: list[LiveRow]) -> None:
        """Feeds each row its last token and its draft, and keeps what the scores confirm."""
        drafts = [NO_TOKENS] * len(live) if self.drafter is None else self.drafter.propose(live)
        drafts = [draft[: row.cap_draft(len(draft))] for row, draft in zip(live, drafts, strict=True)]
        wanted = {row.number: len(draft) + 1 for row, draft in zip(live, drafts, strict=True)}
        if not self.session.fits([], self._growth(wanted)):
            drafts = [NO_TOKENS] * len(live)
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
        if row.chooser is not None:
            return self._take(row, row.chooser.choose(logits_V, len(ids_T)))
        count = row.request.num_logprobs
        likeliest = [] if count is None else highest(logits_V, min(count, len(logits_V))).tolist()
        told_V = None if count is None else log_probabilities(logits_V)
        scores_V = row.request.shape_scores(ids_T, logits_V, unconditional_V)
        self.records.put(step, row.number, scores=scores_V)
        token = row.request.choose(ids_T, scores_V, row.stream)
        logprobs = (
            None if told_V is None else (float(told_V[token]), [(each, float(told_V[each])) for each in likeliest])
        )
        return self._take(row, Chosen(token, logprobs=logprobs))

    def _leave(self, row: LiveRow, reason: str | None = None) -> None:
        row.reason = reason or row.reason
        self._done.append(row)
        self._release(row, keep=True)
        if self.drafter is not None:
            self.drafter.release(row)

    def _release(self, row: LiveRow, keep: bool = False) -> None:
        for number in (row.session_row, row.unconditional_row):
            if number is not None:
                self.session.release(number, keep=keep)


def too_large(length: int) -> CacheMemoryError:
    """The error of a row that does not fit though no other is there."""
    return CacheMemoryError(
        "keys and values",
        "a row must fit the memory they are given",
        found=f"no room for one of {length} tokens, though no other is there",
        remedy="Pass a larger kv_cache_bytes, or a shorter prompt.",
    )
