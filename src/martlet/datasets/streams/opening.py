"""What was found, as streams: by number where the files allow it, else front to back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from martlet.datasets.features import Features
from martlet.datasets.files import DataFile
from martlet.datasets.slicing import ReadInstruction
from martlet.datasets.sources.json import Json
from martlet.datasets.sources.parquet import Arrow, Parquet
from martlet.datasets.sources.source import Source
from martlet.datasets.sources.text import Text
from martlet.datasets.streams.lines import has_blank_lines
from martlet.datasets.streams.node import Node
from martlet.datasets.streams.numbered import Joined, Part
from martlet.datasets.streams.reading import FromDataset, FromPieces, LinePieces, ParquetPieces, Streamed
from martlet.datasets.streams.unnumbered import Chained, Limited

if TYPE_CHECKING:
    from martlet.datasets.load import Found


def open_streams(found: Found, asked: ReadInstruction | None) -> Any:
    """An IterableDatasetDict of the splits, or the IterableDataset of the rows asked for."""
    from martlet.datasets.iterable import IterableDataset
    from martlet.datasets.iterable_dict import IterableDatasetDict

    if asked is None:
        made = {split: IterableDataset(open_node(found, split), split=split) for split in found.files}
        return IterableDatasetDict(made)
    nodes = {split: open_node(found, split) for split in asked.splits(found.files)}
    if asked.is_whole:
        parts = [nodes[split] for split in asked.splits(found.files)]
        return IterableDataset(joined(parts, parts[0].features), split=asked.to_spec())
    if all(node.num_rows is not None for node in nodes.values()):
        rows = asked.rows({split: node.num_rows or 0 for split, node in nodes.items()})
        parts = [Part(nodes[part.split], part.start, part.stop) for part in rows]
        return IterableDataset(joined(parts, parts[0].features), split=asked.to_spec())
    parts = []
    for split, start, stop in asked.absolute():
        parts.append(
            Limited(nodes[split], start, None if stop is None else stop - start) if start or stop else nodes[split]
        )
    return IterableDataset(joined(parts, parts[0].features), split=asked.to_spec())


def joined(parts: Sequence[Node], features: Features | None) -> Node:
    """All rows of one after the other."""
    if len(parts) == 1:
        return parts[0]
    if all(part.num_rows is not None for part in parts):
        return Joined(parts, features)
    return Chained(parts, features)


def open_node(found: Found, split: str) -> Node:
    """The rows of a split: numbered for Parquet, Arrow, and local JSON Lines and text; else as they come."""
    source, files, features = found.source.copy(), found.files[split], found.features
    source.num_threads = 1
    if features is not None:
        from martlet.datasets.convert import read_types

        source.types = {**source.types, **read_types(features)}
    if isinstance(source, Parquet) and source.filters is None and source.on_bad_files == "error" and files:
        return FromPieces(ParquetPieces(files, source.columns), features, len(files))
    if isinstance(source, Arrow) and all(file.is_local and file.member is None for file in files) and not features:
        return _mapped(files)
    if files and all(_is_of_lines(source, file) for file in files):
        return FromPieces(LinePieces(source, files), features, len(files))
    streamed = Streamed(source, files, features)
    streamed.look()
    return streamed


def _mapped(files: Sequence[DataFile]) -> Node:
    from martlet.datasets.dataset import Dataset

    parts = [FromDataset(Dataset.from_file(file.url)) for file in files]
    return joined(parts, parts[0].features)


def _is_of_lines(source: Source, file: DataFile) -> bool:
    """Whether the file's rows are its lines, to be found by the newlines alone."""
    if not file.is_local or file.member is not None or source.on_error != "raise" or not source.block_is_lines():
        return False
    with open(file.url, "rb") as stream:
        line = stream.readline(1 << 24)
    if isinstance(source, Text):
        return b"\r" not in line and not line.startswith((b"\x1f\x8b", b"BZh", b"\xfd7z", b"\x28\xb5\x2f\xfd"))
    if not isinstance(source, Json):
        return False
    try:
        return isinstance(json.loads(line), dict) and not has_blank_lines(file)
    except ValueError:
        return False
