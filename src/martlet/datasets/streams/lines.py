"""Where the rows of a file of lines are, without keeping a number for each."""

from __future__ import annotations

import mmap
import os

import numpy as np

from martlet.datasets.files import DataFile

SCAN_BYTES = 16 << 20


def line_offsets(file: DataFile, rows_of_piece: int) -> tuple[list[int], list[int], int]:
    """The byte at which each piece of so many lines starts, the lines in each, and the size of the file."""
    size = os.path.getsize(file.url)
    offsets, counts = [], []
    if not size:
        return [], [], 0
    with open(file.url, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        first, pending = 0, 0  # where the piece under way starts, and its lines so far
        for start in range(0, size, SCAN_BYTES):
            ends = np.flatnonzero(np.frombuffer(mapped[start : start + SCAN_BYTES], np.uint8) == 10) + start + 1
            used = 0
            while len(ends) - used >= rows_of_piece - pending:
                used += rows_of_piece - pending
                offsets.append(first)
                counts.append(rows_of_piece)
                first, pending = int(ends[used - 1]), 0
            pending += len(ends) - used
        if mapped[size - 1] != 10:
            pending += 1
    if pending:
        offsets.append(first)
        counts.append(pending)
    return offsets, counts, size


def has_blank_lines(file: DataFile) -> bool:
    """Whether some line is empty: such a file's lines are not its rows."""
    with open(file.url, "rb") as stream:
        before = b"\n"
        while data := stream.read(SCAN_BYTES):
            if b"\n\n" in before + data or b"\n\r\n" in before + data:
                return True
            before = data[-2:]
    return False
