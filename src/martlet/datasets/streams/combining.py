"""Streams put together: one after the other, side by side, in turn, or drawn."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

from martlet.datasets.features import Features, aligned
from martlet.datasets.info import DatasetInfo
from martlet.datasets.iterable import IterableDataset
from martlet.datasets.streams.blocks import encoded
from martlet.datasets.streams.node import Context, Node
from martlet.datasets.streams.numbered import Alternated, Beside
from martlet.datasets.streams.opening import joined
from martlet.datasets.streams.unnumbered import Drawn, Zipped
from martlet.errors import ArgumentError

LOOKED_AT = 5  # rows that tell the columns of a stream, as in Hugging Face's library
STOPPING = ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement")


def concatenate_iterables(
    dsets: Sequence[IterableDataset], *, info: DatasetInfo | None = None, split: str | None = None, axis: int = 0
) -> IterableDataset:
    """Rows one stream after the other (axis 0), or columns side by side (axis 1)."""
    node = concatenated(_resolved(dsets), axis)
    new = _shared(IterableDataset(node, split=split, info=info), dsets)
    if all(dataset._form == dsets[0]._form for dataset in dsets):
        new._form = dsets[0]._form
    return new


def interleave_iterables(
    dsets: Sequence[IterableDataset],
    probabilities: Sequence[float] | None = None,
    *,
    seed: int | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
    stopping_strategy: str = "first_exhausted",
) -> IterableDataset:
    """A row of each in turn, or drawn with probabilities, as Hugging Face's library draws them with the seed."""
    node = interleaved(_resolved(dsets), probabilities, seed, stopping_strategy)
    return _shared(IterableDataset(node, split=split, info=info), dsets)


def _resolved(dsets: Sequence[IterableDataset]) -> list[Node]:
    """The streams' steps; features that are not known are those of the first rows, so that columns are filled up."""
    nodes = []
    for dataset in dsets:
        node = dataset._node
        if node.features is None and (rows := list(itertools.islice(node.run(None, Context()), LOOKED_AT))):
            node = copy.copy(node)
            node.features = encoded(rows, None)[1]
        nodes.append(node)
    return nodes


def concatenated(nodes: Sequence[Node], axis: int) -> Node:
    """Rows one after the other (axis 0), or columns side by side (axis 1)."""
    if axis == 0:
        return joined(nodes, _aligned(nodes))
    names = [name for node in nodes for name in node.features or ()]
    if axis != 1:
        raise ArgumentError("concatenate_datasets()", "axis must be 0 or 1", found=axis)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ArgumentError("concatenate_datasets()", "side by side, names must differ", found=", ".join(twice))
    is_known = all(node.features is not None for node in nodes)
    kinds = (
        Features({name: kind for node in nodes for name, kind in (node.features or {}).items()}) if is_known else None
    )
    counts = {node.num_rows for node in nodes}
    if None in counts:
        return Zipped(nodes, kinds)
    if len(counts) > 1:
        found = ", ".join(str(node.num_rows) for node in nodes)
        raise ArgumentError("concatenate_datasets()", "side by side, all need as many rows", found=found)
    return Beside(nodes, kinds)


def interleaved(nodes: Sequence[Node], probabilities: Sequence[float] | None, seed: int | None, stopping: str) -> Node:
    """A row of each in turn, or drawn with probabilities."""
    if stopping not in STOPPING:
        raise ArgumentError("stopping_strategy", f"must be one of {', '.join(STOPPING)}", found=repr(stopping))
    features = _aligned(nodes)
    if probabilities is None and stopping == "first_exhausted" and all(n.num_rows is not None for n in nodes):
        return Alternated(nodes, features)
    chances = None if probabilities is None else [float(each) for each in probabilities]
    if chances is not None and (len(chances) != len(nodes) or abs(sum(chances) - 1) > 1e-6 or min(chances) < 0):
        raise ArgumentError("probabilities", f"must be {len(nodes)} numbers that add up to 1", found=chances)
    return Drawn(nodes, chances, seed, stopping, features)


def _aligned(nodes: Sequence[Node]) -> Features | None:
    known = [node.features for node in nodes]
    return None if any(features is None for features in known) else aligned([f for f in known if f is not None])


def _shared(new: IterableDataset, dsets: Sequence[IterableDataset]) -> IterableDataset:
    """The stream as the share of the rank that all it is made of are."""
    shares = {(dataset._rank, dataset._world, dataset._strategy) for dataset in dsets}
    if len(shares) > 1:
        rule = "streams put together must be identically split_by_node, or not at all"
        raise ArgumentError("streams", rule, found=f"{len(shares)} ways", remedy="Split what they are put together to.")
    new._rank, new._world, new._strategy = shares.pop()
    return new
