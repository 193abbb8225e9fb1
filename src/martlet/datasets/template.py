"""The process that worker processes are forked from, where that is safe: it has read the libraries, and one thread.

A worker is as fresh as an interpreter of its own, which takes half a second to read the libraries. Of the user's code
the template runs nothing; it ends when its parent does.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

# Of the template alone, so that reading the libraries starts no threads; a worker has its caller's variables.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
IS_POSSIBLE = sys.platform == "linux"  # elsewhere system libraries do not bear a fork


class Forked:
    """A worker process as its caller sees it: what runs uses of a Popen."""

    stdin = None

    def __init__(self, template: Template, pid: int) -> None:
        self._template, self.pid = template, pid

    def poll(self) -> int | None:
        """Its exit code (-N: ended by signal N), None while it runs."""
        return self._template.ended(self.pid)

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        while (code := self._template.ended(self.pid, is_waiting=True)) is None:
            pass
        return code

    def kill(self) -> None:
        """Ends it."""
        self._template.tell({"kill": self.pid})


class Template:
    """The calling side: asks the template for workers, and is told when they end."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "martlet.datasets.template", str(theirs.fileno())],
                stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], env={**os.environ, **ONE_THREAD},
            )  # fmt: skip
        self._socket, self._rest = ours, b""
        self._lock = threading.RLock()
        self._started: list[int] = []
        self._codes: dict[int, int] = {}
        self.is_over = self.has_forked = False
        self.owner = os.getpid()
        self._take(is_waiting=True)  # "ready", or its end

    def start(self, start: dict[str, Any]) -> Forked | None:
        """A worker; None where the template cannot fork."""
        with self._lock:
            if self.is_over:
                return None
            self.tell({"start": start})
            while not self._started and not self.is_over:
                self._take(is_waiting=True)
            return Forked(self, self._started.pop()) if self._started else None

    def ended(self, pid: int, *, is_waiting: bool = False) -> int | None:
        """The exit code of a worker; None while it runs, as far as is known."""
        with self._lock:
            if pid not in self._codes and not self.is_over:
                self._take(is_waiting=is_waiting)
            if pid not in self._codes and self.is_over:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self._codes[pid] = -signal.SIGKILL
            return self._codes.get(pid)

    def tell(self, message: dict[str, Any]) -> None:
        """Sends a message."""
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """Ends the template, and its workers with it."""
        with self._lock:
            self.is_over = True
            self._process.kill()
            self._process.wait()
            self._socket.close()
            if self._process.stdin is not None:
                self._process.stdin.close()

    def _take(self, *, is_waiting: bool) -> None:
        """Takes up what the template has said, waiting a moment for it if asked to."""
        if not select.select([self._socket], [], [], 0.2 if is_waiting else 0)[0]:
            return
        try:
            data = self._socket.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self.is_over = True
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "pid" in said:
                self._started.append(said["pid"])
                self.has_forked = True
            elif "ended" in said:
                self._codes[said["ended"]] = said["code"]


_kept: list[Template] = []
_lock = threading.Lock()


def template() -> Template | None:
    """The template of this process, started if need be; None where there can be none."""
    if not IS_POSSIBLE:
        return None
    with _lock:
        if _kept and _kept[-1].owner == os.getpid() and _kept[-1].is_over and _kept[-1].has_forked:
            _kept.pop().close()  # something ended it
        if not _kept or _kept[-1].owner != os.getpid():
            _kept.append(Template())
        return None if _kept[-1].is_over else _kept[-1]


@atexit.register
def end() -> None:
    """Ends the template of this process; the next worker gets a new one."""
    with _lock:
        if _kept and _kept[-1].owner == os.getpid():
            _kept.pop().close()


# The template itself


def main() -> None:
    """Forks a worker for each message, and tells which have ended, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    import cloudpickle  # noqa: F401
    import numpy.random  # noqa: F401
    import pyarrow as pa

    import martlet.datasets.stage  # noqa: F401
    from martlet.datasets import worker

    pa.array([1])  # the first reads pandas, where there is one

    if len(os.listdir("/proc/self/task")) != 1:
        return  # something of this installation starts a thread: the parent sees us end, and starts fresh interpreters
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: set[int] = set()
    rest = b""
    sources: list[Any] = [control, woken]
    while True:
        ready = select.select(sources, [], [])[0]
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 1 << 12)
        for pid in list(running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                running.discard(pid)
                _say(control, {"ended": pid, "code": os.waitstatus_to_exitcode(status)})
        if control not in ready:
            continue
        data = control.recv(1 << 16)
        if not data:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            if "kill" in asked:
                if asked["kill"] in running:  # not waited for yet, so the number is still its own
                    os.kill(asked["kill"], signal.SIGKILL)
                continue
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                os.close(woken)
                os.close(wake)
                _be(worker, asked["start"])
            running.add(pid)
            _say(control, {"pid": pid})


def _say(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        control.sendall(json.dumps(message).encode() + b"\n")


def _be(worker: Any, start: dict[str, Any]) -> None:
    """What a forked worker does, to its end."""
    import resource

    import numpy as np

    code = 1
    try:
        os.environ.clear()
        os.environ.update(start["environment"])
        for name, limits in start["limits"].items():
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(getattr(resource, name), limits)
        np.random.seed()  # else all workers would draw the same; `random` sees to itself
        worker.work(start)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
