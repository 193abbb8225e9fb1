"""Converted splits in the cache, and as the Dataset a user holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from martlet.datasets import cache
from martlet.datasets.dataset import Dataset
from martlet.datasets.features import Features
from martlet.datasets.info import DatasetInfo
from martlet.datasets.parts import TemporaryFolder
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

    folder = TemporaryFolder()
    features, num_rows, _ = make(folder.path / DATA_FILE)
    return Converted([folder.path / DATA_FILE], features, num_rows, key, folder)


def _emptied(folder: Path) -> None:
    for left in folder.iterdir():  # by a process that was killed
        left.unlink()


def open_splits(found: Found, ready: dict[str, Converted], asked: ReadInstruction | None, *, in_memory: bool) -> Any:
    """A DatasetDict of the splits, or the Dataset of the rows asked for."""
    from martlet.datasets.dataset_dict import DatasetDict

    if asked is None:
        info = _info(found, ready)
        return DatasetDict({split: _opened(info, part, split, in_memory) for split, part in ready.items()})
    runs = asked.rows({split: part.num_rows for split, part in ready.items()})
    info, spec = _info(found, ready), asked.to_spec()
    if len(runs) == 1:  # the whole file, of which these rows are looked at: other processes map it again
        (run,) = runs
        whole = _opened(info, ready[run.split], spec, in_memory)
        return whole if run.stop - run.start == len(whole) else whole.select(range(run.start, run.stop))
    first = next(iter(ready.values()))
    if any(part.features != first.features for part in ready.values()):
        said = "; ".join(f"{split}: {part.features}" for split, part in ready.items())
        raise FeatureError(spec, "splits put together need the same features", found=said)
    tables, keys, paths, is_whole = [], [], [], True
    for run in runs:
        table = _table(ready[run.split], in_memory)
        tables.append(table.slice(run.start, run.stop - run.start))
        is_whole = is_whole and tables[-1].num_rows == table.num_rows
        paths += [path for path in map(str, ready[run.split].paths) if path not in paths]
        keys.append(f"{ready[run.split].key}[{run.start}:{run.stop}]")
    is_whole = is_whole and len(paths) == len(tables)
    stored = Stored(
        pa.concat_tables(tables),
        first.features,
        [] if in_memory else paths,
        digest(*keys),
        [part.owner for part in ready.values()],
        () if is_whole else None,  # whole files are mapped again by other processes, parts of them are not
    )
    return Dataset(stored, info, spec)


def _opened(info: DatasetInfo, part: Converted, split: str, in_memory: bool) -> Dataset:
    files = [] if in_memory else [str(path) for path in part.paths]
    stored = Stored(_table(part, in_memory), part.features, files, part.key, part.owner)
    return Dataset(stored, info.copy(), split)


def _table(part: Converted, in_memory: bool) -> pa.Table:
    return pa.concat_tables([open_arrow(path, in_memory=in_memory) for path in part.paths])


def _info(found: Found, ready: dict[str, Converted]) -> DatasetInfo:
    """What the card says, and the numbers of what was converted."""
    from martlet.datasets.load import info_of

    info = info_of(found)
    info.splits = info.splits or SplitDict()
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
