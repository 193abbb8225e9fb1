"""Converted splits in the cache, and as the Dataset a user holds."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets.dataset import Dataset
from martlet.datasets.features import Features
from martlet.datasets.info import DatasetInfo
from martlet.datasets.slicing import ReadInstruction
from martlet.datasets.splits import SplitDict, SplitInfo
from martlet.datasets.stored import Stored, digest
from martlet.datasets.tables import open_arrow
from martlet.errors import CacheError, FeatureError

if TYPE_CHECKING:
    from martlet.datasets.load import Converted, Found


def cached(
    key: str,
    make: Callable[[Path], tuple[Features, int]],
    what: str,
    cache_dir: str | os.PathLike[str] | None,
    *,
    is_forced: bool = False,
) -> Converted:
    """What `make` wrote under this key, or writes now: aside, and renamed when it is whole."""
    from martlet.datasets.load import Converted

    top = (
        Path(cache_dir)
        if cache_dir
        else Path(os.environ.get("MARTLET_CACHE", "~/.cache/martlet/datasets")).expanduser()
    )
    folder = top / "sources" / key
    if is_forced:
        shutil.rmtree(folder, ignore_errors=True)
    if not (folder / "about.json").is_file():
        aside = top / "sources" / f".{key}.{secrets.token_hex(4)}"
        try:
            aside.mkdir(parents=True)
        except OSError as problem:
            raise CacheError(str(top), "cannot be written", found=str(problem), remedy="Pass cache_dir=.") from problem
        try:
            features, num_rows = make(aside / "data.arrow")
            about = {"what": what, "num_rows": num_rows, "features": features.to_dict()}
            (aside / "about.json").write_text(json.dumps(about), "utf-8")
            try:
                os.replace(aside, folder)
            except OSError:
                if not (folder / "about.json").is_file():  # another process was first
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    about = json.loads((folder / "about.json").read_text("utf-8"))
    return Converted([folder / "data.arrow"], Features.from_dict(about["features"]), about["num_rows"], key)


def open_splits(found: Found, ready: dict[str, Converted], asked: ReadInstruction | None, *, in_memory: bool) -> Any:
    """A DatasetDict of the splits, or the Dataset of the rows asked for."""
    from martlet.datasets.dataset_dict import DatasetDict

    if asked is None:
        return DatasetDict({split: _opened(found, part, split, in_memory) for split, part in ready.items()})
    tables, keys = [], []
    for rows in asked.rows({split: part.num_rows for split, part in ready.items()}):
        table = _table(ready[rows.split], in_memory)
        tables.append(table.slice(rows.start, rows.stop - rows.start))
        keys.append(f"{ready[rows.split].key}[{rows.start}:{rows.stop}]")
    first = next(iter(ready.values()))
    if any(part.features != first.features for part in ready.values()):
        said = "; ".join(f"{split}: {part.features}" for split, part in ready.items())
        raise FeatureError(str(asked), "splits put together need the same features", found=said)
    files = [] if in_memory else [str(path) for part in ready.values() for path in part.paths]
    stored = Stored(pa.concat_tables(tables), first.features, files, digest(*keys), origin=None)
    return Dataset(stored, _info(found, ready), asked.to_spec())


def _opened(found: Found, part: Converted, split: str, in_memory: bool) -> Dataset:
    files = [] if in_memory else [str(path) for path in part.paths]
    return Dataset(Stored(_table(part, in_memory), part.features, files, part.key), _info(found, {split: part}), split)


def _table(part: Converted, in_memory: bool) -> pa.Table:
    return pa.concat_tables([open_arrow(path, in_memory=in_memory) for path in part.paths])


def _info(found: Found, ready: dict[str, Converted]) -> DatasetInfo:
    splits = SplitDict({split: SplitInfo(split, num_examples=part.num_rows) for split, part in ready.items()})
    return DatasetInfo(
        builder_name=found.source.kind, dataset_name=found.name, config_name=found.config_name, splits=splits
    )
