"""Dataset: rows in Arrow, looked at by number, column or batch. Other verbs are in modules of their own."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from martlet.datasets import columns, exporting, making, mapping, planning, pushing, reading, saving, shaping, sql
from martlet.datasets import search as nearest
from martlet.datasets.column import Column
from martlet.datasets.features import Features
from martlet.datasets.formatting import PLAIN, Format, format_row, format_table, python_lists
from martlet.datasets.info import DatasetInfo, of_info
from martlet.datasets.selection import Positions, Selection, Span, compose, positions, span_of
from martlet.datasets.splits import NamedSplit
from martlet.datasets.stored import Stored, digest
from martlet.datasets.table import Table
from martlet.datasets.tables import dict_maker, open_arrow
from martlet.errors import ArgumentError

ITER_ROWS = 1000  # rows read at a time when iterating


class Dataset:
    """Rows with named, typed columns, in memory or mapped from files.

    `ds[3]` is a row (a dict), `ds[10:20]` and `ds[[4, 2]]` are columns of lists, `ds["text"]` is a column.
    """

    _given_fingerprint: str | None = None

    def __init__(
        self,
        arrow_table: pa.Table | Table | Stored,
        info: DatasetInfo | None = None,
        split: str | None = None,
        indices_table: pa.Table | None = None,
        fingerprint: str | None = None,
    ) -> None:
        if not isinstance(arrow_table, Stored):
            features = info.features if info is not None else None
            arrow_table = arrow_table.table if isinstance(arrow_table, Table) else arrow_table
            arrow_table = Stored.of(arrow_table, features, key=fingerprint)
        self._source: Any = arrow_table
        self._selection: Selection | None = None
        self._info = info.copy() if info is not None else DatasetInfo()
        self._split = NamedSplit(split) if split is not None else None
        self._form: Format = PLAIN
        self._given_fingerprint = fingerprint
        if indices_table is not None:
            from martlet.datasets.selection import Picks

            self._selection = Picks(indices_table.column(0).to_numpy().astype(np.int64))

    def _like(self, source: Any, selection: Selection | None, *, form: Format | None = None) -> Dataset:
        """A dataset of other rows or columns, with what else is known of this one."""
        new = object.__new__(Dataset)
        new._source, new._selection, new._split = source, selection, self._split
        new._info = self._info.copy()
        new._form = self._form if form is None else form
        return new

    # What is known of it

    @property
    def _stored(self) -> Stored:
        """The rows behind the selection; runs what is still to be run."""
        if not isinstance(self._source, Stored):
            self._source, inner = self._source.run()
            if inner is not None:
                self._selection = inner if self._selection is None else compose(inner, self._selection)
        return self._source

    @property
    def features(self) -> Features:
        """The columns and their kinds."""
        return self._stored.features

    @property
    def info(self) -> DatasetInfo:
        """Description, licence, sizes."""
        self._info.features = self.features
        return self._info

    description = of_info("description", "What the data is.")
    citation = of_info("citation", "How to cite it.")
    homepage = of_info("homepage", "Where it lives.")
    license = of_info("license", "Its licence.")
    builder_name = of_info("builder_name", "What loaded it.")
    config_name = of_info("config_name", "Its configuration.")
    version = of_info("version", "Its version.")
    dataset_size = of_info("dataset_size", "Bytes of the tables of all splits.")
    download_size = of_info("download_size", "Bytes of the files it was made from.")
    size_in_bytes = of_info("size_in_bytes", "Bytes of the files and of the tables together.")
    download_checksums = of_info("download_checksums", "Checksums of the files it was made from.")
    supervised_keys = of_info("supervised_keys", "Which column is the input and which the output, where it is said.")

    @property
    def split(self) -> NamedSplit | None:
        """The name of the split."""
        return self._split

    @property
    def data(self) -> Table:
        """The Arrow table behind the rows, all of it where they are no neighbours; its schema has the features."""
        stored, table = self._stored, self._stored.table
        if isinstance(self._selection, Span) and self._selection.step == 1:
            table = table.slice(self._selection.start, len(self._selection))
        return Table(table.replace_schema_metadata(stored.features.arrow_schema.metadata))

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        names = getattr(self._source, "names", None)
        return list(self._stored.features if names is None else names)

    @property
    def num_rows(self) -> int:
        """Rows."""
        known = getattr(self._source, "num_rows", None)
        if self._selection is None and known is not None:
            return int(known)
        stored = self._stored  # running a filter gives the selection
        return len(stored) if self._selection is None else len(self._selection)

    @property
    def num_columns(self) -> int:
        """Columns."""
        return len(self.column_names)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.num_rows, self.num_columns

    @property
    def cache_files(self) -> list[dict[str, str]]:
        """The files that hold the rows: [{"filename": ...}]; none for rows in memory."""
        return [{"filename": name} for name in self._stored.files]

    def __len__(self) -> int:
        return self.num_rows

    def __bool__(self) -> bool:
        return self.num_rows > 0

    # Rows, batches, columns

    def __getitem__(self, key: Any) -> Any:
        """A row by number, columns by slice or numbers, a column by name."""
        if isinstance(key, str):
            if self._form.kind in ("arrow", "pandas", "polars"):
                return self._column_at(key, slice(None))
            return Column(self, key)
        return self._get(key, self._form)

    def __getitems__(self, keys: list[int]) -> list[Any]:
        """Rows by numbers, as a list: what a torch DataLoader asks for."""
        if self._form.kind is None:
            at = self._numbers(keys)
            return self._dicts(at, *self._named(self._form))
        return [self[key] for key in keys]

    def __iter__(self) -> Iterator[Any]:
        form, total = self._form, self.num_rows
        for begin in range(0, total, ITER_ROWS):
            at = range(begin, min(begin + ITER_ROWS, total))
            if form.kind is None:
                yield from self._dicts(at, *self._named(form))
            else:
                yield from self._formatted_rows(at, form)

    def iter(self, batch_size: int, drop_last_batch: bool = False) -> Iterator[Any]:
        """Batches of `batch_size` rows, as `ds[begin:end]` gives them."""
        if batch_size < 1:
            raise ArgumentError("iter()", "batch_size must be at least 1", found=batch_size)
        total = self.num_rows
        if drop_last_batch:
            total -= total % batch_size
        for begin in range(0, total, batch_size):
            yield self._get(slice(begin, begin + batch_size), self._form)

    def _get(self, key: Any, form: Format) -> Any:
        if type(key) is int:
            return self._row(self._number(key), form)
        if isinstance(key, slice | range):
            numbers = range(*key.indices(self.num_rows)) if isinstance(key, slice) else key
            return self._batch(numbers if _is_span(numbers, self.num_rows) else self._numbers(numbers), form)
        if isinstance(key, bool):
            raise ArgumentError(
                "a dataset", "is indexed by a number, a slice, numbers or a column's name", found="bool"
            )
        if not hasattr(key, "__len__") or getattr(key, "ndim", 1) == 0:
            return self._row(self._number(key), form)
        return self._batch(self._numbers(key), form)

    def _number(self, key: Any) -> int:
        try:
            number = operator.index(key)
        except TypeError as problem:
            rule = "is indexed by a number, a slice, numbers or a column's name"
            raise ArgumentError("a dataset", rule, found=type(key).__name__) from problem
        total = self.num_rows
        if not -total <= number < total:
            raise IndexError(f"row {number} of a dataset of {total} rows")
        return number + total if number < 0 else number

    def _numbers(self, keys: Iterable[Any]) -> Positions:
        total = self.num_rows
        if isinstance(keys, range) and len(keys) and min(keys[0], keys[-1]) >= 0 and max(keys[0], keys[-1]) < total:
            return np.arange(keys.start, keys.stop, keys.step, dtype=np.int64)
        found = np.asarray(keys if hasattr(keys, "__len__") else list(keys))
        if found.size == 0:
            return np.empty(0, np.int64)
        if found.dtype == np.bool_:
            remedy = "np.flatnonzero(mask) gives the numbers."
            raise ArgumentError("a dataset", "is indexed by numbers, not by a mask", found="bools", remedy=remedy)
        if found.dtype.kind not in "iu" or found.ndim != 1:
            raise ArgumentError("a dataset", "is indexed by a list of numbers", found=f"{found.dtype} of {found.ndim}d")
        found = found.astype(np.int64)
        if found.min() < -total or found.max() >= total:
            worst = int(found.max() if found.max() >= total else found.min())
            raise IndexError(f"row {worst} of a dataset of {total} rows")
        return np.where(found < 0, found + total, found) if found.min() < 0 else found

    def _named(self, form: Format) -> tuple[list[str], list[int]]:
        """The columns that a format hands out, by name and by number."""
        names, columns, _ = self._stored.view(None if form.with_all else form.columns)
        return names, columns

    def _lists(self, at: Positions | range, names: list[str], columns: list[int]) -> list[list[Any]]:
        """Values of rows as Python objects, decoded, a list a column."""
        rows = self._stored.rows
        span = span_of(self._selection, int(at[0]), int(at[-1]) + 1) if _is_run(at) else None
        if not len(at) or not columns:
            lists: list[list[Any]] = [[] for _ in columns]
        elif span is not None:
            lists = rows.span(span.start, span.stop, columns)
        else:
            lists = rows.many(self._picked(at), columns)
        return python_lists(lists, names, self._stored.features) if self._stored.is_decoded else lists

    def _picked(self, at: Positions | range) -> Positions:
        """Rows of the table by positions."""
        numbers = np.asarray(at, np.int64)
        return numbers if self._selection is None else self._selection.rows(numbers)

    def _dicts(self, at: Positions | range, names: list[str], columns: list[int]) -> list[dict[str, Any]]:
        if not names:
            return [{} for _ in range(len(at))]
        return dict_maker(tuple(names))(self._lists(at, names, columns))

    def _table(self, at: Positions | range, names: list[str] | None = None) -> pa.Table:
        """An Arrow table of rows; without a copy where they are neighbours."""
        stored = self._stored
        known = stored.table.column_names
        columns = [known.index(name) for name in (known if names is None else names)]
        span = span_of(self._selection, int(at[0]), int(at[-1]) + 1) if _is_run(at) else None
        if span is not None:
            return stored.rows.slice(span.start, span.stop, columns)
        return stored.rows.take(self._picked(at), columns)

    def _row(self, number: int, form: Format) -> Any:
        stored = self._stored
        if form.kind is None:
            names, columns, is_decoded = stored.view(None if form.with_all else form.columns)
            row = number if self._selection is None else self._selection.row(number)
            out = dict(zip(names, stored.rows.one(row, columns), strict=True))
            return stored.features.decode_example(out) if is_decoded else out
        return next(self._formatted_rows([number], form))

    def _batch(self, at: Positions | range, form: Format) -> Any:
        names, columns = self._named(form)
        if form.kind is None:
            return dict(zip(names, self._lists(at, names, columns), strict=True))
        if form.kind == "custom":
            return self._transformed(dict(zip(names, self._lists(at, names, columns), strict=True)), form)
        if form.columns is not None and form.with_all and form.kind in ("numpy", "torch"):
            inside = list(form.columns)
            out = format_table(self._table(at, inside), self._stored.features, form)
            others = [name for name in names if name not in inside]
            plain = self._lists(at, others, [columns[names.index(name)] for name in others])
            return {**out, **dict(zip(others, plain, strict=True))}
        return format_table(self._table(at, names), self._stored.features, form)

    def _transformed(self, batch: dict[str, list[Any]], form: Format) -> Any:
        assert form.transform is not None
        given = batch if form.columns is None else {name: batch[name] for name in form.columns}
        out = form.transform(given)
        if not isinstance(out, Mapping):
            raise ArgumentError("a transform", "must return a dict of columns", found=type(out).__name__)
        return {**out, **{name: batch[name] for name in batch if form.with_all and name not in given}}

    def _formatted_rows(self, at: Iterable[int], form: Format) -> Iterator[Any]:
        for number in at:
            one = np.array([number])
            names, columns = self._named(form)
            if form.kind == "custom":
                batch = dict(zip(names, self._lists(one, names, columns), strict=True))
                yield {name: values[0] for name, values in self._transformed(batch, form).items()}
                continue
            inside = names if form.columns is None else list(form.columns)
            out = format_row(self._table(one, inside), self._stored.features, form)
            if len(inside) < len(names) and isinstance(out, dict):
                others = [name for name in names if name not in inside]
                plain = self._lists(one, others, [columns[names.index(name)] for name in others])
                out.update({name: values[0] for name, values in zip(others, plain, strict=True)})
            yield out

    def _column_values(self, name: str) -> Iterator[Any]:
        form = self._form
        if form.kind == "custom":
            yield from (row[name] for row in self)
            return
        total = self.num_rows
        for begin in range(0, total, ITER_ROWS):
            at = range(begin, min(begin + ITER_ROWS, total))
            inside = form.columns is None or name in form.columns
            if form.kind is None or not inside:
                yield from self._lists(at, [name], [self._stored.table.column_names.index(name)])[0]
            else:
                one = Format(form.kind, (name,), False, form.options, form.transform)
                yield from (row[name] for row in self._formatted_rows(at, one))

    def _column_at(self, name: str, key: Any) -> Any:
        form = self._form
        if form.kind == "custom":
            return self._get(key, form)[name]
        inside = form.columns is None or name in form.columns
        kind = form.kind if inside else None
        return self._get(key, Format(kind, (name,), False, form.options if inside else {}))[name]

    def _known(self, name: str) -> str:
        """The name, if it is a column's. ArgumentError otherwise."""
        if name not in self.column_names:
            near = difflib.get_close_matches(str(name), self.column_names, 1)
            remedy = f"Did you mean {near[0]!r}?" if near else ""
            raise ArgumentError(f"column {name!r}", f"the columns are {', '.join(self.column_names)}", remedy=remedy)
        return name

    def _tables(self, num_rows: int = ITER_ROWS, *, always: bool = False) -> Iterator[pa.Table]:
        """The rows as Arrow tables of up to `num_rows` rows; `always` at least one."""
        total = self.num_rows
        for begin in range(0, total, num_rows):
            yield self._table(positions(begin, min(begin + num_rows, total)))
        if always and not total:
            yield self._table(positions(0, 0))

    def _whole(self, names: list[str] | None) -> pa.Table:
        """All rows of some columns as one Arrow table."""
        if self._selection is None:
            table = self._stored.table
            return table if names is None else table.select(names)
        tables = [
            self._table(positions(a, min(a + 65_536, self.num_rows)), names) for a in range(0, self.num_rows, 65_536)
        ]
        return pa.concat_tables(tables) if tables else self._table(positions(0, 0), names)

    @property
    def _key(self) -> str:
        """The key of the content: the same for the same rows."""
        from martlet.datasets.stage import selection_key

        return self._stored.key if self._selection is None else digest(self._stored.key, selection_key(self._selection))

    @property
    def _fingerprint(self) -> str:
        """What it was given at its making, else 16 hexadecimal digits of the content's key."""
        return self._given_fingerprint or digest(self._key)[:16]

    def cleanup_cache_files(self) -> int:
        """Removes from the cache what maps and filters made of this dataset's files, but what it is in; the number."""
        from martlet.datasets import cache

        files = self._stored.files
        if not files:
            return 0
        return len(cache.clear(keep={Path(file).parent.name for file in files}, origin=cache.origin_of(files)))

    def to_iterable_dataset(self, num_shards: int | None = 1) -> Any:
        """The same rows as an IterableDataset, of `num_shards` shards."""
        if num_shards is not None and not 1 <= num_shards <= max(1, len(self)):
            raise ArgumentError("num_shards", f"must be 1 to {len(self)}, the number of rows", found=num_shards)
        return import_module("martlet.datasets.iterable").from_dataset(self, num_shards)

    def __reduce__(self) -> Any:
        return _rebuilt, (self._stored, self._selection, self._info, self._split, self._form)

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *exc: object) -> None: ...

    # Verbs, each in the module of its kind

    map = mapping.map
    filter = mapping.filter
    sql = sql.sql
    plan = planning.plan
    select = shaping.select
    skip = shaping.skip
    take = shaping.take
    repeat = shaping.repeat
    shard = shaping.shard
    shuffle = shaping.shuffle
    sort = shaping.sort
    train_test_split = shaping.train_test_split
    flatten_indices = shaping.flatten_indices
    rename_column = columns.rename_column
    rename_columns = columns.rename_columns
    remove_columns = columns.remove_columns
    select_columns = columns.select_columns
    add_column = columns.add_column
    add_item = columns.add_item
    cast = columns.cast
    cast_column = columns.cast_column
    flatten = columns.flatten
    unique = columns.unique
    class_encode_column = columns.class_encode_column
    align_labels_with_mapping = columns.align_labels_with_mapping
    batch = columns.batch
    set_format = columns.set_format
    reset_format = columns.reset_format
    set_transform = columns.set_transform
    with_format = columns.with_format
    with_transform = columns.with_transform
    formatted_as = columns.formatted_as
    format = property(columns.format_of)
    to_dict = exporting.to_dict
    to_list = exporting.to_list
    to_pandas = exporting.to_pandas
    to_polars = exporting.to_polars
    to_csv = exporting.to_csv
    to_json = exporting.to_json
    to_parquet = exporting.to_parquet
    to_sql = exporting.to_sql
    save_to_disk = saving.save_to_disk
    push_to_hub = pushing.push_to_hub
    add_faiss_index = nearest.add_faiss_index
    add_faiss_index_from_external_arrays = nearest.add_faiss_index_from_external_arrays
    add_elasticsearch_index = nearest.add_elasticsearch_index
    load_faiss_index = nearest.load_faiss_index
    load_elasticsearch_index = nearest.load_elasticsearch_index
    save_faiss_index = nearest.save_faiss_index
    list_indexes = nearest.list_indexes
    is_index_initialized = nearest.is_index_initialized
    get_index = nearest.get_index
    drop_index = nearest.drop_index
    search = nearest.search
    search_batch = nearest.search_batch
    get_nearest_examples = nearest.get_nearest_examples
    get_nearest_examples_batch = nearest.get_nearest_examples_batch
    to_tf_dataset = nearest.to_tf_dataset
    from_spark = staticmethod(nearest.from_spark)
    load_from_disk = staticmethod(saving.load_dataset_from_disk)
    from_dict = classmethod(making.from_dict)
    from_list = classmethod(making.from_list)
    from_pandas = classmethod(making.from_pandas)
    from_polars = classmethod(making.from_polars)
    from_buffer = classmethod(making.from_buffer)
    from_generator = classmethod(making.from_generator)
    from_csv = staticmethod(reading.from_csv)
    from_json = staticmethod(reading.from_json)
    from_parquet = staticmethod(reading.from_parquet)
    from_text = staticmethod(reading.from_text)
    from_sql = staticmethod(reading.from_sql)

    @classmethod
    def from_file(
        cls,
        filename: str,
        info: DatasetInfo | None = None,
        split: str | None = None,
        indices_filename: str | None = None,
        in_memory: bool = False,
    ) -> Dataset:
        """The rows of one Arrow file, mapped into memory; all, or those numbered in another."""
        indices = open_arrow(indices_filename) if indices_filename is not None else None
        table = open_arrow(filename, in_memory=in_memory)
        stored = Stored.of(table, info.features if info else None, () if in_memory else (str(filename),))
        return cls(stored, info, split, indices)

    def __repr__(self) -> str:
        from martlet.datasets.display import text_of

        return text_of(self)

    def _repr_html_(self) -> str:
        from martlet.datasets.display import html_of

        return html_of(self)


def _rebuilt(source: Stored, selection: Any, info: DatasetInfo, split: Any, form: Format) -> Dataset:
    new = Dataset(source, info, split)
    new._selection, new._form = selection, form
    return new


def _is_span(numbers: range, total: int) -> bool:
    """Whether the numbers are of neighbouring rows that are there."""
    return numbers.step == 1 and 0 <= numbers.start < numbers.stop <= total


def _is_run(at: Positions | range) -> bool:
    """Whether the positions follow one another by 1."""
    if isinstance(at, range):
        return at.step == 1 and len(at) > 0
    return len(at) > 0 and int(at[-1]) - int(at[0]) == len(at) - 1 and bool((np.diff(at) == 1).all())
