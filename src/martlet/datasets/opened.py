"""Converted splits in the cache, and as the Dataset a user holds."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets import cache
from martlet.datasets.dataset import Dataset
from martlet.datasets.features import Features
from martlet.datasets.info import DatasetInfo
from martlet.datasets.slicing import ReadInstruction
from martlet.datasets.sources.source import log
from martlet.datasets.splits import SplitDict, SplitInfo
from martlet.datasets.stored import Stored, digest
from martlet.datasets.tables import open_arrow
from martlet.errors import CacheError, FeatureError, SaveError

if TYPE_CHECKING:
    from martlet.datasets.load import Converted, Found

DATA_FILE = "data.arrow"


def cached(
    key: str,
    make: Callable[[Path], tuple[Features, int, list[str]]],
    about: str,
    cache_dir: str | os.PathLike[str] | None,
    *,
    is_forced: bool = False,
) -> Converted:
    """What `make` wrote under this key, now or earlier; what it left out then is said again."""
    from martlet.datasets.load import Converted

    with cache.in_folder(cache_dir):
        if is_forced:
            cache.remove(key)
        folder = cache.find(key)
        is_known = folder is not None
        if folder is None:
            with cache.making(key) as aside:
                if aside is not None:
                    _emptied(aside)
                    try:
                        features, num_rows, said = make(aside / DATA_FILE)
                    except SaveError as problem:
                        raise cache.cache_error(aside, problem) from problem
                    made: dict[str, Any] = {"about": about, "num_rows": num_rows, "features": features.to_dict()}
                    made["left_out"] = said
                    cache.finish(key, aside, made)
            folder = cache.find(key)
            if folder is None:
                raise CacheError(str(cache.cache_folder()), "lost a result while it was made", remedy="Load it again.")
        entry = cache.read_entry(folder)
    for said_once in entry.get("left_out", ()) if is_known else ():
        log.warning("%s", said_once)
    return Converted([folder / DATA_FILE], Features.from_dict(entry["features"]), entry["num_rows"], key)


def temporary(make: Callable[[Path], tuple[Features, int, list[str]]], key: str) -> Converted:
    """What `make` writes, in a folder that goes with the dataset: for rows that may change behind an equal key."""
    from martlet.datasets.load import Converted

    folder = _Folder()
    features, num_rows, _ = make(folder.path / DATA_FILE)
    return Converted([folder.path / DATA_FILE], features, num_rows, key, folder)


class _Folder:
    """A folder that goes when nobody holds this any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="martlet-rows-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _emptied(folder: Path) -> None:
    for left in folder.iterdir():  # by a process that was killed
        left.unlink()


def open_splits(found: Found, ready: dict[str, Converted], asked: ReadInstruction | None, *, in_memory: bool) -> Any:
    """A DatasetDict of the splits, or the Dataset of the rows asked for."""
    from martlet.datasets.dataset_dict import DatasetDict

    if asked is None:
        return DatasetDict({split: _opened(found, part, split, in_memory) for split, part in ready.items()})
    tables, keys, paths, is_whole = [], [], [], True
    for rows in asked.rows({split: part.num_rows for split, part in ready.items()}):
        table = _table(ready[rows.split], in_memory)
        tables.append(table.slice(rows.start, rows.stop - rows.start))
        is_whole = is_whole and tables[-1].num_rows == table.num_rows
        paths += [path for path in map(str, ready[rows.split].paths) if path not in paths]
        keys.append(f"{ready[rows.split].key}[{rows.start}:{rows.stop}]")
    first = next(iter(ready.values()))
    if any(part.features != first.features for part in ready.values()):
        said = "; ".join(f"{split}: {part.features}" for split, part in ready.items())
        raise FeatureError(str(asked), "splits put together need the same features", found=said)
    is_whole = is_whole and len(paths) == len(tables)
    owners = [part.owner for part in ready.values()]
    stored = Stored(
        pa.concat_tables(tables),
        first.features,
        [] if in_memory else paths,
        digest(*keys),
        owners,
        () if is_whole else None,  # whole files are mapped again by other processes, parts of them are not
    )
    return Dataset(stored, _info(found, ready), asked.to_spec())


def _opened(found: Found, part: Converted, split: str, in_memory: bool) -> Dataset:
    files = [] if in_memory else [str(path) for path in part.paths]
    stored = Stored(_table(part, in_memory), part.features, files, part.key, part.owner)
    return Dataset(stored, _info(found, {split: part}), split)


def _table(part: Converted, in_memory: bool) -> pa.Table:
    return pa.concat_tables([open_arrow(path, in_memory=in_memory) for path in part.paths])


def _info(found: Found, ready: dict[str, Converted]) -> DatasetInfo:
    """What the card says, and the numbers of what was converted."""
    from martlet.datasets.load import info_of

    info = info_of(found)
    info.splits = SplitDict()
    for split, part in ready.items():
        num_bytes = _table(part, False).nbytes
        info.splits[split] = SplitInfo(split, num_bytes, part.num_rows, dataset_name=found.name)
    files = [file for split in ready for file in found.files[split]]
    info.download_size = None
    if all(file.is_local and file.member is None for file in files):
        info.download_size = sum(os.path.getsize(file.url) for file in files)
    info.dataset_size = sum(split.num_bytes for split in info.splits.values())
    info.size_in_bytes = info.dataset_size + (info.download_size or 0)
    return info
