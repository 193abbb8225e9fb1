"""Streams put together and dealt out: interleaved, concatenated, by rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from martlet.datasets.features import Features, aligned
from martlet.datasets.iterable import IterableDataset
from martlet.datasets.streams.node import Node
from martlet.datasets.streams.numbered import Alternated, Beside
from martlet.datasets.streams.opening import joined
from martlet.datasets.streams.unnumbered import Drawn
from martlet.errors import ArgumentError

STOPPING = ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement")


def concatenate_streams(
    datasets: Sequence[IterableDataset], *, axis: int = 0, split: str | None = None
) -> IterableDataset:
    """Rows one stream after the other (axis 0), or columns side by side (axis 1)."""
    nodes = [dataset._node for dataset in datasets]
    if axis == 0:
        return IterableDataset(joined(nodes, _aligned(nodes)), split=split)
    names = [name for node in nodes for name in node.features or ()]
    if len(set(names)) != len(names) or any(node.num_rows is None for node in nodes):
        raise ArgumentError(
            "concatenate_datasets(axis=1)", "needs counted rows and columns of different names", found=names
        )
    features = Features({name: kind for node in nodes for name, kind in (node.features or {}).items()})
    return IterableDataset(Beside(nodes, features), split=split)


def interleave_streams(
    datasets: Sequence[IterableDataset],
    *,
    probabilities: Sequence[float] | None = None,
    seed: int | None = None,
    stopping_strategy: str = "first_exhausted",
    split: str | None = None,
) -> IterableDataset:
    """A row of each in turn, or drawn with probabilities, as Hugging Face's library draws them with the seed."""
    if stopping_strategy not in STOPPING:
        raise ArgumentError("stopping_strategy", f"must be one of {', '.join(STOPPING)}", found=repr(stopping_strategy))
    nodes = [dataset._node for dataset in datasets]
    features = _aligned(nodes)
    if probabilities is None and stopping_strategy == "first_exhausted" and all(n.num_rows is not None for n in nodes):
        return IterableDataset(Alternated(nodes, features), split=split)
    chances = None if probabilities is None else [float(each) for each in probabilities]
    if chances is not None and (len(chances) != len(nodes) or abs(sum(chances) - 1) > 1e-6 or min(chances) < 0):
        raise ArgumentError("probabilities", f"must be {len(nodes)} numbers that add up to 1", found=chances)
    return IterableDataset(Drawn(nodes, chances, seed, stopping_strategy, features), split=split)


def _aligned(nodes: Sequence[Node]) -> Features | None:
    known = [node.features for node in nodes]
    return None if any(features is None for features in known) else aligned([f for f in known if f is not None])


def deal_stream(dataset: IterableDataset, rank: int, world_size: int) -> Any:
    """The rank's rows: every `world_size`-th of the one order, or whole files where rows are not counted."""
    if not 0 <= rank < world_size:
        raise ArgumentError("rank", f"must be 0 to {world_size - 1}", found=rank)
    new = dataset._like(dataset._node)
    new._rank, new._world = dataset._rank + dataset._world * rank, dataset._world * world_size
    return new
