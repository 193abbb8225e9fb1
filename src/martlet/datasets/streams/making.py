"""Streams out of Python objects, data frames and files: what `Dataset.from_*` takes, read when iterated."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from martlet.datasets.arguments import verb
from martlet.datasets.features import Features
from martlet.datasets.info import DatasetInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from martlet.datasets.iterable import IterableDataset


@verb
def from_dict(
    cls: type[IterableDataset],
    mapping: Mapping[str, Any],
    features: Features | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
    num_shards: int | None = 1,
) -> IterableDataset:
    """Columns by name: lists, arrays or tensors of one length."""
    return _of(_dataset().from_dict(mapping, features, info, split), num_shards)


@verb
def from_list(
    cls: type[IterableDataset],
    mapping: list[dict[str, Any]],
    features: Features | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
    num_shards: int | None = 1,
) -> IterableDataset:
    """Rows as dicts; a key that a row lacks is None there."""
    return _of(_dataset().from_list(mapping, features, info, split), num_shards)


@verb
def from_pandas(
    cls: type[IterableDataset],
    df: Any,
    features: Features | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
    preserve_index: bool | None = None,
    num_shards: int | None = 1,
) -> IterableDataset:
    """The columns of a pandas DataFrame."""
    return _of(_dataset().from_pandas(df, features, info, split, preserve_index), num_shards)


@verb
def from_polars(
    cls: type[IterableDataset],
    df: Any,
    features: Features | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
    num_shards: int | None = 1,
) -> IterableDataset:
    """The columns of a Polars DataFrame, or of a LazyFrame, collected."""
    return _of(_dataset().from_polars(df, features, info, split), num_shards)


@verb
def from_generator(
    cls: type[IterableDataset],
    generator: Callable[..., Any],
    features: Features | None = None,
    gen_kwargs: dict[str, Any] | None = None,
    split: str = "train",
) -> IterableDataset:
    """Rows of a function that gives an iterator; lists in `gen_kwargs` are shards that workers deal out."""
    from martlet.datasets.making import needs_generator
    from martlet.datasets.streams.reading import Generated

    needs_generator(generator)
    made = Features(features) if features is not None else None
    return cls(Generated(generator, gen_kwargs or {}, made), split=split)


@verb
def from_file(cls: type[IterableDataset], filename: str | os.PathLike[str]) -> IterableDataset:
    """The rows of one Arrow file, mapped into memory."""
    return _of(_dataset().from_file(os.fspath(filename)), 1)


def from_csv(
    cls: type[IterableDataset],
    /,
    path_or_paths: Any,
    split: Any = None,
    features: Features | None = None,
    keep_in_memory: bool = False,
    **kwargs: Any,
) -> Any:
    """The rows of CSV files; keywords as of load_dataset("csv"). `keep_in_memory` changes nothing."""
    return _streamed("csv", path_or_paths, split, features, kwargs)


def from_json(
    cls: type[IterableDataset],
    /,
    path_or_paths: Any,
    split: Any = None,
    features: Features | None = None,
    keep_in_memory: bool = False,
    field: str | None = None,
    **kwargs: Any,
) -> Any:
    """The rows of JSON or JSON Lines files; `field` is where in the file they are."""
    return _streamed("json", path_or_paths, split, features, {"field": field, **kwargs})


def from_parquet(
    cls: type[IterableDataset],
    /,
    path_or_paths: Any,
    split: Any = None,
    features: Features | None = None,
    keep_in_memory: bool = False,
    columns: list[str] | None = None,
    filters: Any = None,
    **kwargs: Any,
) -> Any:
    """The rows of Parquet files, or some of their columns, or those for which `filters` hold."""
    return _streamed("parquet", path_or_paths, split, features, {"columns": columns, "filters": filters, **kwargs})


def from_text(
    cls: type[IterableDataset],
    /,
    path_or_paths: Any,
    split: Any = None,
    features: Features | None = None,
    keep_in_memory: bool = False,
    **kwargs: Any,
) -> Any:
    """The lines (or paragraphs, or documents) of text files."""
    return _streamed("text", path_or_paths, split, features, kwargs)


def _dataset() -> Any:
    from martlet.datasets.dataset import Dataset

    return Dataset


def _of(dataset: Any, num_shards: int | None) -> IterableDataset:
    made: IterableDataset = dataset.to_iterable_dataset(num_shards=num_shards)
    return made


def _streamed(kind: str, paths: Any, split: Any, features: Any, options: dict[str, Any]) -> Any:
    from martlet.datasets.load import load_dataset

    chosen = "train" if split is None else split
    files = paths if split is None or isinstance(paths, dict) else {str(split): paths}
    return load_dataset(kind, data_files=files, split=chosen, features=features, streaming=True, **options)
