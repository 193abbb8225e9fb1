"""split_dataset_by_node: the rows of one of several processes that share a dataset."""

from __future__ import annotations

from typing import Any

from martlet.datasets.arguments import verb
from martlet.datasets.iterable import IterableDataset
from martlet.errors import ArgumentError

STRATEGIES = ("auto", "shards", "examples")


@verb
def split_dataset_by_node(dataset: Any, rank: int, world_size: int, strategy: str = "auto") -> Any:
    """The rank's rows: of a Dataset a shard of neighbours; of a stream as `strategy` says.

    "examples": every `world_size`-th row. "shards": whole files, of counted rows neighbours, so that a rank reads
    nothing of the others; there must be a shard for each rank. "auto": of counted rows every `world_size`-th of their
    one order, else whole files where there are enough. Split again, the ranks of the first are split.
    """
    if not 0 <= rank < world_size:
        raise ArgumentError("rank", f"must be 0 to {world_size - 1}", found=rank)
    if strategy not in STRATEGIES:
        raise ArgumentError("strategy", f"must be one of {', '.join(STRATEGIES)}", found=repr(strategy))
    if not isinstance(dataset, IterableDataset):
        if strategy != "auto":
            rule = "of a Dataset must be 'auto'"
            remedy = "ds.to_iterable_dataset() can be split otherwise."
            raise ArgumentError("strategy", rule, found=repr(strategy), remedy=remedy)
        return dataset.shard(num_shards=world_size, index=rank, contiguous=True)
    is_split = dataset._world > 1 or dataset._strategy == "shards"
    if is_split and strategy not in ("auto", dataset._strategy):
        rule = f"cannot change: this stream was split by {dataset._strategy!r}"
        raise ArgumentError("strategy", rule, found=repr(strategy))
    strategy = dataset._strategy if is_split else strategy
    node = dataset._node
    if strategy == "shards":
        if node.num_shards < world_size:
            rule = f"'shards' needs a shard for each of {world_size} ranks"
            remedy = "strategy='examples' splits by rows."
            raise ArgumentError("strategy", rule, found=f"num_shards={node.num_shards}", remedy=remedy)
        node = node.sharded(world_size, rank, contiguous=node.num_rows is not None)
    new = dataset._like(node)
    new._strategy = strategy
    if strategy != "shards":
        new._rank, new._world = dataset._rank + dataset._world * rank, dataset._world * world_size
    return new
