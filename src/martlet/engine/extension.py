"""The extension module, or an error that says how to get it; which instruction set and how many threads to use."""

from __future__ import annotations

import atexit
import importlib
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from martlet.errors import ArgumentError, MissingDependencyError

try:
    _loaded: ModuleType | None = importlib.import_module("martlet.engine._native")
    _reason: ImportError | None = None
    if (_close := getattr(_loaded, "close", None)) is None:
        raise ImportError("it was compiled from older sources than these")
    atexit.register(_close)  # no step outlives the interpreter
except ImportError as error:  # installed where there was no C++ compiler
    _loaded, _reason = None, error


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """A set of processor instructions that kernels were compiled for, whether they run here, and what they need."""

    name: str
    is_usable: bool
    needs: str


def is_built() -> bool:
    """Whether the extension is there."""
    return _loaded is not None


def native() -> Any:
    """The extension module; MissingDependencyError where the package was installed without a compiler."""
    if _loaded is None:
        raise MissingDependencyError(
            "the native engine",
            "was not compiled when martlet was installed",
            found=str(_reason),
            remedy="Install a C++20 compiler and CMake, then: pip install --force-reinstall --no-deps martlet.",
        ) from _reason
    return _loaded


def kinds() -> tuple[str, ...]:
    """The types of matrices that there are kernels for."""
    return tuple(native().kinds())


def instruction_sets() -> list[InstructionSet]:
    """All that the extension has kernels for, the plainest first."""
    return [InstructionSet(*each) for each in native().instruction_sets()]


def find_isa(name: str | None = None) -> str:
    """The instruction set to use: `name`, else MARTLET_ISA, else the best this machine has.

    ArgumentError for one that is not known, or that this processor or operating system lacks.
    """
    wanted = name or os.environ.get("MARTLET_ISA", "")
    try:
        found: str = native().find_isa(wanted)
    except ValueError as error:
        raise ArgumentError("MARTLET_ISA" if not name else "isa", str(error)) from error
    return found


def count_threads(num_threads: int | None = None) -> int:
    """Threads to use: `num_threads`, else MARTLET_NUM_THREADS, else the processors this process may use."""
    given: Any = num_threads if num_threads is not None else os.environ.get("MARTLET_NUM_THREADS")
    available: int = native().available_processors()
    if given is None or given == "":
        return available
    try:
        count = int(given)
    except ValueError:
        count = 0
    if not 1 <= count <= 4 * available:
        raise ArgumentError(
            "num_threads",
            f"must be 1 to {4 * available}: at most four for each of the {available} processors this process may use",
            found=given,
        )
    return count
