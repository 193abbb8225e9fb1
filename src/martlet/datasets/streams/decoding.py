"""Pictures and sound decoded by threads, some rows ahead of what is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from martlet.datasets.features import Features, changed
from martlet.datasets.streams.node import Context, Node, Positions, Row, Run


def silent(features: Features) -> Features:
    """The features with nothing decoded."""
    return Features(changed(features, lambda kind: replace(kind, decode=False) if hasattr(kind, "decode") else None))


class Decoded(Node):
    """The rows below, which are not decoded there, decoded by `num_threads` threads, in their order."""

    def __init__(self, child: Node, features: Features, num_threads: int) -> None:
        self._child, self.features, self._num_threads = child, features, num_threads
        self.num_rows = child.num_rows

    def children(self) -> list[Node]:
        return [self._child]

    def rows(self, positions: Positions, epoch: int) -> Iterator[Row]:
        assert self.features is not None
        decode, rows = self.features.decode_example, self._child.rows(positions, epoch)
        ahead: deque[Future[Row]] = deque()
        with ThreadPoolExecutor(self._num_threads) as pool:
            for row in rows:
                ahead.append(pool.submit(decode, row))
                if len(ahead) >= self._num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def start(self, state: Any, context: Context) -> Run:
        assert self.features is not None
        return _DecodedRun(self._child.run(state, context), self.features.decode_example, self._num_threads)

    def shuffled(self, seed: int, buffer_size: int, num_files: int) -> Node:
        assert self.features is not None  # rows that wait for their turn are not decoded
        return Decoded(self._child.shuffled(seed, buffer_size, num_files), self.features, self._num_threads)

    def sharded(self, count: int, index: int, contiguous: bool) -> Node:
        assert self.features is not None
        return Decoded(self._child.sharded(count, index, contiguous), self.features, self._num_threads)

    def decoding(self, features: Features) -> Node | None:
        if features == silent(features):
            return self._child.decoding(features)
        below = self._child.decoding(silent(features))
        return None if below is None else Decoded(below, features, self._num_threads)


class _DecodedRun(Run):
    """The state is where the first of the rows comes from that are being decoded."""

    def __init__(self, run: Run, decode: Callable[[Row], Row], num_threads: int) -> None:
        self._run, self._decode, self._num_threads = run, decode, num_threads
        self._pool = ThreadPoolExecutor(num_threads)
        self._ahead: deque[tuple[Any, Future[Row]]] = deque()

    def __next__(self) -> Row:
        while len(self._ahead) < self._num_threads:
            at = self._run.state()
            row = next(self._run, None)
            if row is None:
                break
            self._ahead.append((at, self._pool.submit(self._decode, row)))
        if not self._ahead:
            self._pool.shutdown()
            raise StopIteration
        return self._ahead.popleft()[1].result()

    def state(self) -> Any:
        return self._ahead[0][0] if self._ahead else self._run.state()
