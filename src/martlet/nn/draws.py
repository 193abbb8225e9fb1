"""Randomness of training as a function of (seed, step, sample, place): nothing is drawn from torch's generator.

A sample's mask is the same alone, packed beside others, on another rank, or computed again for a checkpointed block.
"""

# T tokens of all rows end to end

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    lengths = draws.lengths if lengths is None else lengths
    out = torch.empty((sum(lengths), *width))
    for row, part in zip(range(len(draws.samples)), torch.split(out, list(lengths)), strict=True):
        fill_row(part, draws, place, row)
    return out.to(device)


def fill_row(out: Tensor, draws: Draws, place: int, row: int) -> None:
    """Fills a CPU tensor with float32 in [0, 1) of one row's sample."""
    _generator.manual_seed(mix(draws.seed, draws.step, draws.samples[row], place) >> 1)
    out.uniform_(generator=_generator)


_generator = torch.Generator()  # seeded before every use


class _Drop(torch.autograd.Function):
    """x / keep, zeros where dropped. Keeps a byte a number, where autograd would keep a float."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: Tensor, keep: float) -> Tensor:
        ctx.save_for_backward(dropped)
        ctx.keep = keep
        return x.div(keep).masked_fill_(dropped, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (dropped,) = ctx.saved_tensors
        return grad.div(ctx.keep).masked_fill_(dropped, 0.0), None, None


def drop(x: Tensor, dropped: Tensor, p: float) -> Tensor:
    """x / (1 - p), and zero where `dropped`."""
    apply: Any = _Drop.apply
    out: Tensor = apply(x, dropped, 1.0 - p)
    return out


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
        if not self.training or self.p == 0.0:
            return x
        draws = current_draws()
        lengths = None if draws is None else draws.lengths
        if lengths is not None and x.shape[0] != sum(lengths):
            lengths = (1,) * len(lengths) if x.shape[0] == len(lengths) else None
        if draws is None or lengths is None:
            return nn.functional.dropout(x, self.p, True)
        return drop(x, uniform(draws, self.place, tuple(x.shape[1:]), x.device, lengths) < self.p, self.p)

    def drop_row(self, x: Tensor, row: int) -> Tensor:
        """Dropout of a tensor of any shape that belongs to one row: its attention."""
        if not self.training or self.p == 0.0:
            return x
        return drop(x, self.dropped_rows((row,), tuple(x.shape), x.device)[0], self.p)

    def dropped_rows(self, rows: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Tensor:
        """`(rows, *shape)`: which numbers of tensors that belong to rows, one each, are dropped."""
        draws = current_draws()
        drawn = torch.empty((len(rows), *shape))
        if draws is None:
            return drawn.uniform_().to(device) < self.p
        for out, row in zip(drawn, rows, strict=True):
            fill_row(out, draws, self.place, row)
        return drawn.to(device) < self.p


def number_places(module: nn.Module) -> int:
    """Gives every SampleDropout in `module` a number of its own, in the module's order; returns how many."""
    places = [each for each in module.modules() if isinstance(each, SampleDropout)]
    for place, each in enumerate(places, 1):
        each.place = place
    return len(places)
