"""What this machine is: processor, instruction sets, threads, the group's quota, and its limits as measured."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from martlet.engine.extension import InstructionSet, count_threads, find_isa, instruction_sets
from martlet.engine.measure import Peak, Rate, largest_cache_bytes, measure_peaks, measure_read

MEMORY_BYTES = 1 << 29  # read in turn to measure memory, unless the caches are so large that it takes more


@dataclass(frozen=True, slots=True)
class Machine:
    """What is here, without measuring anything."""

    processor: str
    system: str
    num_processors: int
    affinity: int  # processors this process may run on
    quota: float | None  # processors' worth of time the control group gives; None: no limit
    memory_bytes: int
    largest_cache_bytes: int
    sets: tuple[InstructionSet, ...]
    isa: str
    reason: str  # why it is this one
    num_threads: int
    threads_reason: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def find_machine(num_threads: int | None = None) -> Machine:
    """This machine, with the instruction set and the threads that the engine would use here.

    ArgumentError for MARTLET_ISA or a number of threads that cannot be; MissingDependencyError without the extension.
    """
    sets, isa = tuple(instruction_sets()), find_isa()
    best = [each.name for each in sets if each.is_usable][-1]
    if os.environ.get("MARTLET_ISA"):
        reason = f"MARTLET_ISA says so; the best here is {best}"
    else:
        reason = "the best that this processor and operating system have"
    if num_threads is not None:
        threads_reason = "as asked"
    elif os.environ.get("MARTLET_NUM_THREADS"):
        threads_reason = "MARTLET_NUM_THREADS says so"
    else:
        threads_reason = "the processors this process may use, cut by the group's quota"
    return Machine(
        _processor_name(),
        f"{platform.system()} {platform.release()} {platform.machine()}",
        os.cpu_count() or 1,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        find_quota(),
        _memory_bytes(),
        largest_cache_bytes(),
        sets,
        isa,
        reason,
        count_threads(num_threads),
        threads_reason,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine gives with so many threads, as measured just now."""

    memory_read: Rate  # bytes a second, of more bytes than any cache holds
    model_read: Rate  # of as many as the model reads for a token: caches may help
    peaks: dict[str, Peak]

    def better(self, other: Limits) -> Limits:
        """The higher of each: what holds a machine back for a moment is no limit of it."""
        peaks = {
            name: max(peak, other.peaks[name], key=lambda each: each.operations.best)
            for name, peak in self.peaks.items()
        }
        best = [
            max(pair, key=lambda rate: rate.best)
            for pair in ((self.memory_read, other.memory_read), (self.model_read, other.model_read))
        ]
        return Limits(best[0], best[1], peaks)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_limits(machine: Machine, model_bytes: int) -> Limits:
    """Measures for about a second, more where memory is slow. Other processes lower what is found."""
    size = max(MEMORY_BYTES, 4 * machine.largest_cache_bytes)
    if machine.memory_bytes:
        size = min(size, machine.memory_bytes // 4)
    memory = measure_read(size, machine.num_threads)
    close = measure_read(model_bytes, machine.num_threads) if 0 < model_bytes < size else memory
    return Limits(memory, close, measure_peaks(machine.isa, machine.num_threads))


def find_quota(root: str | os.PathLike[str] = "/sys/fs/cgroup") -> float | None:
    """Processors' worth of time that the control group may use; None where nothing limits it."""
    folder = Path(root)
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu/cpu.cfs_quota_us").read_text()
            period = (folder / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        given, each = float(quota), float(period)
    except ValueError:  # "max"
        return None
    return given / each if given > 0 and each > 0 else None


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0
