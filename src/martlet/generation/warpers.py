"""The processors of sampling: each leaves out unlikely tokens by a rule of its own. Also softmax, which they share.

Constructor arguments are Hugging Face's. All work on the tokens still in play, so a chain gets cheaper as it goes."""

# V vocabulary, K tokens still in play

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError
from martlet.generation.backend import Floats, Ids
from martlet.generation.exponential import exponential, sum_in_order

NOT_CHOSEN = -math.inf
TOP_H_CANDIDATES = 100  # what Hugging Face's top_h considers
FIRST_SORTED = 1024


def softmax(scores_V: Floats) -> Floats:
    """Probabilities, computed in float64 and rounded to float32."""
    exact_V = scores_V.astype(np.float64)
    with np.errstate(invalid="ignore"):  # all -inf has no distribution: NaN, which the loop names
        weights_V = exponential(exact_V - exact_V.max())
    return (weights_V / sum_in_order(weights_V)).astype(np.float32)


def log_softmax(scores_V: Floats) -> Floats:
    """Log probabilities in float32; the sum is float64."""
    with np.errstate(invalid="ignore"):
        shifted_V = scores_V - scores_V.max()
        return np.asarray(shifted_V - np.float32(np.log(np.exp(shifted_V).sum(dtype=np.float64))), dtype=np.float32)


def kth_highest(scores_V: Floats, k: int) -> np.float32:
    """The score that `k` tokens have or exceed."""
    return np.float32(np.partition(scores_V, scores_V.size - k)[scores_V.size - k])


def in_play(scores_V: Floats, filter_value: float) -> NDArray[np.int64]:
    """Ids that leaving out would change."""
    if filter_value == NOT_CHOSEN:
        return np.flatnonzero(scores_V != NOT_CHOSEN)
    return np.arange(scores_V.size)


def check_kept(min_tokens_to_keep: Any) -> None:
    if isinstance(min_tokens_to_keep, bool) or not isinstance(min_tokens_to_keep, int) or min_tokens_to_keep < 1:
        raise ArgumentError("min_tokens_to_keep", "must be an integer of at least 1", found=repr(min_tokens_to_keep))


def check_number(name: str, value: Any, rule: str, holds: bool) -> None:
    if not holds:
        raise ArgumentError(name, f"must be a number {rule}", found=repr(value))


@dataclass(slots=True)
class Temperature:
    """Divides the scores: below 1 the likely tokens become likelier."""

    temperature: float

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, "greater than 0", self.temperature > 0)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        scores /= np.float32(self.temperature)
        return scores


@dataclass(slots=True)
class TopK:
    """Keeps the `top_k` highest scores, and all equal to the lowest of them."""

    top_k: int
    filter_value: float = NOT_CHOSEN
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1:
            raise ArgumentError("top_k", "must be an integer of at least 1", found=repr(self.top_k))

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        k = min(max(self.top_k, self.min_tokens_to_keep), scores.size)
        scores[scores < kth_highest(scores, k)] = self.filter_value
        return scores


@dataclass(slots=True)
class TopP:
    """Keeps the smallest set of likeliest tokens whose probabilities reach `top_p` (Holtzman et al. 2020, nucleus
    sampling, https://arxiv.org/abs/1904.09751)."""

    top_p: float
    filter_value: float = NOT_CHOSEN
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        check_number("top_p", self.top_p, "from 0 to 1", 0 <= self.top_p <= 1)
        check_kept(self.min_tokens_to_keep)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        kept = in_play(scores, self.filter_value)
        if not kept.size:
            return scores  # all were ruled out before: the loop says so
        some = scores[kept]
        probs = softmax(some)
        budget = np.float32(1 - self.top_p)  # what the tokens left out may add up to
        # Tokens below budget / count cannot exceed the budget together: they go unsorted, unless too few would stay.
        is_small = probs < np.float32(float(budget / np.float32(probs.size)) * 0.99)
        large = np.flatnonzero(~is_small)
        if large.size < self.min_tokens_to_keep:
            large, is_small = np.arange(probs.size), np.zeros(probs.size, dtype=bool)
        order = large[np.argsort(some[large], kind="stable")]
        ordered = np.concatenate([probs[is_small], probs[order]])
        sums = np.cumsum(ordered, dtype=np.float64)[-order.size :]
        is_out = sums.astype(np.float32) <= budget
        is_out[-self.min_tokens_to_keep :] = False
        scores[kept[is_small]] = self.filter_value
        scores[kept[order[is_out]]] = self.filter_value
        return scores


@dataclass(slots=True)
class MinP:
    """Keeps tokens at least `min_p` times as likely as the likeliest (Nguyen et al. 2024,
    https://arxiv.org/abs/2407.01082)."""

    min_p: float
    filter_value: float = NOT_CHOSEN
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        check_number("min_p", self.min_p, "from 0 to 1", 0 <= self.min_p <= 1)
        check_kept(self.min_tokens_to_keep)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        kept = in_play(scores, self.filter_value)
        if not kept.size:
            return scores  # all were ruled out before: the loop says so
        probs = softmax(scores[kept])
        is_out = probs < np.float32(self.min_p) * probs.max()
        if self.min_tokens_to_keep > 1:
            is_out[np.argsort(-probs, kind="stable")[: self.min_tokens_to_keep]] = False
        scores[kept[is_out]] = self.filter_value
        return scores


@dataclass(slots=True)
class TopH:
    """Keeps the likeliest tokens whose entropy stays within `top_h` of the whole's, of the 100 highest scores (Top-H
    decoding, https://arxiv.org/abs/2509.02510)."""

    top_h: float
    filter_value: float = NOT_CHOSEN

    def __post_init__(self) -> None:
        check_number("top_h", self.top_h, "greater than 0 and at most 1", 0 < self.top_h <= 1)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        count = min(TOP_H_CANDIDATES, scores.size)
        places = np.flatnonzero(scores >= kth_highest(scores, count))
        places = places[np.argsort(-scores[places], kind="stable")[:count]]
        probs = softmax(scores[places])
        with np.errstate(divide="ignore", invalid="ignore"):  # no probability: NaN, and never within the budget
            terms = -probs * np.log(probs)
        budget = np.float32(np.nansum(terms, dtype=np.float64)) * np.float32(self.top_h)
        is_in = np.cumsum(terms, dtype=np.float64).astype(np.float32) <= budget
        is_in[0] = True
        kept = places[is_in]
        values = scores[kept]
        scores.fill(self.filter_value)
        scores[kept] = values
        return scores


@dataclass(slots=True)
class Typical:
    """Keeps the tokens whose surprise is nearest the expected one, up to `mass` of probability (Meister et al. 2022,
    https://arxiv.org/abs/2202.00666)."""

    mass: float = 0.9
    filter_value: float = NOT_CHOSEN
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        check_number("typical_p", self.mass, "greater than 0 and less than 1", 0 < self.mass < 1)
        check_kept(self.min_tokens_to_keep)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        kept = in_play(scores, self.filter_value)
        if not kept.size:
            return scores  # all were ruled out before: the loop says so
        logs = log_softmax(scores[kept])
        probs = np.exp(logs)
        with np.errstate(invalid="ignore"):
            entropy = -np.float32(np.nansum(logs * probs, dtype=np.float64))
        distances = np.abs(-logs - entropy)
        order, sums = self._nearest(distances, softmax(scores[kept]))
        place = min(int((sums < np.float32(self.mass)).sum()), order.size - 1)
        is_out = distances > distances[order[place]]
        is_out[order[: self.min_tokens_to_keep]] = False
        scores[kept[is_out]] = self.filter_value
        return scores

    def _nearest(self, distances: Floats, probs: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The nearest tokens in order, enough of them to reach the mass, and their running sums."""
        count = max(FIRST_SORTED, self.min_tokens_to_keep)
        while True:
            if count >= distances.size:
                places = np.arange(distances.size)
            else:
                places = np.flatnonzero(distances <= np.partition(distances, count - 1)[count - 1])
            order = places[np.argsort(distances[places], kind="stable")]
            sums = np.cumsum(probs[order], dtype=np.float64).astype(np.float32)
            if order.size == distances.size or sums[-1] >= np.float32(self.mass):
                return order, sums
            count *= 8


@dataclass(slots=True)
class Epsilon:
    """Leaves out tokens less likely than `epsilon` (Hewitt et al. 2022, https://arxiv.org/abs/2210.15191)."""

    epsilon: float
    filter_value: float = NOT_CHOSEN
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        check_number("epsilon_cutoff", self.epsilon, "greater than 0 and less than 1", 0 < self.epsilon < 1)
        check_kept(self.min_tokens_to_keep)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        kept = in_play(scores, self.filter_value)
        if not kept.size:
            return scores  # all were ruled out before: the loop says so
        some = scores[kept]
        return cut_below(scores, kept, softmax(some), np.float32(self.epsilon), self)


@dataclass(slots=True)
class Eta:
    """Leaves out tokens less likely than `epsilon` and than sqrt(epsilon) * exp(-entropy), the lower of the two
    (Hewitt et al. 2022, https://arxiv.org/abs/2210.15191)."""

    epsilon: float
    filter_value: float = NOT_CHOSEN
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        check_number("eta_cutoff", self.epsilon, "greater than 0 and less than 1", 0 < self.epsilon < 1)
        check_kept(self.min_tokens_to_keep)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        kept = in_play(scores, self.filter_value)
        if not kept.size:
            return scores  # all were ruled out before: the loop says so
        some = scores[kept]
        probs, logs = softmax(some), log_softmax(some)
        with np.errstate(invalid="ignore"):
            entropy = -np.float32(np.nansum(probs * logs, dtype=np.float64))
        epsilon = np.float32(self.epsilon)
        return cut_below(scores, kept, probs, min(epsilon, np.sqrt(epsilon) * np.exp(-entropy)), self)


def cut_below(
    scores: Floats, kept: NDArray[np.int64], probs: Floats, cutoff: np.float32, warper: Epsilon | Eta
) -> Floats:
    """Leaves out tokens less likely than `cutoff`, but for the highest `min_tokens_to_keep`."""
    some = scores[kept]
    count = min(warper.min_tokens_to_keep, some.size)
    highest = some.max() if count == 1 else kth_highest(some, count)
    scores[kept[(probs < cutoff) & (some < highest)]] = warper.filter_value
    return scores
