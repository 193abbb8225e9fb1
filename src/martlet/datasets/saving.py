"""save_to_disk and load_from_disk, in Hugging Face's own layout; either library reads what the other saved."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from martlet.datasets.arguments import verb
from martlet.datasets.files import DataFile
from martlet.datasets.formatting import make_format
from martlet.datasets.info import INFO_FILE, DatasetInfo
from martlet.datasets.outputs import joined
from martlet.datasets.parts import TemporaryFolder
from martlet.datasets.selection import Picks
from martlet.datasets.stored import Stored
from martlet.datasets.tables import open_arrow
from martlet.errors import ArgumentError, FormatError
from martlet.formats.files import read_json, save_error

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset
    from martlet.datasets.dataset_dict import DatasetDict

STATE_FILE, DICT_FILE = "state.json", "dataset_dict.json"
SHARD_BYTES = 500_000_000
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def write_arrow(path: Path, table: pa.Table) -> None:
    """An Arrow stream, put in its place when it is whole. SaveError if it cannot be written."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_stream(os.fspath(aside), table.schema, iter([table]))
        os.replace(aside, path)
    except OSError as problem:
        aside.unlink(missing_ok=True)
        raise save_error(path, problem) from problem


def _write_stream(path: str, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)


@verb
def save_to_disk(
    self: Dataset,
    dataset_path: str | os.PathLike[str],
    max_shard_size: str | int | None = None,
    num_shards: int | None = None,
    num_proc: int | None = None,
    storage_options: dict[str, Any] | None = None,
) -> None:
    """Writes a folder of Arrow shards with state.json and dataset_info.json, put in its place when it is whole.

    A folder that is there is replaced; rows that are mapped from it stay readable. SaveError if it cannot be written.
    """
    if max_shard_size is not None and num_shards is not None:
        raise ArgumentError("save_to_disk()", "takes max_shard_size or num_shards, not both")
    count = num_shards or max(num_shards_of(self, max_shard_size), num_proc or 1)
    if "://" in os.fspath(dataset_path):
        _save_remotely(self, os.fspath(dataset_path), max_shard_size, num_shards, storage_options)
        return
    folder = Path(dataset_path)
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        aside.mkdir(parents=True)
        _write_folder(self, aside, count)
        _put(aside, folder)
    except OSError as problem:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(problem, FormatError | ArgumentError):
            raise
        raise save_error(folder, problem) from problem
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _write_folder(dataset: Dataset, folder: Path, count: int) -> None:
    schema = dataset.features.arrow_schema
    names = [f"data-{index:05d}-of-{count:05d}.arrow" for index in range(count)]
    for index, name in enumerate(names):
        shard = dataset if count == 1 else dataset.shard(count, index, contiguous=True)
        _write_stream(os.fspath(folder / name), schema, shard._tables())
    form = dataset._form
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": dataset._fingerprint,
        "_format_columns": list(form.columns) if form.columns is not None else None,
        "_format_kwargs": dict(form.options),
        "_format_type": form.kind if form.kind != "custom" else None,
        "_output_all_columns": form.with_all,
        "_split": str(dataset.split) if dataset.split is not None else None,
    }
    if form.kind == "custom":
        raise ArgumentError("save_to_disk()", "cannot save a transform", remedy="ds.reset_format() first.")
    try:
        text = json.dumps(state, indent=2, sort_keys=True)
    except TypeError as problem:
        remedy = "ds.reset_format() first."
        raise ArgumentError(
            "save_to_disk()", "the format's options cannot be saved", found=problem, remedy=remedy
        ) from problem
    (folder / STATE_FILE).write_text(text, "utf-8")
    info = dict(sorted(dataset.info.to_dict().items()))
    (folder / INFO_FILE).write_text(json.dumps(info, indent=2), "utf-8")


def _put(aside: Path, folder: Path) -> None:
    """One folder in another's place, which is gone only once the new one is there."""
    if not folder.exists():
        os.rename(aside, folder)
        return
    old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    os.rename(folder, old)
    os.rename(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


def _save_remotely(dataset: Dataset, url: str, max_shard_size: Any, num_shards: Any, storage_options: Any) -> None:
    import tempfile

    import fsspec

    with tempfile.TemporaryDirectory(prefix="martlet-") as folder:
        local = Path(folder) / "dataset"
        save_to_disk(dataset, local, max_shard_size, num_shards)
        system, root = fsspec.core.url_to_fs(url, **(storage_options or {}))
        system.makedirs(root, exist_ok=True)
        for path in sorted(local.iterdir(), key=lambda path: path.name == STATE_FILE):
            system.put_file(os.fspath(path), f"{root.rstrip('/')}/{path.name}")


def num_shards_of(dataset: Dataset, max_shard_size: str | int | None) -> int:
    limit = SHARD_BYTES if max_shard_size is None else bytes_of(max_shard_size)
    stored = dataset._stored
    num_bytes: int = stored.table.nbytes * dataset.num_rows // max(1, len(stored))
    return max(1, min(math.ceil(num_bytes / limit), max(1, dataset.num_rows)))


def bytes_of(size: str | int) -> int:
    """Bytes of "500MB", "2GiB" or a number."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?I?)B?", size.strip().upper())
    if not match:
        raise ArgumentError("a size", 'must be a number of bytes, or like "500MB"', found=repr(size))
    return int(float(match[1]) * _UNITS[match[2]])


def load_from_disk(
    dataset_path: str | os.PathLike[str],
    keep_in_memory: bool | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Dataset | DatasetDict:
    """What `save_to_disk` of either library wrote: a Dataset or a DatasetDict, mapped from its files."""
    from martlet.datasets.dataset_dict import DatasetDict

    folder, owner = _local(dataset_path, storage_options)
    if (folder / DICT_FILE).is_file():
        splits = read_json(folder / DICT_FILE).get("splits", [])
        return DatasetDict({name: _load(folder / name, keep_in_memory, owner) for name in splits})
    if (folder / STATE_FILE).is_file():
        return _load(folder, keep_in_memory, owner)
    remedy = "It has no state.json and no dataset_dict.json. load_dataset() reads other files."
    raise FormatError(os.fspath(dataset_path), "must be a folder that save_to_disk wrote", remedy=remedy)


def saved_files(folder: Path) -> dict[str, list[DataFile]]:
    """The Arrow files of each split in a folder that `save_to_disk` wrote, "train" for a Dataset; none of another."""
    if (folder / DICT_FILE).is_file():
        places = {name: _inside(folder, name) for name in read_json(folder / DICT_FILE).get("splits", [])}
    else:
        places = {"train": folder} if (folder / STATE_FILE).is_file() else {}
    found = {}
    for split, place in places.items():
        state = read_json(place / STATE_FILE)
        if state.get("_indices_data_files"):
            remedy = f"load_from_disk({os.fspath(folder)!r}) reads it."
            raise ArgumentError(os.fspath(place), "picks rows of its files, which load_dataset does not", remedy=remedy)
        found[split] = [DataFile(os.fspath(_inside(place, file["filename"]))) for file in state["_data_files"]]
    return found


def load_dataset_from_disk(
    dataset_path: str | os.PathLike[str],
    keep_in_memory: bool | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Dataset:
    """What `Dataset.save_to_disk` of either library wrote."""
    from martlet.datasets.dataset import Dataset

    found = load_from_disk(dataset_path, keep_in_memory, storage_options)
    if not isinstance(found, Dataset):
        remedy = "Take DatasetDict.load_from_disk or load_from_disk."
        raise ArgumentError(os.fspath(dataset_path), "holds splits, not one dataset", remedy=remedy)
    return found


def _local(path: str | os.PathLike[str], storage_options: Any) -> tuple[Path, TemporaryFolder | None]:
    """The folder; of a URL a copy of it, that goes with its owner."""
    if "://" not in os.fspath(path):
        if not Path(path).is_dir():
            raise FileNotFoundError(f"{os.fspath(path)}: there is no such folder")
        return Path(path), None
    import fsspec

    system, root = fsspec.core.url_to_fs(os.fspath(path), **(storage_options or {}))
    copy = TemporaryFolder()
    system.get(root.rstrip("/") + "/", os.fspath(copy.path), recursive=True)
    return copy.path, copy


def _load(folder: Path, keep_in_memory: bool | None, owner: TemporaryFolder | None) -> Dataset:
    from martlet.datasets.config import goes_to_memory
    from martlet.datasets.dataset import Dataset
    from martlet.datasets.features import Features

    state = read_json(folder / STATE_FILE)
    info = DatasetInfo.from_directory(folder)
    names = [_inside(folder, file["filename"]) for file in state["_data_files"]]
    in_memory = goes_to_memory(keep_in_memory, names)
    tables = [open_arrow(name, in_memory=in_memory) for name in names]
    if not tables:
        features = info.features or Features()
        tables = [features.arrow_schema.empty_table()]
    table, features = joined([(table, Features.from_arrow_schema(table.schema)) for table in tables], os.fspath(folder))
    chosen = info.features if info.features is not None and set(info.features) == set(features) else features
    stored = Stored.of(table, chosen, () if in_memory else tuple(map(os.fspath, names)))
    stored.owner = owner
    new = Dataset(stored, info, state.get("_split"))
    if state.get("_indices_data_files"):
        indices = [open_arrow(_inside(folder, file["filename"])) for file in state["_indices_data_files"]]
        new._selection = Picks(pa.concat_tables(indices).column(0).to_numpy().astype(np.int64))
    new._form = make_format(
        state.get("_format_type"),
        state.get("_format_columns"),
        bool(state.get("_output_all_columns")),
        new.column_names,
        dict(state.get("_format_kwargs") or {}),
    )
    return new


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FormatError(os.fspath(folder / STATE_FILE), "must name files in its own folder", found=repr(name))
    return path
