"""map and filter: functions and expressions over rows, fused, run in parts, kept in the cache."""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from martlet.datasets.arguments import verb
from martlet.datasets.features import Features
from martlet.datasets.hashing import key_of
from martlet.datasets.selection import Picks, compose, positions
from martlet.errors import ArgumentError, HashingError

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset
    from martlet.datasets.runner import Runner

ROW = "\\0row"  # a column of row numbers, under a name that no file's column has
MASK_ROWS = 1 << 16


@verb
def map(
    self: Dataset,
    function: Callable[..., Any] | None = None,
    with_indices: bool = False,
    with_rank: bool = False,
    input_columns: str | list[str] | None = None,
    batched: bool = False,
    batch_size: int | None = 1000,
    drop_last_batch: bool = False,
    remove_columns: str | list[str] | None = None,
    keep_in_memory: bool = False,
    load_from_cache_file: bool | None = None,
    cache_file_name: str | None = None,
    writer_batch_size: int | None = 1000,
    features: Features | None = None,
    disable_nullable: bool = False,
    fn_kwargs: dict[str, Any] | None = None,
    num_proc: int | None = None,
    suffix_template: str = "_{rank:05d}_of_{num_proc:05d}",
    new_fingerprint: str | None = None,
    desc: str | None = None,
    try_original_type: bool | None = True,
    on_mixed_types: str | None = "use_json",
    *,
    cache: bool = True,
    runner: Runner | None = None,
) -> Dataset:
    """The rows with what `function` returns for each: a dict of new or changed columns, or None for no change.

    `batched` functions get and return columns of up to `batch_size` rows (None: all) and may change their number.
    The result is cached by the source, the function's code and what it closes over; `cache=False` does not need to
    hash. Functions without effects outside run when rows are looked at, fused with the maps and filters around them;
    others run now. `num_proc` fresh processes share the rows; `runner` is another place for the work.
    `disable_nullable` makes a missing value an error.

    MapError names the rows whose results do not fit, HashingError what cannot be hashed, WorkerError a dead worker.
    """
    from martlet.datasets.stage import Options
    from martlet.datasets.steps import MapStep

    _checked_files("map()", cache_file_name, suffix_template)
    names = self.column_names
    removed = _columns("map()", "remove_columns", remove_columns, names)
    if function is None:
        if removed:
            return self.remove_columns(list(removed)).map(features=features)
        function, batched = _nothing, True
    called, is_pure = _function(
        self,
        "map",
        function,
        batched,
        batch_size,
        with_indices,
        with_rank,
        input_columns,
        fn_kwargs,
        cache,
        new_fingerprint,
    )
    step = MapStep(
        called,
        removed,
        Features(features) if features is not None else None,
        drop_last_batch and batched,
        on_mixed_types,
        bool(try_original_type),
        not disable_nullable,
    )
    options = Options(
        _processes("map()", num_proc),
        keep_in_memory or None,
        load_from_cache_file is not False,
        cache_file_name,
        new_fingerprint,
        cache,
        max(1, writer_batch_size or 1000),
        desc,
        runner,
    )
    return _with_step(self, step, options, is_pure)


@verb
def filter(
    self: Dataset,
    function: Any = None,
    with_indices: bool = False,
    with_rank: bool = False,
    input_columns: str | list[str] | None = None,
    batched: bool = False,
    batch_size: int | None = 1000,
    keep_in_memory: bool = False,
    load_from_cache_file: bool | None = None,
    cache_file_name: str | None = None,
    writer_batch_size: int | None = 1000,
    fn_kwargs: dict[str, Any] | None = None,
    num_proc: int | None = None,
    suffix_template: str = "_{rank:05d}_of_{num_proc:05d}",
    new_fingerprint: str | None = None,
    desc: str | None = None,
    *,
    cache: bool = True,
    runner: Runner | None = None,
) -> Dataset:
    """The rows for which `function` is true. Rows are picked, not copied.

    `function` is a Python function of a row (or of a batch), an Arrow expression (`pc.field("score") > 0.5`), or a SQL
    condition ("score > 0.5 and label = 1"); the latter two never enter Python.
    """
    from martlet.datasets.stage import Options
    from martlet.datasets.steps import FilterStep

    if isinstance(function, str | pc.Expression):
        return _filter_by_expression(self, function)
    _checked_files("filter()", cache_file_name, suffix_template)
    if function is None:
        return self._like(self._source, self._selection)
    called, is_pure = _function(
        self,
        "filter",
        function,
        batched,
        batch_size,
        with_indices,
        with_rank,
        input_columns,
        fn_kwargs,
        cache,
        new_fingerprint,
    )
    options = Options(
        _processes("filter()", num_proc),
        keep_in_memory or None,
        load_from_cache_file is not False,
        cache_file_name,
        new_fingerprint,
        cache,
        max(1, writer_batch_size or 1000),
        desc,
        runner,
    )
    return _with_step(self, FilterStep(called), options, is_pure)


def _with_step(dataset: Dataset, step: Any, options: Any, is_pure: bool) -> Dataset:
    from martlet.datasets.stage import Pending, probed_names

    source = dataset._source
    grows = isinstance(source, Pending) and dataset._selection is None and source.can_grow and source.fits(step)
    if grows:
        pending = source.then(step, options, source.names)
    else:
        pending = Pending(dataset._stored, dataset._selection, (step,), options, dataset.column_names)
    # with processes of its own it is tried there: what ends one must not end this one
    has_workers = (options.num_proc or 1) > 1
    runs_now = not is_pure or has_workers or pending.is_in_cache or options.cache_file_name is not None
    if not runs_now:
        pending.names = probed_names(pending.source, pending.selection, pending.steps, pending.names)
        runs_now = pending.names == []  # without columns there are no rows, which is known once it has run
    new = dataset._like(pending, None)
    if runs_now:
        _ = new._stored
    if dataset._form.columns is not None:  # what is new is in the format too
        names, before = new.column_names, dataset.column_names
        chosen = [name for name in names if name in dataset._form.columns or name not in before]
        new._form = replace(dataset._form, columns=tuple(chosen))
    return new


def _function(
    dataset: Dataset,
    verb_name: str,
    function: Callable[..., Any],
    batched: bool,
    batch_size: int | None,
    with_indices: bool,
    with_rank: bool,
    input_columns: Any,
    fn_kwargs: dict[str, Any] | None,
    cache: bool,
    new_fingerprint: str | None,
) -> tuple[Any, bool]:
    """The function as a step calls it, with its key, and whether it can be run later."""
    from martlet.datasets.cache import is_caching_enabled
    from martlet.datasets.calls import Function
    from martlet.datasets.stage import Pending

    if not callable(function):
        raise ArgumentError(f"{verb_name}()", "needs a function", found=type(function).__name__)
    if batch_size is not None and batch_size <= 0:
        batch_size = None
    source = dataset._source.source if isinstance(dataset._source, Pending) else dataset._source
    needs_key = cache and new_fingerprint is None and is_caching_enabled() and not source.is_in_memory
    key, is_pure = "", False
    try:
        key, is_pure = key_of(function, tuple(sorted((fn_kwargs or {}).items())), dataset._form.transform)
    except HashingError:
        if needs_key:
            raise
    inputs = (
        _columns(f"{verb_name}()", "input_columns", input_columns, dataset.column_names)
        if input_columns is not None
        else None
    )
    called = Function(
        function, batched, batch_size, with_indices, with_rank, inputs, dict(fn_kwargs or {}), dataset._form, key
    )
    return called, is_pure and cache and not with_rank


def _filter_by_expression(dataset: Dataset, condition: Any) -> Dataset:
    stored = dataset._stored
    table = stored.table.append_column(ROW, pa.array(np.arange(len(stored), dtype=np.int64)))
    try:
        if isinstance(condition, str):
            kept = _sql_rows(table, condition)
        else:
            import pyarrow.dataset

            found = pyarrow.dataset.dataset(table).to_table(columns=[ROW], filter=condition)
            kept = found.column(ROW).to_numpy()
    except (pa.ArrowException, KeyError, TypeError) as problem:
        remedy = f"The columns are {', '.join(dataset.column_names)}."
        raise ArgumentError("filter()", "the expression cannot be evaluated", found=problem, remedy=remedy) from problem
    if dataset._selection is None:
        return dataset._like(stored, Picks(kept))
    mask = np.zeros(len(stored), bool)
    mask[kept] = True
    total = dataset.num_rows
    picked = []
    for begin in range(0, total, MASK_ROWS):
        at = positions(begin, min(begin + MASK_ROWS, total))
        picked.append(at[mask[dataset._selection.rows(at)]])
    chosen = np.concatenate(picked) if picked else np.empty(0, np.int64)
    return dataset._like(stored, compose(dataset._selection, Picks(chosen)))


def _sql_rows(table: pa.Table, condition: str) -> Any:
    from martlet.datasets.sql import query

    rows = query(table, f'select "{ROW}" from self where {condition}', is_kept=True).column(0).to_numpy()
    return rows if (np.diff(rows) > 0).all() else np.sort(rows)


def _columns(subject: str, keyword: str, wanted: Any, names: list[str]) -> tuple[str, ...]:
    if wanted is None:
        return ()
    listed = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    if strange := [name for name in listed if name not in names]:
        rule = f"{keyword} must be columns: {', '.join(names)}"
        raise ArgumentError(subject, rule, found=", ".join(builtin_map(repr, strange)))
    return listed


def _processes(subject: str, num_proc: int | None) -> int | None:
    if num_proc is not None and num_proc < 0:
        raise ArgumentError(subject, "num_proc must be at least 1", found=num_proc)
    return num_proc or None


def _checked_files(subject: str, cache_file_name: Any, suffix_template: str) -> None:
    """ArgumentError for names of files that Hugging Face's library does not take either."""
    fields = {name for _, name, _, _ in string.Formatter().parse(suffix_template) if name is not None}
    if fields != {"rank", "num_proc"}:
        rule = "suffix_template must have the fields rank and num_proc"
        raise ArgumentError(subject, rule, found=repr(suffix_template))
    if cache_file_name is not None and not os.path.splitext(cache_file_name)[1]:
        raise ArgumentError(subject, "cache_file_name must have an ending, such as .arrow", found=cache_file_name)


def _nothing(batch: Any) -> None:
    return None


def builtin_map(function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
    """What `map` is elsewhere."""
    return [function(value) for value in values]
