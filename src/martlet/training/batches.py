"""`Batches`: what stands for a torch DataLoader where a script looks at one; the loop has a feed of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from martlet.errors import ArgumentError
from martlet.training.evaluation import rank_batches
from martlet.training.feed import Batch, MapFeed, has_length


class Batches:
    """The batches this process takes of a dataset: those of the first epoch's steps, or of an evaluation.

    To look at: `len` (ArgumentError for a dataset without a length), iteration, `dataset`, `batch_size`, `collate_fn`.
    """

    def __init__(self, trainer: Any, dataset: Any, *, is_training: bool) -> None:
        args = trainer.args
        self.dataset, self.is_training, self._trainer = dataset, is_training, trainer
        self.batch_size: int = args.train_batch_size if is_training else args.eval_batch_size

    @property
    def collate_fn(self) -> Any:
        return self._trainer.fetcher(self.dataset, self.is_training).collate

    def __len__(self) -> int:
        if not has_length(self.dataset):
            raise ArgumentError("len", "needs a dataset with a length", found=type(self.dataset).__name__)
        args, world = self._trainer.args, self._trainer.world
        drops = self.is_training and args.dataloader_drop_last
        batches = len(self.dataset) / self.batch_size
        count = (math.floor(batches) if drops else math.ceil(batches)) / int(world.size)
        return math.ceil(count)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        trainer = self._trainer
        if not self.is_training:
            return (batch.inputs for _, batch in self.numbered())
        feed = trainer.own_feed()
        stop = feed.order.steps_per_epoch if isinstance(feed, MapFeed) else trainer.args.max_steps
        return (batch.inputs for step in feed.steps(0, stop, (0, 0)) for batch in step.batches if batch.samples)

    def numbered(self) -> Iterator[tuple[int, Batch]]:
        """This rank's batches of an evaluation, numbered over all ranks."""
        trainer = self._trainer
        found: Iterator[tuple[int, Batch]] = rank_batches(
            trainer.fetcher(self.dataset, False), trainer.args, trainer.world
        )
        return found
