"""Dataset.from_csv, from_json, from_parquet, from_text, from_sql: files and queries without naming the format."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

Paths = str | os.PathLike[str] | list[str] | dict[str, Any]


def _loaded(kind: str, paths: Any, split: Any, features: Any, cache_dir: Any, in_memory: bool, options: Any) -> Any:
    from martlet.datasets.load import load_dataset

    chosen = "train" if split is None else str(split)
    if paths is not None and not isinstance(paths, Mapping) and re.fullmatch(r"\w+(\.\w+)*", chosen):
        paths = {chosen: paths}  # the files are that split
    return load_dataset(
        kind,
        data_files=paths,
        split=chosen if split is None or isinstance(split, str) else split,
        features=features,
        cache_dir=cache_dir,
        keep_in_memory=in_memory,
        **options,
    )


def from_csv(
    path_or_paths: Paths,
    split: Any = None,
    features: Any = None,
    cache_dir: str | None = None,
    keep_in_memory: bool = False,
    num_proc: int | None = None,
    **kwargs: Any,
) -> Any:
    """The rows of CSV files, converted once to Arrow in the cache; keywords as of load_dataset("csv")."""
    return _loaded("csv", path_or_paths, split, features, cache_dir, keep_in_memory, {"num_proc": num_proc, **kwargs})


def from_json(
    path_or_paths: Paths,
    split: Any = None,
    features: Any = None,
    cache_dir: str | None = None,
    keep_in_memory: bool = False,
    field: str | None = None,
    num_proc: int | None = None,
    **kwargs: Any,
) -> Any:
    """The rows of JSON or JSON Lines files; `field` is where in the file they are."""
    options = {"field": field, "num_proc": num_proc, **kwargs}
    return _loaded("json", path_or_paths, split, features, cache_dir, keep_in_memory, options)


def from_parquet(
    path_or_paths: Paths,
    split: Any = None,
    features: Any = None,
    cache_dir: str | None = None,
    keep_in_memory: bool = False,
    columns: list[str] | None = None,
    num_proc: int | None = None,
    filters: Any = None,
    fragment_scan_options: Any = None,
    on_bad_files: str = "error",
    **kwargs: Any,
) -> Any:
    """The rows of Parquet files, or some of their columns, or (`filters`) those of which an expression is true."""
    options = {"columns": columns, "num_proc": num_proc, "filters": filters, "on_bad_files": on_bad_files, **kwargs}
    if fragment_scan_options is not None:  # an error that names it, until there is such an option
        options["fragment_scan_options"] = fragment_scan_options
    return _loaded("parquet", path_or_paths, split, features, cache_dir, keep_in_memory, options)


def from_text(
    path_or_paths: Paths,
    split: Any = None,
    features: Any = None,
    cache_dir: str | None = None,
    keep_in_memory: bool = False,
    num_proc: int | None = None,
    keep_linebreaks: bool = False,
    sample_by: str = "line",
    **kwargs: Any,
) -> Any:
    """The lines (or paragraphs, or documents) of text files."""
    options = {"num_proc": num_proc, "keep_linebreaks": keep_linebreaks, "sample_by": sample_by, **kwargs}
    return _loaded("text", path_or_paths, split, features, cache_dir, keep_in_memory, options)


def from_sql(
    sql: Any,
    con: Any,
    features: Any = None,
    cache_dir: str | None = None,
    keep_in_memory: bool = False,
    **kwargs: Any,
) -> Any:
    """The rows of a query or table; `con` is a URI, a DB-API connection or SQLAlchemy's. Read anew each time."""
    return _loaded("sql", None, None, features, cache_dir, keep_in_memory, {"sql": sql, "con": con, **kwargs})
