"""What training, evaluation and prediction return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple


class TrainOutput(NamedTuple):
    """Steps taken, the mean training loss, and the run's figures."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class PredictionOutput(NamedTuple):
    """`predictions` and `label_ids` are arrays, one row a sample; ragged ones are padded with -100."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float] | None


@dataclass
class EvalPrediction:
    """What `compute_metrics` sees: unpacks as (predictions, label_ids), then inputs and losses where asked for."""

    predictions: Any
    label_ids: Any
    inputs: Any = None
    losses: Any = None

    def _parts(self) -> tuple[Any, ...]:
        more = tuple(each for each in (self.inputs, self.losses) if each is not None)
        return (self.predictions, self.label_ids, *more)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts())

    def __getitem__(self, index: int) -> Any:
        return self._parts()[index]
