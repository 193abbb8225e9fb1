"""Batches of a run, step by step: fetched here or by worker processes, the same whatever fetches them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from martlet.errors import TrainingDataError
from martlet.nn.draws import drawing, mix
from martlet.training.order import Order
from martlet.training.samples import RowReader, length_of

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Batch:
    """Samples by number, and what the model takes of them. Neither, where a rank has none left in a step."""

    samples: tuple[int, ...]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A rank's batches of one update. `epoch` in epochs, at the step's end."""

    batches: list[Batch]
    epoch: float
    ends_epoch: bool


@contextlib.contextmanager
def seeded(*words: int) -> Iterator[None]:
    """Inside, the generators of Python, NumPy and torch start from these numbers; afterwards they are as before."""
    held = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = mix(*words)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed >> 1)
    try:
        yield
    finally:
        random.setstate(held[0])
        np.random.set_state(held[1])
        torch.set_rng_state(held[2])


class Fetcher(Dataset[Batch]):
    """A dataset with a length, read and collated: `fetcher[step, samples]` is a batch, a function of both."""

    def __init__(self, dataset: Any, reader: RowReader, collate: Collate, seed: int, ahead: int | None = None) -> None:
        self.dataset, self.reader, self.collate, self.seed = dataset, reader, collate, seed
        self.ahead = ahead  # batches a worker holds ready; None: torch's number
        self.draws_nothing = isinstance(dataset, list | tuple) or hasattr(dataset, "features")

    def __getitem__(self, key: tuple[int, tuple[int, ...]]) -> Batch:
        step, samples = key
        return self.batch(step, samples, [self.row(step, sample) for sample in samples])

    def row(self, step: int, sample: int) -> Any:
        with contextlib.nullcontext() if self.draws_nothing else seeded(self.seed, step, sample):
            row = self.dataset[int(sample)]
        return self.reader.read(row, int(sample))

    def batch(self, step: int, samples: tuple[int, ...], rows: list[Any]) -> Batch:
        if not samples:
            return Batch((), {})
        with seeded(self.seed, step, *samples), drawing(self.seed, step, samples, ()):
            inputs = self.collate(rows)
        if not hasattr(inputs, "items"):
            raise TrainingDataError("data_collator", "must return a dict of tensors", found=type(inputs).__name__)
        return Batch(samples, dict(inputs.items()))


def _itself(batch: Any) -> Any:
    return batch


def fetched(fetcher: Fetcher, keys: Iterable[tuple[int, tuple[int, ...]]], workers: int) -> Iterator[Batch]:
    """The batches of `keys`, in their order."""
    if not workers:
        return map(fetcher.__getitem__, keys)
    plan: Any = keys
    # a generator of its own: a loader draws a seed for its workers, which must not come from torch's
    loader: Any = DataLoader(
        fetcher, sampler=plan, batch_size=None, num_workers=workers, collate_fn=_itself, generator=torch.Generator(),
        prefetch_factor=fetcher.ahead,
    )  # fmt: skip
    return iter(loader)


class MapFeed:
    """Steps over a dataset with a length."""

    def __init__(self, fetcher: Fetcher, order: Order, rank: int, workers: int) -> None:
        self.fetcher, self.order, self.rank, self.workers = fetcher, order, rank, workers

    def steps(self, first: int, stop: int, _: tuple[int, int]) -> Iterator[Step]:
        """Steps numbered from `first` to before `stop`."""
        order = self.order
        keys = (
            (step, tuple(int(each) for each in samples))
            for step in range(first, stop)
            for samples in order.batches(step, self.rank)
        )
        batches = fetched(self.fetcher, keys, self.workers)
        for step in range(first, stop):
            epoch, within = order.epoch_of(step)
            mine = [next(batches) for _ in range(order.accumulation)]
            share = (within + 1) / order.steps_per_epoch
            yield Step(mine, epoch + share, within + 1 == order.steps_per_epoch)


class StreamFeed:
    """Steps over a dataset without a length: its rows in the order they come, numbered within an epoch."""

    def __init__(
        self, dataset: Any, fetcher: Fetcher, *, batch_size: int, accumulation: int, world: int, rank: int,
        drop_last: bool, workers: int,
    ) -> None:  # fmt: skip
        self.dataset, self.fetcher, self.workers = dataset, fetcher, workers
        self.batch_size, self.accumulation, self.world, self.rank = batch_size, accumulation, world, rank
        self.drop_last = drop_last
        self.place = (0, 0)  # epoch, and samples taken of it, once a step was yielded

    def steps(self, first: int, stop: int, place: tuple[int, int]) -> Iterator[Step]:
        """Steps from `place` (epoch, samples taken of it) on; an epoch ends where the rows do."""
        (epoch, taken), size, step = place, self.batch_size * self.accumulation * self.world, first
        while step < stop:
            began = step
            rows = self._rows(epoch, taken)
            held = _take(rows, size)
            while held and step < stop:
                following = _take(rows, size)
                is_end = not following or (self.drop_last and len(following) < size)
                if self.drop_last and len(held) < size:
                    break
                self.place = (epoch + 1, 0) if is_end else (epoch, taken + len(held))
                share = 1.0 if is_end else min(1.0, (taken // size + 1) / stop)  # how long a pass is, nobody knows
                yield Step(self._cut(step, taken, held), epoch + share, is_end)
                step, taken, held = step + 1, taken + len(held), [] if is_end else following
            if step == began and taken == 0:
                raise TrainingDataError("train_dataset", "must have rows for a step", found="too few before its end")
            if step < stop:
                epoch, taken = epoch + 1, 0

    def _rows(self, epoch: int, taken: int) -> Iterator[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        rows: Iterator[Any]
        if self.workers:  # one process reads ahead: more would change the order
            loader: Any = DataLoader(
                _Stream(self.dataset), batch_size=None, num_workers=1, collate_fn=_itself, generator=torch.Generator()
            )
            rows = iter(loader)
        else:
            rows = iter(self.dataset)
        for _ in range(taken):
            next(rows, None)
        return rows

    def _cut(self, step: int, taken: int, rows: list[Any]) -> list[Batch]:
        out = []
        for turn in range(self.accumulation):
            begin = (turn * self.world + self.rank) * self.batch_size
            mine = rows[begin : begin + self.batch_size]
            samples = tuple(range(taken + begin, taken + begin + len(mine)))
            read = [self.fetcher.reader.read(row, number) for number, row in zip(samples, mine, strict=True)]
            out.append(self.fetcher.batch(step, samples, read))
        return out


class _Stream(IterableDataset[Any]):
    def __init__(self, rows: Iterable[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


def _take(rows: Iterator[Any], count: int) -> list[Any]:
    return [row for _, row in zip(range(count), rows, strict=False)]


def has_length(dataset: Any) -> bool:
    """Whether rows can be had by number."""
    return hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")


def lengths_of(fetcher: Fetcher, column: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens of every sample, for grouping."""
    count = len(fetcher.dataset)
    column_values = getattr(fetcher.dataset, "column_names", None)
    if isinstance(column_values, Sequence) and column in column_values:
        return np.asarray(fetcher.dataset[column], np.int64)
    found = []
    for sample in range(count):
        row = fetcher.dataset[sample]
        has_it = isinstance(row, dict) and column in row
        found.append(length_of(row if has_it else fetcher.reader.read(row, sample), column))
    return np.asarray(found, np.int64)
