"""One prompt as a request, and one sequence being generated: what the loop, the beams and the drafters pass around."""

# T tokens, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from martlet.errors import NonFiniteLogitsError
from martlet.generation.backend import Choice, Floats, Ids, Sizes
from martlet.generation.config import GenerationConfig
from martlet.generation.outputs import RowResult
from martlet.generation.processors import guide
from martlet.generation.sampling import choose_greedy, choose_sampled, uniforms
from martlet.generation.settings import eos_ids
from martlet.rope import turns_over

Processor = Callable[[Ids, Floats], Floats]
Guidance = Callable[[Floats, Floats], Floats]  # scores, and those without the prompt
Stop = Callable[[Ids], str | None]
NOTHING_LEFT = "the logits processors left no token that can be chosen"
NOT_FINITE = "the model gave logits with NaN or infinity"
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
    num_logprobs: int | None = None  # how many of the likeliest ids are told with each token
    repairs_logits: bool = False  # a processor replaces NaN and infinity
    choice: Choice | None = None  # processors and draw in a form that a backend can do itself
    is_watched: bool = True  # Python must look at each token: a stop of its own, or a listener
    turns_over: Callable[[int, int], bool] = lambda length, grown: False  # would growing change what was read?

    def lengths_to_read(self) -> list[int]:
        """Lengths of the rows it begins with, each with its next token."""
        lengths = [len(self.ids_T) + 1] + [1] * (self.num_sequences - 1)
        return lengths if self.guidance is None else [*lengths, len(self.unconditional_ids()) + 1]

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
            self.check_scores(logits_V, ids_T, NOT_FINITE)
        scores_V = logits_V if before is None else before(logits_V)
        if self.guidance is not None and unconditional_V is not None:
            scores_V = self.guidance(scores_V, unconditional_V)
        for process in self.processors:
            scores_V = process(ids_T, scores_V)
        if self.processors or self.repairs_logits:
            self.check_scores(scores_V, ids_T, NOTHING_LEFT, may_be_empty)
        return scores_V

    def choose(self, ids_T: Ids, scores_V: Floats, stream: int) -> int:
        """An id at the row's own draw, or the likeliest."""
        if self.seed is None:
            return choose_greedy(scores_V)
        return choose_sampled(scores_V, float(uniforms(self.seed, stream, len(ids_T))[0]))

    def fail(self, rule: str, length: int, found: str) -> NonFiniteLogitsError:
        """The error of a row from whose scores nothing can be chosen."""
        return NonFiniteLogitsError(
            f"row {self.index}, position {length}",
            rule,
            found=found,
            remedy="" if rule == NOTHING_LEFT else "Is the checkpoint whole, and its dtype wide enough?",
        )

    def check_scores(self, scores_V: Floats, ids_T: Ids, rule: str, may_be_empty: bool = False) -> None:
        highest = float(np.max(scores_V))  # NaN if any is; -inf if all are
        if not np.isfinite(highest) and not (may_be_empty and highest == -np.inf):
            raise self.fail(rule, len(ids_T), f"a highest score of {highest}")


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
    session_row: int = -1
    unconditional_row: int | None = None
    reason: str | None = None
    chooser: Any = None  # the backend's, where it chooses
    logprobs: list[Any] = field(default_factory=list)

    @property
    def num_new(self) -> int:
        return len(self.ids) - len(self.request.ids_T)

    def lengths_to_read(self) -> list[int]:
        """Lengths of the rows to read again, each with room for a token more."""
        lengths = [len(self.ids) + 1]
        if self.unconditional_row is not None:
            lengths.append(len(self.request.unconditional_ids()) + self.num_new + 1)
        return lengths

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
            logprobs=None if self.request.num_logprobs is None else self.logprobs,
        )


def end_reason(request: Request, ids_T: Ids) -> str | None:
    """Why `ids_T` is where the sequence ends, or None if it goes on."""
    for stop in request.stops:
        if (reason := stop(ids_T)) is not None:
            return reason
    return "context" if len(ids_T) >= request.end else None


def open_request(
    config: GenerationConfig, row: GenerationConfig, place: int, ids_T: Ids, negative_T: Ids | None, arch: Sizes
) -> Request:
    """A row's request but for its processors and stops."""
    num_sequences = 1 if config.num_beams > 1 else config.num_return_sequences
    scale = 1.0 if row.guidance_scale is None else row.guidance_scale
    num_read = len(ids_T) if scale == 1.0 or negative_T is None else max(len(ids_T), len(negative_T))
    # A prompt that fills the context still has the one token that its last position says.
    room = max(1, arch.max_position_embeddings - num_read)
    has_own_seed = (
        isinstance(config.seed, list | tuple) and row.seed is not None
    )  # and draws the same whatever its place among the rows
    return Request(
        index=place,
        ids_T=ids_T,
        end=len(ids_T) + room,
        max_new_tokens=min(row.max_new_tokens, room),
        num_sequences=num_sequences,
        num_eos=len(eos_ids(row)),
        seed=row.seed if row.do_sample else None,
        first_stream=0 if has_own_seed else place * num_sequences,
        guidance=None if scale == 1.0 else partial(guide, scale=scale),
        negative_ids_T=negative_T,
        repairs_logits=bool(row.remove_invalid_values),
        turns_over=_turns_of(arch),
    )


def _turns_of(arch: Any) -> Callable[[int, int], bool]:
    """Whether a row that grows from one length past another has all its keys turned anew (longrope, dynamic)."""
    ropes = {layer.rope for layer in getattr(arch, "layers", ()) if layer.rope}
    return lambda length, grown: any(turns_over(rope, length, grown) for rope in ropes)
