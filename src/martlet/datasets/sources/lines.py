"""Files of lines: cut into blocks at line ends, so that blocks can be read on several threads, and places named."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TypeVar

from martlet.datasets.files import DataFile

BLOCK_BYTES = 4 << 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines; `offset` is the place of the first byte in the unpacked file."""

    data: bytes
    offset: int


def blocks(stream: IO[bytes], block_bytes: int = BLOCK_BYTES, separator: bytes = b"\n") -> Iterator[Block]:
    """The stream in blocks that end with the separator (but for the last). A line may be longer than a block."""
    if separator == b"\n" and isinstance(getattr(stream, "raw", None), io.FileIO):
        yield from _blocks_of_file(stream, block_bytes)
        return
    rests: list[bytes] = []  # of a line that is longer than what is read at a time: put together once
    offset = 0
    while True:
        data = stream.read(block_bytes)
        if not data:
            break
        if separator not in data:
            rests.append(data)
            continue
        data = b"".join([*rests, data])
        cut = data.rfind(separator)
        while len(separator) > 1 and cut > 0 and data[cut - 1 : cut] == separator[:1]:
            cut -= 1  # in a longer run of newlines the first two separate
        cut += len(separator)
        yield Block(data[:cut], offset)
        offset += cut
        rests = [data[cut:]] if cut < len(data) else []
    if rests:
        yield Block(b"".join(rests), offset)


def _blocks_of_file(stream: IO[bytes], block_bytes: int) -> Iterator[Block]:
    """The same of a file on the disk: where a block ends is looked up first, so that its bytes are copied once."""
    offset = stream.tell()
    while True:
        stream.seek(offset + block_bytes)
        stream.readline()
        end = stream.tell()
        stream.seek(offset)
        data = stream.read(end - offset)
        if not data:
            return
        yield Block(data, offset)
        offset += len(data)


def line_number(file: DataFile, offset: int) -> int:
    """The number, from 1, of the line that starts at a byte of the unpacked file."""
    count = 1
    with file.open() as stream:
        while offset > 0:
            data = stream.read(min(offset, 1 << 20))
            if not data:
                break
            count += data.count(b"\n")
            offset -= len(data)
    return count


def in_order(work: Callable[[Block], T], items: Iterator[Block], num_threads: int) -> Iterator[T]:
    """`work` of each item on threads, results in the items' order; at most two a thread are under way."""
    if num_threads <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(num_threads, thread_name_prefix="martlet-read") as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
