"""Randomness of training as a function of (seed, step, sample, place): nothing is drawn from torch's generator.

A sample's mask is the same alone, packed beside others, on another rank, or computed again for a checkpointed block.
"""

# T tokens of all rows end to end

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Draws:
    """Which samples the rows of the running batch are, in which step of which run."""

    seed: int
    step: int
    samples: tuple[int, ...]
    lengths: tuple[int, ...]


_now: list[Draws] = []  # a list, not a context variable: backward passes recompute blocks on torch's own threads


@contextmanager
def drawing(seed: int, step: int, samples: Sequence[int], lengths: Sequence[int]) -> Iterator[Draws]:
    """Inside, dropout and noise belong to these samples. One row each, in the batch's order."""
    draws = Draws(seed, step, tuple(samples), tuple(lengths))
    _now.append(draws)
    try:
        yield draws
    finally:
        _now.pop()


def current_draws() -> Draws | None:
    """The running batch's, or None outside of training."""
    return _now[-1] if _now else None


def mix(*words: int) -> int:
    """64 well-stirred bits of whole numbers: splitmix64 (Steele et al. 2014), one round a word."""
    state = 0x9E3779B97F4A7C15
    for word in words:
        state = (state ^ (word & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def uniform(
    draws: Draws, place: int, width: tuple[int, ...], device: torch.device, lengths: Sequence[int] | None = None
) -> Tensor:
    """`(T, *width)` float32 in [0, 1): each row's numbers come from its own sample. `lengths`, if not the batch's."""
    rows = zip(range(len(draws.samples)), draws.lengths if lengths is None else lengths, strict=True)
    return torch.cat([uniform_row(draws, place, row, (length, *width)) for row, length in rows]).to(device)


def uniform_row(draws: Draws, place: int, row: int, shape: tuple[int, ...]) -> Tensor:
    """`shape` float32 in [0, 1) of one row's sample, on the CPU."""
    generator = torch.Generator().manual_seed(mix(draws.seed, draws.step, draws.samples[row], place) >> 1)
    return torch.rand(shape, generator=generator)


class SampleDropout(nn.Module):
    """Dropout (Srivastava et al. 2014) of ragged rows `(T, ...)`, or of one state a row `(B, ...)`.

    The trainer numbers the `place` of each. A tensor of another first size, or a call outside of training's batches,
    draws as `nn.Dropout` does, from torch's generator.
    """

    place = 0

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        draws = current_draws()
        if not self.training or self.p == 0.0:
            return x
        lengths = None if draws is None else draws.lengths
        if lengths is not None and x.shape[0] != sum(lengths):
            lengths = (1,) * len(lengths) if x.shape[0] == len(lengths) else None
        if draws is None or lengths is None:
            return nn.functional.dropout(x, self.p, True)
        kept = uniform(draws, self.place, tuple(x.shape[1:]), x.device, lengths) >= self.p
        return x * kept.to(x.dtype) / (1.0 - self.p)

    def drop_row(self, x: Tensor, row: int) -> Tensor:
        """Dropout of a tensor of any shape that belongs to one row: its attention."""
        draws = current_draws()
        if not self.training or self.p == 0.0:
            return x
        if draws is None:
            return nn.functional.dropout(x, self.p, True)
        kept = uniform_row(draws, self.place, row, tuple(x.shape)).to(x.device) >= self.p
        return x * kept.to(x.dtype) / (1.0 - self.p)


def number_places(module: nn.Module) -> int:
    """Gives every SampleDropout in `module` a number of its own, in the module's order; returns how many."""
    places = [each for each in module.modules() if isinstance(each, SampleDropout)]
    for place, each in enumerate(places, 1):
        each.place = place
    return len(places)
