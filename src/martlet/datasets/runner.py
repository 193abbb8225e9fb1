"""Where work runs: in this process, or in fresh processes of this machine. A cluster would be one more `Runner`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

from martlet.datasets import template
from martlet.errors import ArgumentError, HashingError, WorkerError

Part = tuple[int, int, int]  # number, first row, end


class Runner(Protocol):
    """Runs the parts of a job; `on_rows` is told of rows that are done. It ends with all parts written, or raises."""

    def run(self, job: Any, parts: Sequence[Part], on_rows: Callable[[int], None]) -> None:
        """Every part once, in any order."""


class ThisProcess:
    """One part after another, here."""

    def run(self, job: Any, parts: Sequence[Part], on_rows: Callable[[int], None]) -> None:
        """Every part once."""
        for number, begin, end in parts:
            job.run_part(number, begin, end, 0, on_rows)


@dataclass
class _Worker:
    rank: int
    process: Any  # a Popen, or a Forked
    unit: str  # what its parts are numbers of
    pipe: Any = None
    part: Part | None = None


class LocalProcesses:
    """Fresh Python processes, never forked from this one: its threads and locks are not theirs.

    A worker that dies ends the run with its rows and the reason. Whatever ends the run, no worker stays.
    """

    def __init__(self, num_proc: int) -> None:
        if num_proc < 1:
            raise ArgumentError("num_proc", "must be at least 1", found=num_proc)
        self.num_proc = num_proc

    def run(self, job: Any, parts: Sequence[Part], on_rows: Callable[[int], None]) -> None:
        """Every part once."""
        waiting = list(reversed(parts))
        workers: list[_Worker] = []
        with tempfile.TemporaryDirectory(prefix="martlet-") as folder:
            data = _pickled(job.for_workers(Path(folder)))
            secret = secrets.token_bytes(32)
            with connection.Listener(_address(folder), authkey=secret, backlog=self.num_proc) as listener:
                try:
                    unit = getattr(job, "unit", "rows")
                    workers = [_start(rank, listener.address, secret, unit) for rank in range(self.num_proc)]
                    self._connect(listener, workers)
                    for worker in workers:
                        worker.pipe.send_bytes(data)
                    self._serve(workers, waiting, on_rows)
                except KeyboardInterrupt:
                    template.end()
                    raise
                finally:
                    _stop(workers)

    def _connect(self, listener: Any, workers: list[_Worker]) -> None:
        by_rank: dict[Any, _Worker] = {worker.rank: worker for worker in workers}
        listener._listener._socket.settimeout(0.2)
        while any(worker.pipe is None for worker in workers):
            for worker in workers:
                if worker.pipe is None and worker.process.poll() is not None:
                    raise _death(worker)
            try:
                pipe: Any = listener.accept()
            except TimeoutError:
                continue
            by_rank[pipe.recv()].pipe = pipe

    def _serve(self, workers: list[_Worker], waiting: list[Part], on_rows: Callable[[int], None]) -> None:
        for worker in workers:
            _give(worker, waiting)
        while busy := {worker.pipe: worker for worker in workers if worker.part is not None}:
            ready: list[Any] = connection.wait(list(busy))
            for pipe in ready:
                worker = busy[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionError) as problem:
                    raise _death(worker) from problem
                if kind == "rows":
                    on_rows(value)
                elif kind == "done":
                    _give(worker, waiting)
                else:
                    error, trace = value
                    error.add_note(f"In a worker process:\n{trace}")
                    raise error


def _give(worker: _Worker, waiting: list[Part]) -> None:
    worker.part = waiting.pop() if waiting else None
    if worker.part is not None:
        try:
            worker.pipe.send(worker.part)
        except (BrokenPipeError, ConnectionError) as problem:
            raise _death(worker) from problem


def _pickled(job: Any) -> bytes:
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(job)
        return data
    except Exception as problem:
        remedy = "Make what cannot be sent inside the function, or give num_proc=None."
        raise HashingError(job.words(), "cannot be sent to worker processes", found=problem, remedy=remedy) from problem


def _address(folder: str) -> str | None:
    return os.path.join(folder, "s") if os.name == "posix" else None


def _start(rank: int, address: Any, secret: bytes, unit: str) -> _Worker:
    """A worker, told where to call; it ends when its standard input is closed, so with us."""
    environment = {"TOKENIZERS_PARALLELISM": "false", **os.environ}
    start = {"rank": rank, "address": address, "secret": secret.hex(), "path": sys.path, "folder": os.getcwd()}
    origin = template.template()
    if origin is not None:
        forked = origin.start({**start, "environment": environment, "limits": _limits()})
        if forked is not None:
            return _Worker(rank, forked, unit)
    process = subprocess.Popen(
        [sys.executable, "-m", "martlet.datasets.worker"], stdin=subprocess.PIPE, env=environment, close_fds=True
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(start).encode() + b"\n")
        process.stdin.flush()
    return _Worker(rank, process, unit)


def _limits() -> dict[str, tuple[int, int]]:
    """This process's limits, which a worker that is not its child is to have too."""
    import resource

    return {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}


def _stop(workers: Sequence[_Worker]) -> None:
    """Ends all workers; Ctrl-C while we wait does not keep one alive."""
    for worker in workers:
        with contextlib.suppress(OSError):
            worker.process.kill()
    for worker in workers:
        worker.process.wait()
        if worker.process.stdin is not None:
            with contextlib.suppress(OSError):
                worker.process.stdin.close()
        if worker.pipe is not None:
            worker.pipe.close()


def _death(worker: _Worker) -> WorkerError:
    code = worker.process.wait()
    if code < 0:
        name = signal.Signals(-code).name
        reason = f"it was ended by {name}"
        if name == "SIGKILL":
            reason += ", as the system does when memory runs out"
    else:
        reason = f"it ended with code {code}"
    rows = f" at {worker.unit} {worker.part[1]:,} to {worker.part[2] - 1:,}" if worker.part else " before its first row"
    remedy = "What was finished is kept: run it again, with fewer num_proc or a smaller batch_size if memory ran out."
    return WorkerError(f"worker {worker.rank}", f"died{rows}", found=reason, remedy=remedy)
