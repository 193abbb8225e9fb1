"""Several datasets as one: end to end, side by side, or interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from martlet.datasets import elsewhere
from martlet.datasets.arguments import verb
from martlet.datasets.dataset import Dataset
from martlet.datasets.features import Features, aligned
from martlet.datasets.formatting import PLAIN
from martlet.datasets.info import DatasetInfo
from martlet.datasets.selection import Stacked
from martlet.datasets.splits import NamedSplit
from martlet.datasets.stored import Stored, cast_column, digest
from martlet.errors import ArgumentError

STRATEGIES = ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement")
_DRAWN = 1000  # sources drawn at a time, as Hugging Face draws them: the same order for the same seed


@verb
def concatenate_datasets(
    dsets: Sequence[Any], info: DatasetInfo | None = None, split: str | None = None, axis: int = 0
) -> Any:
    """The datasets end to end (`axis=0`; a column that one lacks is None there), or side by side (`axis=1`).

    FeatureError if a column has two kinds, ArgumentError for other numbers of rows or equal names on axis 1.
    """
    dsets = _all_alike("concatenate_datasets()", dsets)
    if not isinstance(dsets[0], Dataset):
        iterable = import_module("martlet.datasets.streams.combining")
        return iterable.concatenate_iterables(dsets, info=info, split=split, axis=axis)
    if axis not in (0, 1):
        raise ArgumentError("concatenate_datasets()", "axis must be 0 or 1", found=axis)
    full = [dataset for dataset in dsets if dataset.num_rows] or [dsets[0]]
    new = _beside(full) if axis else _end_to_end(full)
    new._info = info.copy() if info is not None else DatasetInfo.from_merge([dataset._info for dataset in full])
    new._split = NamedSplit(split) if split is not None else None
    if any(dataset._form != full[0]._form for dataset in full):
        new._form = PLAIN
    return new


def _end_to_end(dsets: list[Dataset]) -> Dataset:
    source, _ = stacked([dataset._stored for dataset in dsets])
    if all(dataset._selection is None for dataset in dsets):
        return dsets[0]._like(source, None)
    parts = [(dataset._selection, len(dataset._stored)) for dataset in dsets]
    return dsets[0]._like(source, Stacked(parts))


def stacked(several: Sequence[Stored]) -> tuple[Stored, Features]:
    """Tables end to end, without a copy."""
    features = aligned([stored.features for stored in several])
    schema = features.arrow_schema
    tables = []
    for stored in several:
        columns = [
            cast_column(stored.table.column(name), kind)
            if name in stored.features
            else pa.chunked_array([pa.nulls(len(stored), schema.field(name).type)])
            for name, kind in features.items()
        ]
        tables.append(pa.Table.from_arrays(columns, schema=schema) if columns else stored.table)
    files = tuple(name for stored in several for name in stored.files)
    if any(stored.is_in_memory for stored in several):
        files = ()
    owner = [stored.owner for stored in several if stored.owner is not None] or None
    key = (lambda: digest("stacked", *(stored.key for stored in several))) if files else None
    return Stored(pa.concat_tables(tables), features, files, key, owner, origin=None), features


def _beside(dsets: list[Dataset]) -> Dataset:
    rows = {dataset.num_rows for dataset in dsets}
    if len(rows) > 1:
        raise ArgumentError("concatenate_datasets()", "side by side, all need as many rows", found=sorted(rows))
    names = [name for dataset in dsets for name in dataset.column_names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ArgumentError("concatenate_datasets()", "side by side, names must differ", found=", ".join(twice))
    if len(dsets) > 1:
        dsets = [dataset.flatten_indices() for dataset in dsets]
    several = [dataset._stored for dataset in dsets]
    features = Features({name: kind for stored in several for name, kind in stored.features.items()})
    columns = [column for stored in several for column in stored.table.columns]
    owner = [stored.owner for stored in several if stored.owner is not None] or None
    table = pa.Table.from_arrays(columns, schema=features.arrow_schema)
    return dsets[0]._like(Stored(table, features, owner=owner), dsets[0]._selection)


@verb
def interleave_datasets(
    datasets: Sequence[Any],
    probabilities: Sequence[float] | None = None,
    seed: int | None = None,
    info: DatasetInfo | None = None,
    split: str | None = None,
    stopping_strategy: str = "first_exhausted",
) -> Any:
    """Rows of the datasets in turn, or drawn with `probabilities`: the same order as Hugging Face's for the same seed.

    It ends when the first is exhausted, when all are ("all_exhausted": shorter ones begin again), or when each row
    came once ("all_exhausted_without_replacement").
    """
    datasets = _all_alike("interleave_datasets()", datasets)
    if stopping_strategy not in STRATEGIES:
        raise ArgumentError(
            "stopping_strategy", f"must be one of {', '.join(STRATEGIES)}", found=repr(stopping_strategy)
        )
    if probabilities is not None and len(probabilities) != len(datasets):
        raise ArgumentError("probabilities", f"needs {len(datasets)}, one for each dataset", found=len(probabilities))
    if not isinstance(datasets[0], Dataset):
        iterable = import_module("martlet.datasets.streams.combining")
        return iterable.interleave_iterables(
            datasets, probabilities, seed=seed, info=info, split=split, stopping_strategy=stopping_strategy
        )
    lengths = np.array([len(dataset) for dataset in datasets])
    offsets = np.cumsum([0, *lengths])[:-1]
    if probabilities is None:
        rows = _in_turn(lengths, offsets, stopping_strategy)
    else:
        rows = _drawn(lengths, offsets, np.asarray(probabilities, float), seed, stopping_strategy)
    whole = _end_to_end(list(datasets))
    whole._info = info.copy() if info is not None else DatasetInfo.from_merge([dataset._info for dataset in datasets])
    whole._split = NamedSplit(split) if split is not None else None
    if any(dataset._form != datasets[0]._form for dataset in datasets):
        whole._form = PLAIN
    return whole.select(rows)


def _in_turn(lengths: Any, offsets: Any, strategy: str) -> Any:
    most = int(lengths.min() if strategy == "first_exhausted" else lengths.max())
    turns = np.arange(most)[:, None]
    if strategy == "all_exhausted_without_replacement":
        return (turns + offsets)[turns < lengths]
    if lengths.min() == 0:
        return np.empty(0, np.int64)
    return (turns % lengths + offsets).ravel()


def _drawn(lengths: Any, offsets: Any, shares: Any, seed: int | None, strategy: str) -> Any:
    """Draws sources until the strategy says stop; the last row is the one that exhausts."""
    can = shares > 0
    once, everything = strategy == "all_exhausted_without_replacement", strategy != "first_exhausted"
    if (lengths[can] == 0).any() and not once:
        raise ArgumentError(
            "interleave_datasets()", "a dataset that is drawn from must have rows", found="an empty one"
        )
    if everything and not can.all():
        raise ArgumentError(
            "interleave_datasets()", f"{strategy} never ends with a probability of 0", found=list(shares)
        )
    rng = np.random.default_rng(seed)
    try:
        draws = rng.choice(len(lengths), size=_DRAWN, p=shares)
        counts = np.bincount(draws, minlength=len(lengths))
        blocks = [draws]
        while not (np.all if everything else np.any)((counts >= lengths)[can]):
            draws = rng.choice(len(lengths), size=_DRAWN, p=shares)
            counts += np.bincount(draws, minlength=len(lengths))
            blocks.append(draws)
    except ValueError as problem:
        raise ArgumentError("probabilities", "must be >= 0 and add up to 1", found=problem) from problem
    draws = np.concatenate(blocks)
    rows = np.empty(len(draws), np.int64)
    turn = np.empty(len(draws), np.int64)
    ends = []
    for source, length in enumerate(lengths.tolist()):
        (at,) = np.nonzero(draws == source)
        turn[at] = np.arange(len(at))
        rows[at] = offsets[source] + np.arange(len(at)) % max(length, 1)
        if can[source] and 0 < length <= len(at):
            ends.append(int(at[length - 1]))
    stop = (max(ends) if everything else min(ends)) + 1 if ends else 0
    rows, turn, draws = rows[:stop], turn[:stop], draws[:stop]
    return rows[turn < lengths[draws]] if once else rows


def _all_alike(subject: str, dsets: Sequence[Any]) -> list[Any]:
    several = list(dsets)
    if not several:
        raise ArgumentError(subject, "needs at least one dataset", found="none")
    for dataset in several:
        if isinstance(dataset, dict):
            raise ArgumentError(subject, "takes datasets", found="a dict of splits", remedy="Give dsets['train'], ...")
        if not hasattr(dataset, "features") or isinstance(dataset, Dataset) != isinstance(several[0], Dataset):
            found = sorted({type(one).__name__ for one in several})
            raise ArgumentError(
                subject, "takes datasets of one sort, all map-style or all iterable", found=", ".join(found)
            )
    return several


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
