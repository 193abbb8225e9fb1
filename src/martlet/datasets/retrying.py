"""Remote files whose reads survive a lost connection: tried again, after a pause, from where they stood."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from martlet.datasets.config import setting
from martlet.errors import HubError, MartletError

T = TypeVar("T")
log = logging.getLogger("martlet.datasets")
_BUSY = (500, 502, 503, 504)
_CLIENTS = ("aiohttp", "httpx", "httpcore", "requests", "urllib3", "botocore")  # whose errors are of the connection


def pause_of(problem: BaseException) -> float | None:
    """Seconds to wait before another try; None for what another try would not change."""
    cause = problem.__cause__
    if isinstance(problem, FileNotFoundError) and cause is not None:  # so fsspec says that a request failed
        return pause_of(cause)
    status = getattr(problem, "status", None) or getattr(getattr(problem, "response", None), "status_code", None)
    if status == 429:
        return float(setting("STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL"))
    if status is not None:
        return float(setting("STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL")) if status in _BUSY else None
    if isinstance(problem, ConnectionError | TimeoutError) or _is_of_client(problem):
        return float(setting("STREAMING_READ_RETRY_INTERVAL"))
    return None


def _is_of_client(problem: BaseException) -> bool:
    return any(kind.__module__.split(".")[0] in _CLIENTS for kind in type(problem).__mro__)


def opened(name: str, call: Callable[[], T]) -> T:
    """What `call` opens; tried again where the server is busy or hung up, not where there is none."""
    tries = int(setting("STREAMING_OPEN_MAX_RETRIES"))
    for number in range(1, tries + 1):
        try:
            return call()
        except Exception as problem:
            if number == tries or pause_of(problem) is None or _is_unreachable(problem):
                raise
            pause = float(setting("STREAMING_OPEN_RETRY_INTERVAL"))
            log.warning("%s: cannot be opened (%r); once more in %g s [%d/%d]", name, problem, pause, number, tries)
            time.sleep(pause)
    return call()


def _is_unreachable(problem: BaseException) -> bool:
    """Whether no connection came about at all: a name that nobody has, a port that nobody listens on."""
    names = {kind.__name__ for each in (problem, problem.__cause__) for kind in type(each).__mro__}
    return bool(names & {"ClientConnectorError", "ConnectError", "ConnectionRefusedError", "gaierror"})


class Retried(io.RawIOBase):
    """A remote file; a read that loses its connection is done once more. HubError when it was lost too often."""

    def __init__(self, name: str, inner: Any) -> None:
        self._name, self._inner = name, inner
        # what has no size is one answer, read front to back: it cannot go on where it stood
        self._goes_on = getattr(inner, "size", None) is not None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._inner.seekable())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, or all that are left."""
        tries = max(1, int(setting("STREAMING_READ_MAX_RETRIES")))
        start = self._inner.tell()
        for number in range(1, tries + 1):
            try:
                data: bytes = self._inner.read(size)
                return data
            except Exception as problem:
                pause = pause_of(problem)
                if pause is None:
                    if isinstance(problem, MartletError) or not _is_of_client(problem):
                        raise
                    raise HubError(self._name, f"cannot be read at byte {start}", found=problem) from problem
                if number == tries or not self._goes_on:
                    remedy = "datasets.config.STREAMING_READ_MAX_RETRIES says how often it is tried."
                    rule = f"the connection was lost at byte {start}" + (f", {number} times" if number > 1 else "")
                    raise HubError(self._name, rule, found=repr(problem)[:200], remedy=remedy) from problem
                log.warning(
                    "%s: %r at byte %d; once more in %g s [%d/%d]", self._name, problem, start, pause, number, tries
                )
                time.sleep(pause)
                self._inner.seek(start)
        raise AssertionError

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()
