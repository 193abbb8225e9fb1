"""Batches and orders that a script makes itself: its own loader, its own sampler, as feeds a run can go on with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from martlet.errors import TrainingDataError, UnsupportedError
from martlet.training.feed import Batch, MapFeed, Step, seeded
from martlet.training.order import Order


class LoaderFeed(MapFeed):
    """Steps over the batches of a loader of the user's own, epoch after epoch.

    Generators that are torch's, NumPy's and Python's own are seeded by (seed, epoch, batch), so a run that goes on
    passes the same batches over before it. A generator that the loader holds itself begins anew there.
    """

    def __init__(self, loader: Any, accumulation: int, seed: int) -> None:
        self.loader, self.accumulation, self.seed = loader, accumulation, seed
        try:
            self.num_batches = len(loader)
        except TypeError as problem:
            raise UnsupportedError(
                "get_train_dataloader", "must return batches with a length", found=type(loader).__name__,
                remedy="Pass the rows as train_dataset, with max_steps.",
            ) from problem  # fmt: skip
        if not self.num_batches:
            raise TrainingDataError("get_train_dataloader", "must return batches", found="none")
        self.order: Any = self  # the one thing of an order that is asked for here is the next

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_batches / self.accumulation)

    def steps(self, first: int, stop: int, _: tuple[int, int]) -> Iterator[Step]:
        """Steps numbered from `first` to before `stop`."""
        step = first
        while step < stop:
            epoch, within = divmod(step, self.steps_per_epoch)
            batches = self._epoch(epoch, within * self.accumulation)
            for number in range(within, min(self.steps_per_epoch, within + stop - step)):
                mine = [each for _, each in zip(range(self.accumulation), batches, strict=False)]
                if not mine:
                    raise TrainingDataError(
                        "get_train_dataloader", f"must give {self.num_batches} batches, as its length says",
                        found=f"fewer in epoch {epoch}",
                    )  # fmt: skip
                mine += [Batch((), {})] * (self.accumulation - len(mine))
                yield Step(mine, epoch + (number + 1) / self.steps_per_epoch, number + 1 == self.steps_per_epoch)
                step += 1

    def _epoch(self, epoch: int, skipped: int) -> Iterator[Batch]:
        for each in (self.loader, *(getattr(self.loader, name, None) for name in ("sampler", "dataset"))):
            if callable(getattr(each, "set_epoch", None)):
                each.set_epoch(epoch)
        with seeded(self.seed, epoch):
            batches = iter(self.loader)
        taken = 0
        for number in range(self.num_batches):
            with seeded(self.seed, epoch, number):
                inputs = next(batches, None)
            if inputs is None:
                return
            batch = as_batch(inputs, taken, "get_train_dataloader")
            taken += len(batch.samples)
            if number >= skipped:
                yield batch


def as_batch(inputs: Any, first: int, subject: str) -> Batch:
    """A batch of tensors, its rows numbered from `first`. TrainingDataError for what is none."""
    found = dict(inputs.items()) if hasattr(inputs, "items") else {}
    sizes = [len(each) for each in found.values() if isinstance(each, Tensor) and each.ndim]
    if not sizes:
        raise TrainingDataError(subject, "must give dicts of tensors", found=type(inputs).__name__)
    return Batch(tuple(range(first, first + sizes[0])), found)


@dataclass(frozen=True)
class SampledOrder(Order):
    """The samples a sampler of the user's own gives, cut into steps; it is asked anew for each epoch."""

    sampler: Any = None
    _epochs: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def step(self, step: int) -> NDArray[np.int64]:
        epoch, within = self.epoch_of(step)
        begin = within * self.step_size
        return self._samples(epoch)[begin : begin + self.step_size]

    def _samples(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            if callable(getattr(self.sampler, "set_epoch", None)):
                self.sampler.set_epoch(epoch)
            with seeded(self.seed, epoch):
                samples = np.asarray([int(each) for each in self.sampler], np.int64)
            if len(samples) != self.num_samples:
                raise TrainingDataError(
                    "_get_train_sampler",
                    f"must give {self.num_samples} samples, as its length says",
                    found=len(samples),
                )
            self._epochs.clear()
            self._epochs[epoch] = samples
        return self._epochs[epoch]


def sampled_order(sampler: Any, like: Order) -> SampledOrder:
    """The order of a sampler, cut as `like` is."""
    if not isinstance(sampler, Sized):
        raise UnsupportedError(
            "_get_train_sampler", "must return a sampler with a length", found=type(sampler).__name__
        )
    return SampledOrder(
        len(sampler), like.batch_size, like.accumulation, like.world, like.seed, "sequential", like.drop_last,
        sampler=sampler,
    )  # fmt: skip
