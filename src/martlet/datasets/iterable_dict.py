"""IterableDatasetDict: streams by the name of their split; a verb is done to each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from martlet.datasets import pushing
from martlet.datasets.dataset_dict import WithSplit
from martlet.datasets.iterable import IterableDataset


class IterableDatasetDict(dict[str, IterableDataset]):
    """Streams by the name of their split. `map`, `filter`, `shuffle`, ... are done to each, alike."""

    @property
    def column_names(self) -> dict[str, list[str] | None]:
        """Columns of each split."""
        return {split: dataset.column_names for split, dataset in self.items()}

    @property
    def num_columns(self) -> dict[str, int | None]:
        """Number of columns of each split."""
        return {split: dataset.num_columns for split, dataset in self.items()}

    push_to_hub = pushing.push_to_hub

    def map(self, function: Any = None, *args: Any, with_split: bool = False, **kwargs: Any) -> IterableDatasetDict:
        """`map` of each split; with `with_split` the function is told the split after its other arguments."""
        told = {split: WithSplit(function, split) if with_split else function for split in self}
        return type(self)({split: ds.map(told[split], *args, **kwargs) for split, ds in self.items()})

    def __repr__(self) -> str:
        inner = "\n".join(f"{name}: {dataset!r}" for name, dataset in self.items())
        return "IterableDatasetDict({\n    " + inner.replace("\n", "\n    ") + "\n})"


def _each(name: str) -> Callable[..., IterableDatasetDict]:
    def applied(self: IterableDatasetDict, *args: Any, **kwargs: Any) -> IterableDatasetDict:
        return type(self)({split: getattr(ds, name)(*args, **kwargs) for split, ds in self.items()})

    applied.__name__, applied.__doc__ = name, getattr(IterableDataset, name).__doc__
    return applied


for _name in (
    *("filter", "shuffle", "skip", "take", "repeat", "shard", "batch", "select_columns", "remove_columns"),
    *("rename_column", "rename_columns", "cast", "cast_column", "with_format", "with_transform", "add_column"),
    "decode",
):
    setattr(IterableDatasetDict, _name, _each(_name))
