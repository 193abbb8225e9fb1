"""IterableDatasetDict: streams by the name of their split; a verb is done to each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from martlet.datasets import pushing
from martlet.datasets.arguments import verb
from martlet.datasets.dataset_dict import WithSplit
from martlet.datasets.features import Features
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

    @verb
    def map(
        self,
        function: Callable[..., Any] | None = None,
        with_indices: bool = False,
        with_split: bool = False,
        input_columns: str | list[str] | None = None,
        batched: bool = False,
        batch_size: int | None = 1000,
        drop_last_batch: bool = False,
        remove_columns: str | list[str] | None = None,
        fn_kwargs: dict[str, Any] | None = None,
        *,
        features: Features | None = None,
    ) -> IterableDatasetDict:
        """`map` of each split; with `with_split` the function is told the split after its other arguments."""
        told: dict[str, Any] = {
            split: WithSplit(function, split) if with_split and function is not None else function for split in self
        }
        options = (with_indices, input_columns, batched, batch_size, drop_last_batch, remove_columns, features)
        return type(self)({split: ds.map(told[split], *options, fn_kwargs) for split, ds in self.items()})

    def __repr__(self) -> str:
        inner = "\n".join(f"{name}: {dataset!r}" for name, dataset in self.items())
        return "IterableDatasetDict({\n    " + inner.replace("\n", "\n    ") + "\n})"


def _each(name: str) -> Callable[..., IterableDatasetDict]:
    @functools.wraps(getattr(IterableDataset, name))
    def applied(self: IterableDatasetDict, *args: Any, **kwargs: Any) -> IterableDatasetDict:
        return type(self)({split: getattr(ds, name)(*args, **kwargs) for split, ds in self.items()})

    return applied


for _name in (
    *("filter", "shuffle", "skip", "take", "repeat", "shard", "batch", "select_columns", "remove_columns"),
    *("rename_column", "rename_columns", "cast", "cast_column", "with_format", "with_transform", "add_column"),
    "decode",
):
    setattr(IterableDatasetDict, _name, _each(_name))
