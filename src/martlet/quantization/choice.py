"""Which type each tensor is stored in: the one whose divergence, as measured, is the least for the bytes there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from martlet.arch import Arch, tensors
from martlet.engine.trial import Trial
from martlet.errors import ArgumentError
from martlet.formats.gguf_blocks import BLOCKS
from martlet.formats.tensors import num_bytes

# From the fewest bits up; a tensor starts at the first, and is raised where that helps most.
LADDERS = {"int4": ("Q4_0", "Q4_1", "Q5_0", "Q8_0"), "int8": ("Q8_0", "F16")}
UNIFORM = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "bf16", "f32")  # the same for every matrix, unmeasured
BITS = {"int4": 5.0, "int8": 9.0}  # of a weight, on average, that may be spent unless said otherwise
UNBLOCKED = "BF16"  # for a matrix whose rows are not whole blocks


@dataclass(slots=True)
class Unit:
    """A tensor as it will be stored, and which of ours it is made of."""

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    kind: str = ""
    divergence: float = 0.0  # in the first type of the ladder, all other tensors as they were

    @property
    def num_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return num_bytes(self.kind, self.shape)


@dataclass(frozen=True, slots=True)
class Divergences:
    """From the model as it was, in nats a token: with every tensor in the first type, and as chosen."""

    uniform: float
    chosen: float


def is_matrix(name: str, arch: Arch) -> bool:
    """Whether a tensor of ours is one whose type can be chosen: learned positions and norms stay as they are."""
    return len(tensors(arch)[name]) == 2 and name != "model.embed_positions.weight"


def check_bits(to: str, bits: float | None) -> float:
    """The average bits of a weight that may be spent; ArgumentError below what the first type takes.

    A type that all matrices take leaves nothing to spend: 0.
    """
    if to in UNIFORM:
        if bits is not None:
            raise ArgumentError("bits", f"can be given where types are chosen: with {' or '.join(LADDERS)}", found=bits)
        return 0.0
    lowest = 8 * num_bytes(LADDERS[to][0], (1, 32)) / 32
    found = BITS[to] if bits is None else bits
    if not lowest <= found <= 32:
        raise ArgumentError("bits", f"must be from {lowest} ({LADDERS[to][0]}) to 32", found=found)
    return found


def choose(
    trial: Trial,
    units: Sequence[Unit],
    to: str,
    bits: float,
    said: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Divergences:
    """Gives every unit its `kind`. Each is tried alone in the ladder's first type; what a better type would save is its
    divergence there times the ratio of squared errors. `said(done, total, name)` before each step.
    """
    ladder = LADDERS[to]
    true = _log_softmax(trial.logits())
    total = len(units) + 2
    for done, unit in enumerate(units):
        said(done, total, unit.name)
        unit.kind = ladder[0] if unit.shape[1] % 32 == 0 else UNBLOCKED
        _set(trial, unit)
        unit.divergence = _divergence(true, trial)
        for part in unit.parts:
            trial.restore(part)
    said(len(units), total, f"all in {ladder[0]}")
    for unit in units:
        _set(trial, unit)
    uniform = _divergence(true, trial)
    _raise_best(trial, units, ladder, bits)
    said(len(units) + 1, total, "as chosen")
    for unit in units:
        if unit.kind not in (ladder[0], UNBLOCKED):
            _set(trial, unit)
    chosen = _divergence(true, trial)
    said(total, total, "done")
    return Divergences(uniform, chosen)


def put_all(
    trial: Trial,
    units: Sequence[Unit],
    kind: str,
    said: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Divergences:
    """Gives every unit the same `kind`, but those whose rows are not whole blocks."""
    said(0, 2, "as it was")
    true = _log_softmax(trial.logits())
    said(1, 2, f"all in {kind}")
    for unit in units:
        unit.kind = kind if kind not in BLOCKS or unit.shape[1] % BLOCKS[kind].size == 0 else UNBLOCKED
        _set(trial, unit)
    found = _divergence(true, trial)
    said(2, 2, "done")
    return Divergences(found, found)


def _raise_best(trial: Trial, units: Sequence[Unit], ladder: Sequence[str], bits: float) -> None:
    """Spends the bytes where a byte saves most divergence, until none of the steps left fits."""
    weights = sum(unit.num_weights for unit in units)
    left = weights * bits / 8 - sum(unit.bytes for unit in units)
    errors: dict[tuple[str, str], float] = {}

    def expected(unit: Unit, kind: str) -> float:
        for each in (ladder[0], kind):
            if (unit.name, each) not in errors:
                errors[unit.name, each] = sum(trial.squared_error(part, each) for part in unit.parts)
        lowest = errors[unit.name, ladder[0]]
        return unit.divergence * errors[unit.name, kind] / lowest if lowest else 0.0

    while True:
        best: tuple[float, Unit, str, int] | None = None
        for unit in units:
            if unit.kind not in ladder or unit.divergence <= 0:
                continue
            for kind in ladder[ladder.index(unit.kind) + 1 :]:
                more = num_bytes(kind, unit.shape) - unit.bytes
                gain = (expected(unit, unit.kind) - expected(unit, kind)) / more
                if more <= left and gain > 0 and (best is None or gain > best[0]):
                    best = gain, unit, kind, more
        if best is None:
            return
        _, unit, unit.kind, more = best
        left -= more


def _set(trial: Trial, unit: Unit) -> None:
    for part in unit.parts:
        trial.set(part, unit.kind)


def _divergence(true_TV: NDArray[np.float64], trial: Trial) -> float:
    found = _log_softmax(trial.logits())
    return float((np.exp(true_TV) * (true_TV - found)).sum(1).mean())


def _log_softmax(logits_TV: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits_TV.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(1, keepdims=True))
    return wide
