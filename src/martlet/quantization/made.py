"""Tensors of a saved checkpoint, made out of ours when they are written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from martlet.engine.encode import encode
from martlet.engine.trial import Trial
from martlet.weights import Assembly


class Made:
    """A tensor as it is saved, out of ours."""

    def __init__(self, trial: Trial, made: Assembly) -> None:
        self.trial, self.made = trial, made

    def shape(self) -> tuple[int, ...]:
        shapes = self.trial.shapes
        rows = sum(shapes[part][0] for part in self.made.parts)
        shape = (rows, *shapes[self.made.parts[0]][1:])
        return shape[::-1] if self.made.transposed else shape

    def values(self) -> NDArray[np.float32]:
        def join(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
            return np.concatenate(parts)

        return np.ascontiguousarray(self.made.build(self.trial.values, join), np.float32)


class Encoded:
    """Its bytes, made when they are written."""

    def __init__(self, made: Made, kind: str) -> None:
        self.made, self.kind = made, kind

    def __call__(self) -> NDArray[np.uint8]:
        values = self.made.values()
        return encode(values.reshape(-1, values.shape[-1]), self.kind, self.made.trial.model.num_threads)
