"""Engines asked in turn, one here and others in processes of their own, and what their answers come to."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from martlet.bench import worker

WORKER = Path(worker.__file__)


class WorkerError(RuntimeError):
    """An engine in a process of its own said that something failed, or ended."""


class Engine(Protocol):
    """Answers what `worker.answer` answers."""

    def ask(self, **asked: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Here:
    """Our engine in this process: its errors are our own."""

    def __init__(self) -> None:
        self.engine = worker.Martlet()

    def ask(self, **asked: Any) -> dict[str, Any]:
        return worker.answer(self.engine, asked)

    def close(self) -> None:
        self.engine = worker.Martlet()


class Worker:
    """An engine in a process of its own, in the interpreter that has it. WorkerError for whatever it says is wrong."""

    def __init__(self, engine: str, python: str = sys.executable) -> None:
        self.name = engine
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [python, str(WORKER), engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    def ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            line = ""
        else:
            line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            last = said.strip().splitlines()[-1:] or [f"exit code {self._process.returncode}"]
            raise WorkerError(f"{self.name}: its process ended: {last[0]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Lets the process end; kills it if it does not."""
        try:
            self._process.communicate(timeout=10)
        except (subprocess.TimeoutExpired, ValueError, BrokenPipeError):
            self._process.kill()
            with self._process:  # closes its pipes and waits
                pass


@dataclass(frozen=True, slots=True)
class Load:
    """One thing to measure: so many prompts of these lengths, and so many new tokens after each."""

    lengths: tuple[int, ...]
    new_tokens: int

    @property
    def num_prompt_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths) + self.new_tokens

    def prompts(self, vocab_size: int, seed: int) -> list[list[int]]:
        """Random ids, others for every seed: no run finds another's keys. Low ids, often special, are left out."""
        draw = random.Random(seed)
        lowest = min(1000, vocab_size // 4)
        return [[draw.randrange(lowest, vocab_size) for _ in range(length)] for length in self.lengths]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a load. `decode` counts the tokens after each row's first."""

    prefill: float  # prompt tokens a second
    decode: float  # new tokens a second; 0 where there is only one, or where noise hides it
    first_token_s: float
    total_s: float
    job: float  # new tokens a second over the whole job


@dataclass(slots=True)
class Series:
    """The runs of one engine."""

    name: str
    runs: list[Run] = field(default_factory=list)

    def median(self, of: str) -> float:
        return float(statistics.median(getattr(run, of) for run in self.runs))

    def as_json(self) -> dict[str, Any]:
        names = ("prefill", "decode", "first_token_s", "total_s", "job")
        return {
            name: {"median": self.median(name), "runs": [getattr(run, name) for run in self.runs]} for name in names
        }


def run_once(engine: Engine, load: Load, vocab_size: int, seed: int) -> Run:
    """Runs a load. With several prompts the first tokens' time is taken in a run of its own."""
    asked = {"do": "generate", "prompts": load.prompts(vocab_size, seed), "new_tokens": load.new_tokens}
    if len(load.lengths) == 1:
        answer = engine.ask(**asked)
        first_s, total_s = answer["first_s"], answer["total_s"]
        if load.new_tokens == 1:
            first_s = total_s
    else:
        others = load.prompts(vocab_size, seed + 500_000)
        first_s = engine.ask(do="generate", prompts=others, new_tokens=1)["total_s"]
        total_s = first_s if load.new_tokens == 1 else engine.ask(**asked)["total_s"]
    later = (load.new_tokens - 1) * len(load.lengths)
    decode = later / (total_s - first_s) if later and total_s > first_s else 0.0
    new_tokens = load.new_tokens * len(load.lengths)
    return Run(load.num_prompt_tokens / first_s, decode, first_s, total_s, new_tokens / total_s)


def run_in_turn(
    engines: Mapping[str, Engine],
    load: Load,
    vocab_size: int,
    repeats: int,
    *,
    warm: bool = True,
    first_seed: int = 0,
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, Series]:
    """Every engine once, then again: so that what disturbs the machine disturbs them all. First once unmeasured."""
    series = {name: Series(name) for name in engines}
    if warm:
        small = Load(tuple(min(length, 16) for length in load.lengths), min(load.new_tokens, 4))
        for name, engine in engines.items():
            said(f"{name}: warming up")
            run_once(engine, small, vocab_size, 900_000)
    for repeat in range(repeats):
        for name, engine in engines.items():
            said(f"{name}: run {repeat + 1} of {repeats}")
            series[name].runs.append(
                run_once(engine, load, vocab_size, 1000 * (first_seed + repeat) + len(load.lengths))
            )
    return series


def ratio(ours: Series, theirs: Series, of: str) -> float:
    """How many times theirs ours is: of the medians."""
    return ours.median(of) / theirs.median(of) if theirs.median(of) else 0.0


def best_of(series: Sequence[Series], of: str) -> Series:
    """The settings of one peer that did best."""
    return max(series, key=lambda each: each.median(of))
