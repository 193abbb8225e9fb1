"""Verbs that change columns: rename, remove, select, add, cast, flatten, labels, formats; and single values of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from martlet.datasets.arguments import verb
from martlet.datasets.encoding import array_of, inferred
from martlet.datasets.features import Features, arrow_field, is_null
from martlet.datasets.formatting import PLAIN, make_format
from martlet.datasets.kinds import NO_LABEL, ClassLabel, LargeList, List, Value, walk
from martlet.datasets.selection import Stacked
from martlet.datasets.stored import Stored, fitted
from martlet.errors import ArgumentError, FeatureError

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset


def _with_columns(dataset: Dataset, names: list[str], renamed: list[str]) -> Dataset:
    """Some columns under other names: at once on rows that are there, else as a step of the chain."""
    from martlet.datasets.stage import Options, Pending
    from martlet.datasets.steps import ColumnsStep

    form = dataset._form
    if form.columns is not None:
        to = dict(zip(names, renamed, strict=True))
        kept = tuple(to[name] for name in form.columns if name in to)
        form = type(form)(form.kind, kept, form.with_all, form.options, form.transform)
    source = dataset._source
    if isinstance(source, Pending) and dataset._selection is None and source.can_grow:
        step = ColumnsStep(tuple(names), tuple(renamed))
        return dataset._like(source.then(step, Options(source.options.num_proc), renamed), None, form=form)
    return dataset._like(dataset._stored.columns(names, renamed), dataset._selection, form=form)


@verb
def rename_column(
    self: Dataset, original_column_name: str, new_column_name: str, new_fingerprint: str | None = None
) -> Dataset:
    """The column under another name."""
    return rename_columns(self, {original_column_name: new_column_name})


@verb
def rename_columns(self: Dataset, column_mapping: dict[str, str], new_fingerprint: str | None = None) -> Dataset:
    """The columns under other names: {old: new}. ArgumentError if a name would be there twice."""
    for old, new in column_mapping.items():
        self._known(old)
        if not new:
            raise ArgumentError("rename_columns()", "a name must not be empty", found=f"{old!r}: {new!r}")
    names = self.column_names
    renamed = [column_mapping.get(name, name) for name in names]
    if twice := sorted({name for name in renamed if renamed.count(name) > 1}):
        raise ArgumentError("rename_columns()", "each name must be there once", found=", ".join(map(repr, twice)))
    return _with_columns(self, names, renamed)


@verb
def remove_columns(self: Dataset, column_names: str | list[str], new_fingerprint: str | None = None) -> Dataset:
    """The other columns."""
    gone = [column_names] if isinstance(column_names, str) else list(column_names)
    for name in gone:
        self._known(name)
    kept = [name for name in self.column_names if name not in gone]
    return _with_columns(self, kept, kept)


@verb
def select_columns(self: Dataset, column_names: str | list[str], new_fingerprint: str | None = None) -> Dataset:
    """These columns, in this order."""
    kept = [column_names] if isinstance(column_names, str) else list(column_names)
    for name in kept:
        self._known(name)
    return _with_columns(self, kept, kept)


@verb
def add_column(
    self: Dataset, name: str, column: Any, new_fingerprint: str | None = None, feature: Any = None
) -> Dataset:
    """A further column: a list, an array, a tensor or a Series with a value a row."""
    if name in self.column_names:
        raise ArgumentError("add_column()", "needs a new name", found=repr(name), remedy="Remove the old column first.")
    if feature is not None:
        kind = Features({name: feature})[name]
        array = array_of(column, kind, name)
    else:
        array, kind = inferred(column, name)
    if len(array) != self.num_rows:
        raise ArgumentError("add_column()", f"needs {self.num_rows} values", found=len(array))
    plain = self.flatten_indices()
    stored = plain._stored
    features = Features({**stored.features, name: kind})
    table = pa.Table.from_arrays([*stored.table.columns, pa.chunked_array([array])], schema=features.arrow_schema)
    form = plain._form
    if form.columns is not None:
        form = replace(form, columns=(*form.columns, name))
    return plain._like(Stored(table, features), None, form=form)


@verb
def add_item(self: Dataset, item: dict[str, Any], new_fingerprint: str | None = None) -> Dataset:
    """One row more, at the end; columns it does not have are None, new ones are None before."""
    from martlet.datasets.combine import stacked

    names = self.column_names
    known = Features()
    arrays = []
    for name in [*names, *(name for name in item if name not in names)]:
        before = self.features.get(name)
        if name in item:
            array, known[name] = inferred([item[name]], name, before=before)
            if before is not None and known[name] != before and not is_null(known[name]) and not is_null(before):
                array, known[name] = array_of([item[name]], before, name), before  # 4 is "4" among texts
        else:
            array, known[name] = pa.nulls(1, arrow_field(name, before).type), before
        arrays.append(array)
    row = Stored(pa.Table.from_arrays(arrays, schema=known.arrow_schema), known)
    source, _ = stacked([self._stored, row])
    parts = [(self._selection, len(self._stored)), (None, 1)]
    return self._like(source, None if self._selection is None else Stacked(parts))


@verb
def cast(
    self: Dataset,
    features: Features,
    batch_size: int | None = 1000,
    keep_in_memory: bool = False,
    load_from_cache_file: bool | None = None,
    cache_file_name: str | None = None,
    writer_batch_size: int | None = 1000,
    num_proc: int | None = None,
) -> Dataset:
    """All columns cast to features of the same names. FeatureError for values that cannot be."""
    from martlet.datasets.stage import Options, Pending
    from martlet.datasets.steps import CastStep

    features = Features(features)
    if set(features) != set(self.column_names):
        rule = f"the features must name the columns {', '.join(self.column_names)}"
        raise ArgumentError("cast()", rule, found=", ".join(features))
    stored = self._stored
    ours = Features({name: stored.features[name] for name in features})
    if ours == features:
        return _with_columns(self, list(features), list(features))
    if _same_storage(ours, features):
        plain = _with_columns(self, list(features), list(features))
        return plain._like(plain._stored.with_features(features), plain._selection)
    if stored.is_in_memory:
        return self._like(Stored(fitted(stored.table.select(list(features)), features), features), self._selection)
    names = tuple(features)
    options = Options(num_proc, keep_in_memory or None, load_from_cache_file is not False, cache_file_name)
    pending = Pending(stored, self._selection, (CastStep(features),), options, list(names))
    new = self._like(pending, None)
    _ = new._stored  # a value that cannot be cast is told now
    return new


def _same_storage(ours: Features, theirs: Features) -> bool:
    if any(isinstance(kind, ClassLabel) and ours[name] != kind for name, top in theirs.items() for kind in walk(top)):
        return False
    return [field.type for field in ours.arrow_schema] == [field.type for field in theirs.arrow_schema]


@verb
def cast_column(self: Dataset, column: str, feature: Any, new_fingerprint: str | None = None) -> Dataset:
    """One column cast to another kind: text to numbers, names to a ClassLabel, another Image mode or Audio rate."""
    self._known(column)
    return cast(self, Features({**self.features, column: feature}))


@verb
def flatten(self: Dataset, new_fingerprint: str | None = None, max_depth: int = 16) -> Dataset:
    """A column for every field of the structs, named "column.field", and so on inwards."""
    stored = self._stored
    features = stored.features.flatten(max_depth)
    columns = [
        _part(stored.table.column(top), rest) for top, rest in (_path(name, stored.features) for name in features)
    ]
    table = pa.Table.from_arrays(columns, schema=features.arrow_schema) if columns else stored.table
    return self._like(Stored(table, features), self._selection)


def _path(flat: str, features: Features) -> tuple[str, str]:
    """A flat name as its column and the rest; column names may have dots too."""
    top = max((name for name in features if flat == name or flat.startswith(f"{name}.")), key=len)
    return top, flat[len(top) + 1 :]


def _part(column: pa.ChunkedArray, path: str) -> pa.ChunkedArray:
    while path:
        names = [field.name for field in column.type]
        name = max((name for name in names if path == name or path.startswith(f"{name}.")), key=len)
        column, path = pc.struct_field(column, name), path[len(name) + 1 :]
    return column


def unique(self: Dataset, column: str) -> list[Any]:
    """The different values of a column, in the order in which they come."""
    values = self._whole([self._known(column)]).column(0)
    try:
        found = pc.unique(values)
    except pa.ArrowNotImplementedError as problem:
        raise ArgumentError("unique()", "is for columns of scalars", found=repr(self.features[column])) from problem
    return self.features.decode_column(found.to_pylist(), column)


@verb
def class_encode_column(self: Dataset, column: str, include_nulls: bool = False) -> Dataset:
    """The column as a ClassLabel of its values, sorted as text. With `include_nulls`, null is a class too: "None"."""
    kind = self.features[self._known(column)]
    if not isinstance(kind, Value):
        raise ArgumentError("class_encode_column()", "is for a column of values", found=repr(kind))
    stored = self._stored
    names = sorted({str(value) for value in self.unique(column) if include_nulls or value is not None})
    number = {name: at for at, name in enumerate(names)}
    chunks = []
    for chunk in stored.table.column(column).chunks:
        numbers = {
            value: None if value is None and not include_nulls else number.get(str(value))
            for value in pc.unique(chunk).to_pylist()
        }
        chunks.append(pa.array([numbers[value] for value in chunk.to_pylist()], pa.int64()))
    return _replaced(self, column, pa.chunked_array(chunks, pa.int64()), ClassLabel(names=names))


@verb
def align_labels_with_mapping(self: Dataset, label2id: dict[str, int], label_column: str) -> Dataset:
    """The labels renumbered as a model has them: {name: number}, letter case ignored. -1 and -100, no label, stay."""
    kind = self.features[self._known(label_column)]
    label = kind.feature if isinstance(kind, List | LargeList) else kind
    if not isinstance(label, ClassLabel):
        raise ArgumentError("align_labels_with_mapping()", "is for a ClassLabel, or lists of it", found=repr(kind))
    ordered = dict(sorted(label2id.items(), key=lambda pair: pair[1]))
    lower = {name.lower(): number for name, number in label2id.items()}
    missing = [name for name in label.names if name.lower() not in lower]
    numbers = [lower.get(name.lower()) for name in label.names]
    new = ClassLabel(names=list(ordered))
    target = (
        List(new, kind.length) if isinstance(kind, List) else LargeList(new) if isinstance(kind, LargeList) else new
    )

    def aligned(value: Any) -> Any:
        if value is None or isinstance(value, list):
            return None if value is None else [aligned(item) for item in value]
        if value in NO_LABEL:
            return value
        if numbers[value] is None:
            raise FeatureError(
                "align_labels_with_mapping()", f"the mapping lacks {', '.join(missing)}", found=repr(label)
            )
        return numbers[value]

    values = self._stored.table.column(label_column)
    arrow = arrow_field("", target).type
    chunks = [pa.array([aligned(value) for value in chunk.to_pylist()], arrow) for chunk in values.chunks]
    return _replaced(self, label_column, pa.chunked_array(chunks, arrow), target)


def _replaced(dataset: Dataset, column: str, values: pa.ChunkedArray, kind: Any) -> Dataset:
    stored = dataset._stored
    features = Features({**stored.features, column: kind})
    columns = [values if name == column else stored.table.column(name) for name in features]
    table = pa.Table.from_arrays(columns, schema=features.arrow_schema)
    return dataset._like(Stored(table, features), dataset._selection)


@verb
def batch(
    self: Dataset,
    batch_size: int | None = None,
    by_column: str | list[str] | None = None,
    drop_last_batch: bool = False,
    num_proc: int | None = None,
    new_fingerprint: str | None = None,
) -> Dataset:
    """Rows of lists: `batch_size` rows in each, or neighbouring rows that agree in `by_column`."""
    if batch_size is None and by_column is None:
        raise ArgumentError("batch()", "needs batch_size or by_column")
    plain = self.with_format("arrow")
    names = self.column_names
    features = Features({name: List(kind) for name, kind in self.features.items()})
    if by_column is not None:
        keys = [by_column] if isinstance(by_column, str) else list(by_column)
        for name in keys:
            self._known(name)
        size, wanted = None, tuple(keys)
    else:
        size, wanted = batch_size, ()
    listed = plain.map(
        _as_lists,
        batched=True,
        batch_size=size,
        drop_last_batch=drop_last_batch and size is not None,
        num_proc=num_proc,
        remove_columns=names,
        features=features,
        fn_kwargs={"keys": wanted},
        desc="Batching",
    )
    return listed.with_format(self._form.kind if self._form.kind != "custom" else None)


def _as_lists(table: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    """The table as one row of lists, or a row for each run of equal keys."""
    total = table.num_rows
    starts = [0]
    if keys:
        rows = list(zip(*(table.column(name).to_pylist() for name in keys), strict=True))
        starts = [at for at in range(total) if at == 0 or rows[at] != rows[at - 1]]
    offsets = pa.array([*starts, total], pa.int32())
    columns = []
    for name in table.column_names:
        values = table.column(name).combine_chunks()
        values = values if isinstance(values, pa.Array) else values.chunk(0)
        columns.append(pa.ListArray.from_arrays(offsets, values))
    return pa.table(columns, names=table.column_names)


# Formats


@verb
def set_format(
    self: Dataset, type: str | None = None, columns: Any = None, output_all_columns: bool = False, **format_kwargs: Any
) -> None:
    """From now on rows are handed out as "numpy", "torch", "pandas", "polars", "arrow", or Python objects (None)."""
    self._form = make_format(type, columns, output_all_columns, self.column_names, format_kwargs)


def reset_format(self: Dataset) -> None:
    """From now on rows are handed out as Python objects, all columns."""
    self._form = PLAIN


@verb
def set_transform(
    self: Dataset, transform: Callable[..., Any] | None, columns: Any = None, output_all_columns: bool = False
) -> None:
    """From now on batches go through `transform` when they are looked at; None ends it."""
    if transform is None:
        self._form = PLAIN
    else:
        set_format(self, "custom", columns, output_all_columns, transform=transform)


@verb
def with_format(
    self: Dataset, type: str | None = None, columns: Any = None, output_all_columns: bool = False, **format_kwargs: Any
) -> Dataset:
    """The same rows, handed out as "numpy", "torch", "pandas", "polars", "arrow", or Python objects (None)."""
    new = self._like(self._source, self._selection)
    set_format(new, type, columns, output_all_columns, **format_kwargs)
    return new


@verb
def with_transform(
    self: Dataset, transform: Callable[..., Any] | None, columns: Any = None, output_all_columns: bool = False
) -> Dataset:
    """The same rows, each batch put through `transform` when it is looked at."""
    new = self._like(self._source, self._selection)
    set_transform(new, transform, columns, output_all_columns)
    return new


@contextlib.contextmanager
def formatted_as(
    self: Dataset, type: str | None = None, columns: Any = None, output_all_columns: bool = False, **format_kwargs: Any
) -> Iterator[None]:
    """Another format within a `with` block."""
    old = self._form
    try:
        set_format(self, type, columns, output_all_columns, **format_kwargs)
        yield
    finally:
        self._form = old


def format_of(self: Dataset) -> Mapping[str, Any]:
    """The format: type, format_kwargs, columns, output_all_columns."""
    form = self._form
    options = {**form.options, **({"transform": form.transform} if form.transform else {})}
    return {
        "type": form.kind,
        "format_kwargs": options,
        "columns": self.column_names if form.columns is None else list(form.columns),
        "output_all_columns": form.with_all,
    }
