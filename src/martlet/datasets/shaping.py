"""Verbs that choose and order rows: select, sort, shuffle, split, shard, skip, take, repeat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from martlet.datasets.arguments import verb
from martlet.datasets.kinds import ClassLabel
from martlet.datasets.order import Permutation
from martlet.datasets.selection import Picks, Repeated, Span, compose
from martlet.errors import ArgumentError

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset
    from martlet.datasets.dataset_dict import DatasetDict


@verb
def select(
    self: Dataset,
    indices: Iterable[int],
    keep_in_memory: bool = False,
    indices_cache_file_name: str | None = None,
    writer_batch_size: int | None = 1000,
    new_fingerprint: str | None = None,
) -> Dataset:
    """The rows of these numbers, in their order; a range stays a range. IndexError beyond the rows."""
    if isinstance(indices, pa.Array | pa.ChunkedArray):
        indices = indices.to_numpy()
    if isinstance(indices, range) and (indices.step > 0 or len(indices) < 2) and indices.start >= 0:
        if len(indices) and indices[-1] >= self.num_rows:
            raise IndexError(f"row {indices[-1]} of a dataset of {self.num_rows} rows")
        return _chosen(self, Span(indices.start, len(indices), indices.step))
    numbers = self._numbers(indices)
    if len(numbers) and (np.diff(numbers) == 1).all():
        return _chosen(self, Span(int(numbers[0]), len(numbers)))
    return _chosen(self, Picks(numbers))


def _chosen(dataset: Dataset, chosen: Any) -> Dataset:
    return dataset._like(dataset._source, compose(dataset._selection, chosen))


def skip(self: Dataset, n: int) -> Dataset:
    """All but the first `n` rows."""
    start = min(max(n, 0), self.num_rows)
    return _chosen(self, Span(start, self.num_rows - start))


def take(self: Dataset, n: int) -> Dataset:
    """The first `n` rows, or as many as there are."""
    return _chosen(self, Span(0, min(max(n, 0), self.num_rows)))


def repeat(self: Dataset, num_times: int | None) -> Dataset:
    """The rows, `num_times` times."""
    if num_times is None:
        remedy = "ds.to_iterable_dataset().repeat(None) goes on for ever."
        raise ArgumentError("repeat()", "num_times must be a number", found=repr(num_times), remedy=remedy)
    return _chosen(self, Repeated(self.num_rows, max(num_times, 0)))


@verb
def shard(
    self: Dataset,
    num_shards: int,
    index: int,
    contiguous: bool = True,
    keep_in_memory: bool = False,
    indices_cache_file_name: str | None = None,
    writer_batch_size: int | None = 1000,
) -> Dataset:
    """Part `index` of `num_shards`: neighbouring rows, or every `num_shards`-th row if not `contiguous`."""
    if not 0 <= index < num_shards:
        raise ArgumentError("shard()", f"index must be 0 to {num_shards - 1}", found=index)
    total = self.num_rows
    if not contiguous:
        return _chosen(self, Span(index, len(range(index, total, num_shards)), num_shards))
    size, more = divmod(total, num_shards)
    start = size * index + min(index, more)
    return _chosen(self, Span(start, size + (index < more)))


@verb
def shuffle(
    self: Dataset,
    seed: int | None = None,
    generator: np.random.Generator | None = None,
    keep_in_memory: bool = False,
    load_from_cache_file: bool | None = None,
    indices_cache_file_name: str | None = None,
    writer_batch_size: int | None = 1000,
    new_fingerprint: str | None = None,
) -> Dataset:
    """The rows in an order that belongs to the seed. It is computed, not stored, and keeps reads nearly sequential.

    Blocks of 1,024 rows are permuted and the rows of 64 blocks mixed; up to 131,071 rows are permuted whole.
    """
    return _chosen(self, Permutation(self.num_rows, _seed_of("shuffle()", seed, generator)))


def _seed_of(subject: str, seed: Any, generator: np.random.Generator | None) -> int:
    if generator is not None:
        if seed is not None:
            raise ArgumentError(subject, "takes seed or generator, not both")
        if not isinstance(generator, np.random.Generator):
            raise ArgumentError(subject, "generator must be a numpy.random.Generator", found=type(generator).__name__)
        return int(generator.integers(1 << 62))
    if seed is None:
        return int(np.random.randint(0, 1 << 31))  # follows numpy's own seed, as people set it
    return int(seed)


@verb
def sort(
    self: Dataset,
    column_names: str | Sequence[str],
    reverse: bool | Sequence[bool] = False,
    null_placement: str = "at_end",
    keep_in_memory: bool = False,
    load_from_cache_file: bool | None = None,
    indices_cache_file_name: str | None = None,
    writer_batch_size: int | None = 1000,
    new_fingerprint: str | None = None,
) -> Dataset:
    """The rows by one column or several, each ascending unless `reverse`. Nulls are "at_end" or "at_start"."""
    names = [column_names] if isinstance(column_names, str) else list(column_names)
    for name in names:
        self._known(name)
    reversed_ = [reverse] * len(names) if isinstance(reverse, bool) else list(reverse)
    if len(reversed_) != len(names):
        raise ArgumentError("sort()", f"reverse must be one bool, or one for each of {names}", found=reverse)
    placement = {"first": "at_start", "last": "at_end"}.get(null_placement, null_placement)
    if placement not in ("at_start", "at_end"):
        raise ArgumentError("sort()", 'null_placement must be "at_end" or "at_start"', found=repr(null_placement))
    orders = ["descending" if down else "ascending" for down in reversed_]
    table = self._whole(names)
    if int(pa.__version__.split(".")[0]) >= 25:  # since then nulls are placed key by key
        picked = pc.sort_indices(
            table, sort_keys=[(name, order, placement) for name, order in zip(names, orders, strict=True)]
        )
    else:
        picked = pc.sort_indices(table, sort_keys=list(zip(names, orders, strict=True)), null_placement=placement)
    return _chosen(self, Picks(picked.to_numpy().astype(np.int64)))


@verb
def train_test_split(
    self: Dataset,
    test_size: float | int | None = None,
    train_size: float | int | None = None,
    shuffle: bool = True,
    stratify_by_column: str | None = None,
    seed: int | None = None,
    generator: np.random.Generator | None = None,
    keep_in_memory: bool = False,
    load_from_cache_file: bool | None = None,
    train_indices_cache_file_name: str | None = None,
    test_indices_cache_file_name: str | None = None,
    writer_batch_size: int | None = 1000,
    train_new_fingerprint: str | None = None,
    test_new_fingerprint: str | None = None,
) -> DatasetDict:
    """{"train", "test"}: sizes are shares (floats) or rows (ints), a quarter for the test by default.

    The same rows as Hugging Face's for the same seed. `stratify_by_column`, a ClassLabel, keeps its shares in both.
    """
    from martlet.datasets.dataset_dict import DatasetDict

    total = self.num_rows
    num_train, num_test = _sizes(total, train_size, test_size)
    if generator is None:
        if seed is None:
            seed = int(np.random.randint(0, 1 << 31))
        generator = np.random.default_rng(seed)
    if not shuffle:
        if stratify_by_column is not None:
            raise ArgumentError(
                "train_test_split()", "a stratified split is shuffled", remedy="Leave out shuffle=False."
            )
        train, test = _chosen(self, Span(0, num_train)), _chosen(self, Span(num_train, num_test))
        return DatasetDict({"train": train, "test": test})
    if stratify_by_column is not None:
        kind = self.features[self._known(stratify_by_column)]
        if not isinstance(kind, ClassLabel):
            remedy = f"First ds.class_encode_column({stratify_by_column!r})."
            raise ArgumentError("train_test_split()", "stratifies by a ClassLabel", found=repr(kind), remedy=remedy)
        labels = self._whole([stratify_by_column]).column(0).to_numpy()
        train_rows, test_rows = _stratified(labels, num_train, num_test, generator)
    else:
        permutation = generator.permutation(total)
        test_rows, train_rows = permutation[:num_test], permutation[num_test : num_test + num_train]
    return DatasetDict({"train": _chosen(self, Picks(train_rows)), "test": _chosen(self, Picks(test_rows))})


def _sizes(total: int, train_size: float | int | None, test_size: float | int | None) -> tuple[int, int]:
    if test_size is None and train_size is None:
        test_size = 0.25
    for name, size in (("test_size", test_size), ("train_size", train_size)):
        if size is None:
            continue
        if isinstance(size, float):
            if not 0 < size < 1:
                raise ArgumentError("train_test_split()", f"{name} must be a share between 0 and 1", found=size)
        elif not 0 < size < total:
            raise ArgumentError("train_test_split()", f"{name} must be 1 to {total - 1} rows", found=size)
    if isinstance(train_size, float) and isinstance(test_size, float) and train_size + test_size > 1:
        found = f"{train_size} + {test_size}"
        raise ArgumentError("train_test_split()", "train_size and test_size must be 1 together at most", found=found)
    test = None if test_size is None else int(np.ceil(test_size * total) if isinstance(test_size, float) else test_size)
    train = (
        None
        if train_size is None
        else int(np.floor(train_size * total) if isinstance(train_size, float) else train_size)
    )
    num_test = test if test is not None else total - (train or 0)
    num_train = train if train is not None else total - num_test
    if num_train + num_test > total:
        raise ArgumentError("train_test_split()", f"there are {total} rows", found=f"{num_train} + {num_test}")
    if num_train == 0:
        raise ArgumentError("train_test_split()", "the train split would be empty", found=f"{total} rows")
    return num_train, num_test


def _stratified(labels: Any, num_train: int, num_test: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Rows of each class in proportion; the rounding is drawn, as scikit-learn's StratifiedShuffleSplit does it."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min() < 2:
        raise ArgumentError("train_test_split()", "each class needs two rows", found=f"{counts.min()} in one")
    for name, size in (("train_size", num_train), ("test_size", num_test)):
        if size < len(counts):
            raise ArgumentError(
                "train_test_split()", f"{name} must be at least {len(counts)}, a row a class", found=size
            )
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    in_train = _shares(counts, num_train, rng)
    in_test = _shares(counts - in_train, num_test, rng)
    train: list[int] = []
    test: list[int] = []
    for rows, for_train, for_test in zip(members, in_train, in_test, strict=True):
        drawn = rows[rng.permutation(len(rows))]
        train.extend(drawn[:for_train])
        test.extend(drawn[for_train : for_train + for_test])
    return np.asarray(rng.permutation(train), np.int64), np.asarray(rng.permutation(test), np.int64)


def _shares(counts: Any, size: int, rng: np.random.Generator) -> Any:
    """The most likely draw of `size` from classes of these counts; ties are drawn."""
    wanted = counts / counts.sum() * size
    out = np.floor(wanted)
    open_ = int(size - out.sum())
    rests = wanted - out
    for value in np.sort(np.unique(rests))[::-1]:
        if open_ <= 0:
            break
        (at,) = np.where(rests == value)
        few = min(len(at), open_)
        out[rng.choice(at, size=few, replace=False)] += 1
        open_ -= few
    return out.astype(np.int64)


@verb
def flatten_indices(
    self: Dataset,
    keep_in_memory: bool = False,
    cache_file_name: str | None = None,
    writer_batch_size: int | None = 1000,
    features: Any = None,
    disable_nullable: bool = False,
    num_proc: int | None = None,
    new_fingerprint: str | None = None,
) -> Dataset:
    """The chosen rows written one after another, so that reading them is sequential, cast to `features` if given."""
    from martlet.datasets.stage import Options, Pending
    from martlet.datasets.steps import ColumnsStep

    if features is not None or disable_nullable:
        return _checked(self, features, disable_nullable, num_proc).flatten_indices(
            keep_in_memory, cache_file_name, writer_batch_size, None, False, num_proc, new_fingerprint
        )
    if self._selection is None:
        return self._like(self._source, None)
    names = tuple(self.column_names)
    options = Options(
        num_proc, keep_in_memory or None, cache_file_name=cache_file_name, new_fingerprint=new_fingerprint
    )
    return self._like(Pending(self._stored, self._selection, (ColumnsStep(names, names),), options, list(names)), None)


def _checked(dataset: Dataset, features: Any, disable_nullable: bool, num_proc: int | None) -> Dataset:
    """The rows cast to `features`; with `disable_nullable` a missing value is an error."""
    new = dataset if features is None else dataset.cast(features, num_proc=num_proc)
    whole = new._whole(None)
    if disable_nullable and (lacking := [name for name in whole.column_names if whole.column(name).null_count]):
        found = ", ".join(map(repr, lacking))
        raise ArgumentError("flatten_indices()", "disable_nullable lets no value be missing", found=found)
    return new
