"""Nearest rows by vectors: exact search over a column, under the names of Hugging Face's faiss indexes.

Every vector is compared, as by "Flat" of faiss, whose files are read and written. Indexes that approximate are its own,
given as `custom_index`. An index belongs to the dataset it was made on, not to what is made of that.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from martlet.datasets import elsewhere
from martlet.datasets.arguments import verb
from martlet.datasets.writing import opened
from martlet.errors import ArgumentError, FormatError, UnsupportedError

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset

Floats = NDArray[np.float32]
INNER_PRODUCT, L2 = 0, 1  # faiss' numbers
_CODES = {b"IxFI": INNER_PRODUCT, b"IxF2": L2}
_HEADER = struct.Struct("<iqqq?i")  # width, vectors, two that mean nothing, is_trained, metric
BLOCK = 4096  # vectors compared at a time


class SearchResults(NamedTuple):
    """Scores of the nearest rows, and their numbers."""

    scores: Floats
    indices: NDArray[np.int64]


class BatchedSearchResults(NamedTuple):
    """For each query scores of the nearest rows, and their numbers."""

    total_scores: list[Floats]
    total_indices: list[NDArray[np.int64]]


class NearestExamplesResults(NamedTuple):
    """Scores of the nearest rows, and the rows as columns."""

    scores: Floats
    examples: Any


class BatchedNearestExamplesResults(NamedTuple):
    """For each query scores of the nearest rows, and the rows as columns."""

    total_scores: list[Floats]
    total_examples: list[Any]


class FlatIndex:
    """All vectors, compared by squared distance (nearest first) or inner product (largest first)."""

    def __init__(self, vectors: Floats, metric: int) -> None:
        self.vectors, self.metric = vectors, metric

    def search(self, queries: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
        """Scores and numbers of the k nearest vectors of each query; equally near ones by their number."""
        k = min(k, len(self.vectors))
        scores, numbers = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for row, query in enumerate(queries):
            all_scores = np.concatenate(
                [self._scores(self.vectors[at : at + BLOCK], query) for at in range(0, len(self.vectors), BLOCK)]
                or [np.empty(0, np.float32)]
            )
            order = np.argsort(-all_scores if self.metric == INNER_PRODUCT else all_scores, kind="stable")[:k]
            scores[row], numbers[row] = all_scores[order], order
        return scores, numbers

    def _scores(self, vectors: Floats, query: Floats) -> Floats:
        if self.metric == INNER_PRODUCT:
            scores: Floats = vectors @ query
            return scores
        apart = vectors - query
        squares: Floats = np.einsum("nd,nd->n", apart, apart)
        return squares

    def save(self, file: str | os.PathLike[str], storage_options: dict[str, Any] | None = None) -> None:
        """Writes faiss' file of a Flat index, put in its place when it is whole."""
        count, width = self.vectors.shape
        code = next(code for code, metric in _CODES.items() if metric == self.metric)
        head = code + _HEADER.pack(width, count, 1 << 20, 1 << 20, True, self.metric)
        with opened(file, storage_options, None) as to:
            to.write(head + struct.pack("<Q", count * width) + self.vectors.astype("<f4").tobytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str], storage_options: dict[str, Any] | None = None) -> FlatIndex:
        """Reads it. UnsupportedError for another kind of index."""
        import fsspec

        with fsspec.open(os.fspath(path), "rb", **(storage_options or {})) as file:
            data: bytes = file.read()
        if data[:4] not in _CODES:
            remedy = "Read it with faiss, and pass it as custom_index= of add_faiss_index."
            raise UnsupportedError(os.fspath(path), "is no Flat index", found=repr(data[:4]), remedy=remedy)
        if len(data) < 12 + _HEADER.size:
            raise FormatError(os.fspath(path), "is cut off", found=f"{len(data)} bytes")
        width, count, _, _, _, metric = _HEADER.unpack_from(data, 4)
        (size,) = struct.unpack_from("<Q", data, 4 + _HEADER.size)
        body = data[12 + _HEADER.size :]
        if width < 1 or count < 0 or size != width * count or len(body) != size * 4 or metric != _CODES[data[:4]]:
            rule = "must hold as many numbers as its head says"
            raise FormatError(os.fspath(path), rule, found=f"{count} vectors of {width}, {len(body)} bytes")
        return cls(np.frombuffer(body, "<f4").reshape(count, width).astype(np.float32), metric)


@verb
def add_faiss_index(
    self: Dataset,
    column: str,
    index_name: str | None = None,
    device: Any = None,
    string_factory: str | None = None,
    metric_type: int | None = None,
    custom_index: Any = None,
    batch_size: int = 1000,
    train_size: int | None = None,
    faiss_verbose: bool = False,
    dtype: Any = np.float32,
) -> Dataset:
    """An index over a column of vectors of one width, under `index_name` or the column's name. The dataset itself.

    `metric_type` is faiss': 1 squared distance (as without it), 0 inner product. `custom_index` is one of faiss', which
    is trained on the first `train_size` vectors, if that is given, and which the vectors are added to. Vectors are
    compared as float32 whatever `dtype`; `batch_size` and `faiss_verbose` change nothing.
    """
    self._known(column)
    vectors = self.with_format("numpy", columns=[column])[:][column]
    _put(self, index_name or column, vectors, device, string_factory, metric_type, custom_index, train_size, column)
    return self


@verb
def add_faiss_index_from_external_arrays(
    self: Dataset,
    external_arrays: Any,
    index_name: str,
    device: Any = None,
    string_factory: str | None = None,
    metric_type: int | None = None,
    custom_index: Any = None,
    batch_size: int = 1000,
    train_size: int | None = None,
    faiss_verbose: bool = False,
    dtype: Any = np.float32,
) -> None:
    """An index over vectors that are not in the dataset, one for each row."""
    if len(external_arrays) != len(self):
        raise ArgumentError("external_arrays", f"must be {len(self)} vectors", found=len(external_arrays))
    what = "external_arrays"
    _put(self, index_name, external_arrays, device, string_factory, metric_type, custom_index, train_size, what)


def _put(
    dataset: Dataset,
    name: str,
    vectors: Any,
    device: Any,
    factory: str | None,
    metric: Any,
    custom: Any,
    train_size: int | None,
    what: str,
) -> None:
    _on_processor("add_faiss_index", device)
    if factory not in (None, "Flat"):
        remedy = "Pass faiss.index_factory(width, string_factory) as custom_index=."
        raise UnsupportedError(
            "add_faiss_index(string_factory=)", "makes exact indexes alone", found=repr(factory), remedy=remedy
        )
    if metric not in (None, INNER_PRODUCT, L2):
        raise UnsupportedError("metric_type", "must be 0 (inner product) or 1 (squared distance)", found=repr(metric))
    try:
        made = np.ascontiguousarray(vectors, dtype=np.float32)
    except (ValueError, TypeError) as problem:
        raise ArgumentError(what, "must hold vectors of one width", found=str(problem)) from problem
    if made.ndim != 2:
        raise ArgumentError(what, "must hold vectors of one width", found=f"shape {made.shape}")
    if custom is not None:
        if train_size is not None:
            custom.train(made[:train_size])
        custom.add(made)
    _indexes(dataset)[name] = custom if custom is not None else FlatIndex(made, L2 if metric is None else metric)


def _on_processor(name: str, device: Any) -> None:
    if device is not None:
        raise UnsupportedError(f"{name}(device=)", "searches on the CPU", found=repr(device))


def _indexes(dataset: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = dataset.__dict__.setdefault("_vector_indexes", {})
    return found


def list_indexes(self: Dataset) -> list[str]:
    """Names of the indexes."""
    return list(_indexes(self))


def is_index_initialized(self: Dataset, index_name: str) -> bool:
    """Whether there is an index of that name."""
    return index_name in _indexes(self)


def get_index(self: Dataset, index_name: str) -> Any:
    """The index of that name."""
    if index_name not in _indexes(self):
        found = ", ".join(_indexes(self)) or "none"
        remedy = f"Make it with add_faiss_index({index_name!r})."
        raise ArgumentError(f"index {index_name!r}", "is not on this dataset", found=found, remedy=remedy)
    return _indexes(self)[index_name]


def drop_index(self: Dataset, index_name: str) -> None:
    """Without the index."""
    get_index(self, index_name)
    del _indexes(self)[index_name]


@verb
def save_faiss_index(
    self: Dataset, index_name: str, file: str | os.PathLike[str], storage_options: dict[str, Any] | None = None
) -> None:
    """Writes the index as faiss does, to a file or an address of fsspec's with its `storage_options`."""
    index = get_index(self, index_name)
    if not isinstance(index, FlatIndex):
        raise UnsupportedError("save_faiss_index()", "writes exact indexes alone", remedy="Use faiss.write_index.")
    index.save(file, storage_options)


@verb
def load_faiss_index(
    self: Dataset,
    index_name: str,
    file: str | os.PathLike[str],
    device: Any = None,
    storage_options: dict[str, Any] | None = None,
) -> None:
    """Reads an index of as many vectors as there are rows; exact ones (faiss' "Flat") alone."""
    _on_processor("load_faiss_index", device)
    index = FlatIndex.load(file, storage_options)
    if len(index.vectors) != len(self):
        raise ArgumentError(os.fspath(file), f"must hold {len(self)} vectors", found=len(index.vectors))
    _indexes(self)[index_name] = index


def _found(dataset: Dataset, name: str, queries: Any, k: int) -> tuple[Any, Any]:
    if k < 1:
        raise ArgumentError("k", "must be at least 1", found=k)
    index = get_index(dataset, name)
    asked = np.ascontiguousarray(queries, dtype=np.float32)
    width = index.vectors.shape[1] if isinstance(index, FlatIndex) else index.d
    if asked.ndim != 2 or asked.shape[1] != width:
        raise ArgumentError("a query", f"must be {width} numbers", found=f"shape {asked.shape}")
    scores, numbers = index.search(asked, k)
    return scores, numbers


def _single(query: Any) -> Any:
    one = np.asarray(query, dtype=np.float32)
    if one.ndim == 1:
        return one[None]
    if one.ndim != 2 or len(one) != 1:
        raise ArgumentError("a query", "must be one vector", found=f"shape {one.shape}", remedy="Take search_batch.")
    return one


@verb
def search(self: Dataset, index_name: str, query: Any, k: int = 10) -> SearchResults:
    """Scores and numbers of the k rows nearest to a vector."""
    scores, numbers = _found(self, index_name, _single(query), k)
    there = numbers[0] >= 0  # faiss says -1 where there are no more
    return SearchResults(scores[0][there], numbers[0][there])


@verb
def search_batch(self: Dataset, index_name: str, queries: Any, k: int = 10) -> BatchedSearchResults:
    """The same for each of several vectors."""
    scores, numbers = _found(self, index_name, queries, k)
    return BatchedSearchResults(
        [row[at >= 0] for row, at in zip(scores, numbers, strict=True)], [at[at >= 0] for at in numbers]
    )


@verb
def get_nearest_examples(self: Dataset, index_name: str, query: Any, k: int = 10) -> NearestExamplesResults:
    """Scores of the k rows nearest to a vector, and the rows as columns."""
    scores, numbers = search(self, index_name, query, k)
    return NearestExamplesResults(scores, self[numbers.tolist()])


@verb
def get_nearest_examples_batch(
    self: Dataset, index_name: str, queries: Any, k: int = 10
) -> BatchedNearestExamplesResults:
    """The same for each of several vectors."""
    scores, numbers = search_batch(self, index_name, queries, k)
    return BatchedNearestExamplesResults(scores, [self[at.tolist()] for at in numbers])


def _refused(name: str, remedy: str) -> Any:
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(f"{name}()", "is not there", remedy=remedy)

    refused.__name__, refused.__doc__ = name, f"Not there. {remedy}"
    return refused


_TEXTS = "ds.filter(\"text like '%word%'\") finds words, ds.sql() what DuckDB can; add_faiss_index finds vectors."
add_elasticsearch_index = _refused("add_elasticsearch_index", _TEXTS)
load_elasticsearch_index = _refused("load_elasticsearch_index", _TEXTS)
to_tf_dataset = _refused(
    "to_tf_dataset", 'tf.data.Dataset.from_generator(lambda: ds.with_format("numpy").iter(batch_size), ...) reads it.'
)
from_spark = _refused("from_spark", "Write the frame as Parquet and load that, or pass df.toPandas() to from_pandas.")


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
