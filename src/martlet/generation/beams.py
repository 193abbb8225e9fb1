"""Beam search and beam sampling, with Hugging Face's scoring rules. Every prompt's beams end on their own."""

# K candidates of one step, L ids of a beam, N beams x vocabulary, S steps, V vocabulary, W beams

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from martlet.errors import CacheMemoryError
from martlet.generation.backend import Floats, Ids, Session
from martlet.generation.outputs import Records, RowResult
from martlet.generation.prefill import Prefill, Prefilled, token_states
from martlet.generation.rows import NOTHING_LEFT, Request, end_reason
from martlet.generation.sampling import choose_without_replacement, highest, uniforms

# Hugging Face's "no score yet": low enough to lose to any real sum of log probabilities.
NO_SCORE = np.float32(-1e9)
PAGE_OF_A_BEAM = 16  # tokens: the page in which a beam leaves the others is copied


@dataclass(frozen=True, slots=True)
class BeamPlan:
    """What a caller asks of the search. A finished beam's score is its log probability / new tokens**length_penalty.

    `early_stopping`: True ends a prompt once `num_beams` are finished; False once the best running beam, scored at
    its present length, is no better than the worst finished one; "never" scores it at its longest if that is better.
    """

    num_beams: int
    num_returned: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False


@dataclass(slots=True)
class Hypothesis:
    """A finished beam."""

    score: np.float32
    ids_L: Ids
    beams_S: Ids
    reason: str


@dataclass(slots=True)
class PromptBeams:
    """The running and finished beams of one prompt."""

    request: Request
    plan: BeamPlan
    ids_WL: NDArray[np.int64]
    scores_W: Floats
    beams_WS: NDArray[np.int64]  # in which beam each new token was chosen
    rows_W: list[int]  # session rows; the same one several times only before the first choice
    unconditional_W: list[int] | None
    finished: list[Hypothesis] = field(default_factory=list)
    is_done: bool = False

    @classmethod
    def begin(cls, request: Request, plan: BeamPlan, past: Prefilled) -> PromptBeams:
        """All beams are the prompt; only the first counts, lest every beam choose the same tokens."""
        scores_W = np.full(plan.num_beams, NO_SCORE, dtype=np.float32)
        scores_W[0] = 0.0
        mirror = past.unconditional_row
        return cls(
            request=request,
            plan=plan,
            ids_WL=np.tile(request.ids_T, (plan.num_beams, 1)),
            scores_W=scores_W,
            beams_WS=np.empty((plan.num_beams, 0), dtype=np.int64),
            rows_W=[past.row] * plan.num_beams,
            unconditional_W=None if mirror is None else [mirror] * plan.num_beams,
        )

    @property
    def num_new(self) -> int:
        return int(self.beams_WS.shape[1])

    def feed(self) -> list[tuple[int, list[int]]]:
        """Each session row with the token it has not read: all beams, then all unconditional ones."""
        last_W = [[token] for token in self.ids_WL[:, -1].tolist()]
        fed = list(zip(self.rows_W, last_W, strict=True))
        if self.unconditional_W is not None:
            fed += zip(self.unconditional_W, last_W, strict=True)
        return fed

    def advance(self, shaped: Sequence[Floats], is_cancelled: bool) -> list[int]:
        """Chooses the next tokens from each beam's shaped log probabilities; returns each new beam's old beam."""
        plan, scores_N = self.plan, np.concatenate([s + own for s, own in zip(shaped, self.scores_W, strict=True)])
        self.request.check_scores(scores_N, self.ids_WL[0], NOTHING_LEFT)
        places_K = self._candidates(scores_N)
        scores_K = scores_N[places_K]
        olds_K, tokens_K = np.divmod(places_K, len(shaped[0]))
        ids_KL = np.concatenate([self.ids_WL[olds_K], tokens_K[:, None]], axis=1)
        beams_KS = np.concatenate([self.beams_WS[olds_K], olds_K[:, None]], axis=1)
        reasons = [end_reason(self.request, ids_L) or ("cancelled" if is_cancelled else None) for ids_L in ids_KL]
        ended_K = np.array([reason is not None for reason in reasons])

        # Only the best `num_beams` may finish; the others are there so that enough beams can go on.
        penalty = (self.num_new + 1) ** plan.length_penalty
        for place, reason in enumerate(reasons[: plan.num_beams]):
            if reason is not None:
                score = np.float32(scores_K[place] / penalty)
                self.finished.append(Hypothesis(score, ids_KL[place], beams_KS[place], reason))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)  # stable: of equals, the earlier
        del self.finished[plan.num_beams :]

        running_K = (scores_K + ended_K.astype(np.float32) * NO_SCORE).astype(np.float32)
        next_W = highest(running_K, plan.num_beams)
        self.ids_WL, self.scores_W, self.beams_WS = ids_KL[next_W], running_K[next_W], beams_KS[next_W]
        self.is_done = bool(ended_K.all()) or not self._can_improve()
        if self.is_done:
            self._fill_up(penalty)
        return [int(old) for old in olds_K[next_W]]

    def _fill_up(self, penalty: float) -> None:
        """Where processors left fewer ends than results: running beams, which nothing possible can follow."""
        for ids_L, score, beams_S in zip(self.ids_WL, self.scores_W, self.beams_WS, strict=True):
            if len(self.finished) >= self.plan.num_returned:
                break
            self.finished.append(Hypothesis(np.float32(score / penalty), ids_L, beams_S, "exhausted"))

    def _candidates(self, scores_N: Floats) -> Ids:
        # Enough that `num_beams` can go on even if every beam's best continuations are ends.
        wanted = max(2, 1 + self.request.num_eos) * self.plan.num_beams
        count, seed = min(wanted, scores_N.size), self.request.seed
        if seed is None:
            return highest(scores_N, count)
        draws_N = uniforms(seed, self.request.first_stream, self.ids_WL.shape[1], scores_N.size)
        return choose_without_replacement(scores_N, draws_N, count)

    def _can_improve(self) -> bool:
        plan, is_full = self.plan, len(self.finished) == self.plan.num_beams
        if is_full and plan.early_stopping is True:
            return False
        to_the_end = plan.early_stopping == "never" and plan.length_penalty > 0.0
        most = self.request.max_new_tokens or self.request.end - len(self.request.ids_T)
        length = most if to_the_end else self.num_new
        worst = self.finished[-1].score if is_full else NO_SCORE
        return bool(np.float32(self.scores_W[0] / length**plan.length_penalty) > worst)

    def results(self) -> list[RowResult]:
        """The best finished beams, best first."""
        num_prompt, first_beam = len(self.request.ids_T), self.request.index * self.plan.num_beams
        return [
            RowResult(
                prompt=self.request.index,
                prompt_ids=best.ids_L[:num_prompt].tolist(),
                new_ids=best.ids_L[num_prompt:].tolist(),
                reason=best.reason,
                score=float(best.score),
                beam_indices=(best.beams_S + first_beam).tolist(),
            )
            for best in self.finished[: self.plan.num_returned]
        ]


@dataclass(slots=True)
class BeamDecoder:
    """Runs the beams of all prompts together, one session row a beam."""

    session: Session
    plan: BeamPlan
    records: Records = field(default_factory=Records)
    is_cancelled: Callable[[], bool] | None = None
    prefill_chunk_size: int | None = None

    def run(self, requests: Sequence[Request]) -> list[RowResult]:
        """`plan.num_returned` results a prompt, best first. Prompts that memory has no room for wait for others."""
        waiting, searches = deque(requests), list[PromptBeams]()
        live: list[PromptBeams] = []
        while live or waiting:
            if (admitted := self._admit(waiting, live)) or not live:
                searches += self._begin(admitted or [waiting.popleft()])
            live = [search for search in searches if not search.is_done]
            if live:
                self._step(live)
                live = [search for search in live if not search.is_done]
        return [result for search in searches for result in search.results()]

    def _admit(self, waiting: deque[Request], live: Sequence[PromptBeams]) -> list[Request]:
        """The next prompts whose beams fit to their ends beside the live ones, at worst."""
        lengths: list[int] = []
        for search in live:
            new = _most_new(search.request) - search.num_new + PAGE_OF_A_BEAM
            lengths += [new] * (len(search.rows_W) + len(search.unconditional_W or []))
        admitted: list[Request] = []
        while waiting:
            new = _most_new(waiting[0])
            pasts = [len(waiting[0].ids_T)]
            if waiting[0].guidance is not None:
                pasts.append(len(waiting[0].unconditional_ids()))
            for past in pasts:
                lengths += [past + new] + [new + PAGE_OF_A_BEAM] * (self.plan.num_beams - 1)
            if not self.session.fits(lengths):
                break
            admitted.append(waiting.popleft())
        return admitted

    def _begin(self, requests: Sequence[Request]) -> list[PromptBeams]:
        reader = Prefill(self.session, self.records, self.prefill_chunk_size)
        begun = []
        for request, past in zip(requests, self._patiently(lambda: reader.run(requests)), strict=True):
            search = PromptBeams.begin(request, self.plan, past)
            begun.append(search)
            shaped_V = self._shape(search, 0, past.logits_V, past.unconditional_V)
            for beam in range(self.plan.num_beams):
                self._record(search, beam, past.logits_V, shaped_V, past.hidden_states, past.attentions)
            self._advance(search, [shaped_V] * self.plan.num_beams)
        return begun

    def _patiently(self, work: Callable[[], Any]) -> Any:
        """Does it again while other sessions hold the memory it lacks. CacheMemoryError where they do not."""
        while True:
            try:
                return work()
            except CacheMemoryError:
                if not self.session.wait([1]):
                    raise

    def _step(self, live: Sequence[PromptBeams]) -> None:
        batch = [fed for search in live for fed in search.feed()]
        output = self._patiently(
            lambda: self.session.step(
                batch, hidden_states=self.records.keeps_hidden_states, attentions=self.records.keeps_attentions
            )
        )
        num_beams, start = self.plan.num_beams, 0
        for search in live:
            mirror = None if search.unconditional_W is None else start + num_beams
            shaped = []
            for beam in range(num_beams):
                logits_V = output.logits[start + beam]
                unconditional_V = None if mirror is None else output.logits[mirror + beam]
                shaped_V = self._shape(search, beam, logits_V, unconditional_V)
                states = token_states(output, start + beam, 0, search.ids_WL.shape[1])
                self._record(search, beam, logits_V, shaped_V, *states)
                shaped.append(shaped_V)
            start += num_beams if mirror is None else 2 * num_beams
            self._advance(search, shaped)

    def _shape(self, search: PromptBeams, beam: int, logits_V: Floats, unconditional_V: Floats | None) -> Floats:
        ids_L = search.ids_WL[beam]
        return search.request.shape_scores(ids_L, logits_V, unconditional_V, before=log_softmax, may_be_empty=True)

    def _record(
        self, search: PromptBeams, beam: int, logits_V: Floats, shaped_V: Floats, hidden: Any, attentions: Any
    ) -> None:
        row = search.request.index * self.plan.num_beams + beam
        self.records.put(
            search.num_new, row, logits=logits_V, scores=shaped_V, hidden_states=hidden, attentions=attentions
        )

    def _advance(self, search: PromptBeams, shaped: Sequence[Floats]) -> None:
        cancelled = self.is_cancelled is not None and self.is_cancelled()
        olds = search.advance(shaped, cancelled)
        if search.is_done:
            for row in {*search.rows_W, *(search.unconditional_W or [])}:
                self.session.release(row)
            return
        search.rows_W = self._move(search.rows_W, olds)
        if search.unconditional_W is not None:
            search.unconditional_W = self._move(search.unconditional_W, olds)

    def _move(self, rows_W: list[int], olds: list[int]) -> list[int]:
        """Session rows for new beams whose pasts are those of the old beams `olds`: the first heir takes the row."""
        moved, taken = [], set[int]()
        for old in olds:
            row = rows_W[old]
            moved.append(self.session.fork(row) if row in taken else row)
            taken.add(row)
        for row in set(rows_W) - taken:
            self.session.release(row)
        return moved


def log_softmax(logits_V: Floats) -> Floats:
    """Log probabilities, in float32 as the search adds them up."""
    with np.errstate(invalid="ignore"):  # infinity gives NaN, which a processor may have been asked to repair
        shifted_V = logits_V - logits_V.max()
        return np.asarray(shifted_V - np.log(np.exp(shifted_V).sum()), dtype=np.float32)


def _most_new(request: Request) -> int:
    return request.max_new_tokens or request.end - len(request.ids_T)
