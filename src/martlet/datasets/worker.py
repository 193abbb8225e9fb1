"""A worker process of a map: gets a job, does parts, ends when its parent does."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
import traceback
from multiprocessing import connection
from typing import Any


def main() -> None:
    """Reads on standard input where to call, then works until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    work(json.loads(sys.stdin.buffer.readline()))


def work(start: dict[str, Any]) -> None:
    """Calls where `start` says, and does what comes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.path[:] = start["path"]
    os.chdir(start["folder"])
    pipe = connection.Client(start["address"], authkey=bytes.fromhex(start["secret"]))
    pipe.send(start["rank"])
    try:
        data = pipe.recv_bytes()
        try:
            job = pickle.loads(data)
        except Exception as problem:
            pipe.recv()
            pipe.send(("error", _portable(problem)))
            return
        while True:
            number, begin, end = pipe.recv()
            _work(pipe, job, number, begin, end, start["rank"])
    except (EOFError, ConnectionError):
        return


def _work(pipe: Any, job: Any, number: int, begin: int, end: int, rank: int) -> None:
    try:
        job.run_part(number, begin, end, rank, lambda rows: pipe.send(("rows", rows)))
    except BaseException as problem:
        pipe.send(("error", _portable(problem)))
    else:
        pipe.send(("done", number))


def _portable(problem: BaseException) -> tuple[BaseException, str]:
    """The exception, if it survives the way; else one that says the same."""
    trace = "".join(traceback.format_exception(problem))
    try:
        pickle.loads(pickle.dumps(problem))
        return problem, trace
    except Exception:
        return RuntimeError(f"{type(problem).__name__}: {problem}"), trace


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
