"""What this machine gives, measured by the extension: bytes read and products multiplied a second."""

from __future__ import annotations

from dataclasses import dataclass

from martlet.engine.extension import find_isa, native

REPEATS = 5
PEAK_S = 0.03  # seconds of each repetition


@dataclass(frozen=True, slots=True)
class Rate:
    """Per second: the best of the repetitions, and their median. A limit is the best."""

    best: float
    median: float


@dataclass(frozen=True, slots=True)
class Peak:
    """Multiplications and additions a second, counted apart, of one kind of operand; `how` names the instructions."""

    operand: str  # "int8": 8-bit quants by 8-bit activations; "int4": quants below 16; "bf16"; "fp32"
    how: str
    operations: Rate


def largest_cache_bytes() -> int:
    """Bytes of the largest cache; 0 where the system does not say."""
    size: int = native().largest_cache_bytes()
    return size


def measure_read(num_bytes: int, num_threads: int, repeats: int = REPEATS) -> Rate:
    """Bytes read a second when `num_bytes` are read again and again, each thread its own part of them."""
    return Rate(*native().measure_read(num_bytes, num_threads, repeats))


def measure_peaks(
    isa: str | None = None, num_threads: int = 1, repeats: int = REPEATS, seconds: float = PEAK_S
) -> dict[str, Peak]:
    """What an instruction set (`find_isa`'s, unless named) multiplies, by operand; ArgumentError if it cannot run."""
    found = native().measure_peaks(find_isa(isa), num_threads, repeats, seconds)
    return {operand: Peak(operand, how, Rate(best, median)) for operand, how, best, median in found}
