"""Choosing a token from scores. Randomness is a counter: a draw depends on (seed, stream, position) only."""

# V vocabulary

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError
from martlet.generation.backend import Floats
from martlet.generation.exponential import exponential, sum_in_order

_WORD = 2**64
_seeds: Any = None  # made when first asked: numpy.random is read then
_seeds_lock = threading.Lock()


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Makes what follows repeatable: seeds `random`, numpy, torch if it is imported, and the seeds that `generate`
    draws when it is given none. `deterministic` also asks torch for deterministic algorithms only.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ArgumentError("set_seed", "seed must be an integer from 0 to 2**32 - 1", found=repr(seed))
    global _seeds
    import random

    random.seed(seed)
    np.random.seed(seed)
    with _seeds_lock:
        _seeds = np.random.default_rng(seed)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)
        if deterministic:
            torch.use_deterministic_algorithms(True)


def draw_seed() -> int:
    """A fresh seed, from the generator that `set_seed` resets."""
    global _seeds
    with _seeds_lock:
        if _seeds is None:
            _seeds = np.random.default_rng()
        return int(_seeds.integers(0, 2**63))


def uniforms(seed: int, stream: int, position: int, count: int = 1) -> NDArray[np.float64]:
    """`count` numbers strictly between 0 and 1 for this stream and position (Philox-4x64, Salmon et al. 2011).

    A stream is one sequence of a call; a position is a token's place in its sequence, prompt included.
    """
    key = np.array([seed % _WORD, (seed // _WORD) % _WORD], dtype=np.uint64)
    # The first counter word runs while numbers are drawn; the others say whose they are.
    counter = np.array([0, 0, position, stream], dtype=np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw(count)
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def log_probabilities(logits_V: Floats) -> Floats:
    """log(softmax), computed in float64 and rounded to float32."""
    exact_V = logits_V.astype(np.float64)
    highest = exact_V.max()
    log_sum = np.log(sum_in_order(exponential(exact_V - highest))) + highest
    return np.asarray(exact_V - log_sum, dtype=np.float32)


def choose_greedy(scores_V: Floats) -> int:
    """The id with the highest score; of equals, the lowest id."""
    return int(np.argmax(scores_V))


def choose_sampled(scores_V: Floats, uniform: float) -> int:
    """The id at `uniform` (0 to 1) of the cumulative softmax, in id order and float64; never one scored -inf."""
    ids = np.flatnonzero(scores_V > -np.inf)
    kept = scores_V[ids].astype(np.float64)
    cumulative = np.cumsum(exponential(kept - kept.max()))
    place = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    # An id so unlikely that it adds nothing to the sum is no better at the far end than anywhere else.
    last = int(np.searchsorted(cumulative, cumulative[-1], side="left"))
    return int(ids[min(place, last)])


def choose_without_replacement(scores_N: Floats, uniforms_N: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """`count` different places, drawn one after another from the softmax of what is left, in the order drawn.

    The Gumbel top-k form: Kool, van Hoof and Welling 2019, https://arxiv.org/abs/1903.06059.
    """
    keys = scores_N.astype(np.float64) - np.log(-np.log(uniforms_N))
    return highest(keys, count)


def highest(scores_N: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """The places of the `count` highest scores, highest first; of equals, the lowest place first."""
    if count < scores_N.size // 4:  # sort only what can be among them
        border = np.partition(scores_N, scores_N.size - count)[scores_N.size - count]
        places = np.flatnonzero(scores_N >= border)
        return places[np.argsort(-scores_N[places], kind="stable")[:count]].astype(np.int64)
    return np.argsort(-scores_N, kind="stable")[:count].astype(np.int64)
