"""Which sample stands where: a pure function of (seed, epoch, position), so there is no state to lose on a resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from martlet.nn.draws import mix

ROUNDS = 8
MEGA_BATCHES = 50  # effective batches whose samples are sorted together by group_by_length


def shuffled(positions: NDArray[np.int64], num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The samples at these positions of an epoch: a permutation of all `num_samples`, computed in place.

    A Feistel network over the next power of four, walked until it lands inside (Black & Rogaway 2002).
    """
    half = max(1, math.ceil(math.log2(max(2, num_samples)) / 2))
    keys = [np.uint64(mix(seed, epoch, round_)) for round_ in range(ROUNDS)]
    out = positions.astype(np.uint64)
    outside = np.ones(out.shape, bool)
    while outside.any():
        out[outside] = _feistel(out[outside], np.uint64(half), keys)
        outside = out >= num_samples
    return out.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: np.uint64, keys: Sequence[np.uint64]) -> NDArray[np.uint64]:
    mask = np.uint64((1 << int(half)) - 1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_stir(right ^ key) & mask)
    return (left << half) | right


def _stir(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Order:
    """The samples of every step. `lengths`, if given, groups samples of like length (sizes of a step stay the same).

    A step takes `batch_size * accumulation * world` samples, however these are cut: the same samples in the same
    order for every number of ranks and every accumulation. The last step of an epoch may have fewer.
    """

    num_samples: int
    batch_size: int
    accumulation: int
    world: int
    seed: int
    sampling: str = "random"
    drop_last: bool = False
    lengths: NDArray[np.int64] | None = None

    @property
    def step_size(self) -> int:
        """Samples of a whole step."""
        return self.batch_size * self.accumulation * self.world

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch: the last may be smaller, unless `drop_last`."""
        if self.drop_last:
            return self.num_samples // self.step_size
        return math.ceil(self.num_samples / self.step_size)

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Epoch, and step within it, of the step numbered from 0."""
        return divmod(step, self.steps_per_epoch)

    def step(self, step: int) -> NDArray[np.int64]:
        """All samples of one step, numbered from 0."""
        epoch, within = self.epoch_of(step)
        begin = within * self.step_size
        positions = np.arange(begin, min(begin + self.step_size, self.num_samples), dtype=np.int64)
        if self.sampling == "sequential":
            return positions
        if self.sampling == "group_by_length":
            return self._grouped(epoch, within)
        return shuffled(positions, self.num_samples, self.seed, epoch)

    def _grouped(self, epoch: int, within: int) -> NDArray[np.int64]:
        """As Hugging Face's grouping: a shuffle, cut into mega-batches, each sorted by falling length."""
        assert self.lengths is not None
        mega = self.step_size * max(1, min(self.steps_per_epoch // 4, MEGA_BATCHES))
        begin = within * self.step_size
        first = begin // mega * mega
        members = shuffled(
            np.arange(first, min(first + mega, self.num_samples), dtype=np.int64), self.num_samples, self.seed, epoch
        )
        members = members[np.argsort(-self.lengths[members], kind="stable")]
        return members[begin - first : begin - first + self.step_size]

    def batches(self, step: int, rank: int) -> list[NDArray[np.int64]]:
        """The batches of one rank in one step, one an accumulation; trailing ones may be empty."""
        samples = self.step(step)
        out = []
        for turn in range(self.accumulation):
            begin = (turn * self.world + rank) * self.batch_size
            out.append(samples[begin : begin + self.batch_size])
        return out
