"""Files cut into blocks of whole lines: what is read is the file, wherever blocks end."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from martlet.datasets.sources.lines import Block, blocks

TEXTS = [b"", b"a", b"a\n", b"\n\n\nb\n", b"one\ntwo\n" + b"x" * 70 + b"\nthree", "ä\nöü\n".encode() * 9]


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("data", TEXTS)
def test_blocks_are_whole_lines_of_the_file(tmp_path: Path, data: bytes, block_bytes: int) -> None:
    path = tmp_path / "lines"
    path.write_bytes(data)
    with path.open("rb") as file:
        of_file = list(blocks(file, block_bytes))
    of_stream = list(blocks(io.BytesIO(data), block_bytes))
    for found in (of_file, of_stream):
        assert b"".join(block.data for block in found) == data
        assert [block.offset for block in found] == [sum(len(b.data) for b in found[:n]) for n in range(len(found))]
        assert all(block.data.endswith(b"\n") for block in found[:-1])


def test_a_file_is_read_from_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"\xef\xbb\xbfone\ntwo\n")
    with path.open("rb") as file:
        file.seek(3)
        assert list(blocks(file, 2)) == [Block(b"one\n", 3), Block(b"two\n", 7)]
