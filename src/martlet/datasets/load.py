"""`load_dataset`: names, folders and files to a Dataset in memory-mapped Arrow, or to a stream."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.datasets import elsewhere
from martlet.datasets.card import features_from_card
from martlet.datasets.convert import convert
from martlet.datasets.features import Features
from martlet.datasets.files import DataFile
from martlet.datasets.finding import (
    Config,
    by_split,
    guess_splits,
    list_folder,
    pick,
    read_configs,
    resolve,
    resolve_all,
)
from martlet.datasets.info import DatasetInfo
from martlet.datasets.modes import DownloadMode, VerificationMode, fetching, mode_of
from martlet.datasets.slicing import as_instruction
from martlet.datasets.sources import SOURCES, Source, make_source
from martlet.datasets.sources.registry import ELSEWHERE, files_of_kind, infer_kinds
from martlet.datasets.sources.source import log
from martlet.datasets.splits import SplitDict
from martlet.datasets.version import Version
from martlet.errors import ArgumentError, CacheError, DataFileError, DatasetNotFoundError

_OF_CARD = ("description", "citation", "homepage", "license", "download_size", "dataset_size")


@dataclass
class Found:
    """What `load_dataset` was asked for, found but not read: a format and the files of each split."""

    name: str
    config_name: str
    source: Source
    files: dict[str, list[DataFile]]
    features: Features | None = None
    about: Mapping[str, Any] = field(default_factory=dict)  # what the dataset's card says: splits, sizes


def load_dataset(
    path: str,
    name: str | None = None,
    data_dir: str | None = None,
    data_files: Any = None,
    split: Any = None,
    cache_dir: str | os.PathLike[str] | None = None,
    features: Features | None = None,
    download_config: Any = None,
    download_mode: Any = None,
    verification_mode: Any = None,
    keep_in_memory: bool | None = None,
    save_infos: bool = False,
    revision: str | None = None,
    token: bool | str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    trust_remote_code: bool | None = None,
    **config_kwargs: Any,
) -> Any:
    """A DatasetDict of all splits, or with `split=` a Dataset; with `streaming=True` the Iterable ones, not read yet.

    `path` is a format ("csv", "json", "parquet", "arrow", "text", "sql", "webdataset", "imagefolder", "audiofolder")
    with `data_files=` or `data_dir=`, a folder, or a name on the Hub. `data_files` are paths, patterns (*, **) and
    URLs, by split if need be; they may be compressed or in archives. `split` is like "train", "train[:10%]",
    "train[5:20]+test", or a list or dict of such for as many datasets.
    Rows are converted once to Arrow in the cache, keyed by the files (path, size, time), the format
    and its options; later calls map that. `num_proc` is the number of threads, by default one a core.
    `on_error="skip"` leaves out rows that cannot be read and says how many. Keywords a format does not know are errors.
    DatasetNotFoundError if there is nothing by that name; DataFileError names file, line and column of what is broken.
    """
    if trust_remote_code:
        log.warning("trust_remote_code=True changes nothing: no repository's Python is run, datasets are data")
    mode = mode_of(DownloadMode, download_mode, "download_mode")
    asked = "all_checks" if save_infos else verification_mode or "basic_checks"
    checks = mode_of(VerificationMode, asked, "verification_mode")
    given = {"token": token, "storage_options": storage_options, "cache_dir": cache_dir, "num_proc": num_proc}
    how = fetching(download_config, given)
    cache_dir = how["cache_dir"]
    found = find(
        path,
        name,
        data_dir,
        data_files,
        revision,
        how["token"],
        cache_dir,
        how["storage_options"],
        how["num_proc"],
        config_kwargs,
        streaming,
    )
    if features is not None:
        found.features = Features(features)
    if streaming:
        return each_split(split, lambda one: _streamed(found, one))
    is_forced = mode is DownloadMode.FORCE_REDOWNLOAD or bool(download_config and download_config.force_download)
    anew = set(found.files) if is_forced else set()
    return each_split(split, lambda one: open_split(found, one, cache_dir, checks, anew, in_memory=keep_in_memory))


def each_split(split: Any, call: Callable[[Any], Any]) -> Any:
    """What `call` gives for a split, or for each in a list of them; a dict of them makes a DatasetDict."""
    if isinstance(split, list | tuple):
        return [call(one) for one in split]
    if not isinstance(split, Mapping):
        return call(split)
    from martlet.datasets.dataset import Dataset
    from martlet.datasets.dataset_dict import DatasetDict
    from martlet.datasets.iterable_dict import IterableDatasetDict

    made = {name: call(one) for name, one in split.items()}
    return DatasetDict(made) if isinstance(next(iter(made.values()), None), Dataset) else IterableDatasetDict(made)


def _streamed(found: Found, split: Any) -> Any:
    from martlet.datasets.streams.opening import open_streams

    return open_streams(found, None if split is None else as_instruction(split))


def open_split(
    found: Found,
    split: Any,
    cache_dir: str | os.PathLike[str] | None,
    checks: VerificationMode,
    anew: set[str],
    *,
    in_memory: bool | None,
) -> Any:
    """The Dataset of a split, or with None a DatasetDict; converted if it is not in the cache, or is in `anew`."""
    from martlet.datasets.config import goes_to_memory
    from martlet.datasets.opened import open_splits

    asked = None if split is None else as_instruction(split)
    needed = list(found.files) if asked is None else asked.splits(found.files)
    ready = convert_found(found, needed, cache_dir, anew, in_memory=bool(in_memory))
    if checks is not VerificationMode.NO_CHECKS:
        verified(found, ready)
    files = [path for part in ready.values() for path in part.paths]
    return open_splits(found, ready, asked, in_memory=goes_to_memory(in_memory, files))


def find(
    path: str,
    name: str | None,
    data_dir: str | None,
    data_files: Any,
    revision: str | None,
    token: bool | str | None,
    cache_dir: str | os.PathLike[str] | None,
    storage_options: Mapping[str, Any] | None,
    num_proc: int | None,
    options: dict[str, Any],
    streaming: bool,
) -> Found:
    """The format and the files of `path`; nothing of them is read but a README and, on the Hub, the listing."""
    storage = dict(storage_options or {})
    path = os.fspath(path)
    if path in SOURCES or path in ELSEWHERE:
        source = make_source(path, options, num_threads=num_proc)
        if path == "sql":
            return Found(path, name or "default", source, {"train": []})
        files = _asked_files(path, data_dir, data_files, storage)
        return _looked(Found(path, name or "default", source, files))
    if Path(path).expanduser().is_dir():
        return _in_folder(
            str(Path(path).expanduser().absolute()), name, data_dir, data_files, storage, num_proc, options
        )
    if Path(path).expanduser().is_file():
        raise ArgumentError(
            path,
            "must be a format, a folder or a name on the Hub",
            found="a file",
            remedy=f"load_dataset({Path(path).suffix[1:] or 'text'!r}, data_files={path!r}) loads it.",
        )
    from martlet.datasets.hub import in_repository

    return in_repository(path, name, data_dir, data_files, revision, token, cache_dir, num_proc, options, streaming)


def _asked_files(
    kind: str, data_dir: str | None, data_files: Any, storage: Mapping[str, Any]
) -> dict[str, list[DataFile]]:
    if data_files is None and data_dir is None:
        raise ArgumentError(f"load_dataset({kind!r})", "needs data_files= or data_dir=")
    base = (
        os.path.abspath(os.path.expanduser(data_dir)) if data_dir and "://" not in data_dir else data_dir or os.getcwd()
    )
    if data_files is not None:
        return resolve_all(by_split(data_files), base, storage)
    if "://" in base:
        top = base.rstrip("/") + "/"
        files = {file.url.removeprefix(top): file for file in resolve("**", base, storage)}
        return {split: [files[name] for name in names] for split, names in guess_splits(files).items()}
    return _guessed(base)


def _guessed(folder: str) -> dict[str, list[DataFile]]:
    guessed = guess_splits(list_folder(folder))
    if not guessed:
        raise DatasetNotFoundError(folder, "holds no files")
    return {split: [DataFile(os.path.join(folder, path)) for path in paths] for split, paths in guessed.items()}


def _in_folder(
    folder: str,
    name: str | None,
    data_dir: str | None,
    data_files: Any,
    storage: Mapping[str, Any],
    num_proc: int | None,
    options: dict[str, Any],
) -> Found:
    from martlet.datasets.saving import saved_files

    if data_files is None and data_dir is None and (saved := saved_files(Path(folder))):
        source = make_source("arrow", options, num_threads=num_proc)
        return _looked(Found(os.path.basename(folder), name or "default", source, saved))
    config = config_of(Path(folder, "README.md"), name, data_dir, data_files, folder)
    base = os.path.join(folder, config.data_dir) if config.data_dir else folder
    if config.data_files is not None:
        files = resolve_all(by_split(config.data_files), base, storage)
    else:
        files = _guessed(base)
    return found_of(os.path.basename(folder), config, files, num_proc, options, folder)


def config_of(readme: Path | None, name: str | None, data_dir: str | None, data_files: Any, where: str) -> Config:
    """The configuration asked for: of the README, unless the call itself says which files."""
    text = readme.read_text("utf-8", errors="replace") if readme is not None and readme.is_file() else ""
    configs = read_configs(text, where)
    if data_files is not None or data_dir is not None:
        return Config(name or "default", data_files, data_dir)
    if configs:
        return pick(configs, name, where)
    return Config(name or "default", None, name if name and name != "default" else None)


def found_of(
    name: str,
    config: Config,
    files: dict[str, list[DataFile]],
    num_proc: int | None,
    options: dict[str, Any],
    where: str,
) -> Found:
    """What was found, its format told by the files' names."""
    kind, implied = infer_kinds(files, where)
    files = files_of_kind(files, (kind, implied), where)
    source = make_source(kind, {**implied, **config.options, **options}, num_threads=num_proc)
    features = features_from_card(config.features, where) if config.features else None
    return _looked(Found(name, config.name, source, files, features, config.about))


def _looked(found: Found) -> Found:
    found.files = {split: found.source.units(files) for split, files in found.files.items()}
    empty = [split for split, files in found.files.items() if not files]
    if empty:
        raise DataFileError(found.name, "each split needs a file", found=f"none for {', '.join(empty)}")
    special = found.source.look(found.files)
    if special is not None and found.features is None:
        found.features = special
    return found


@dataclass(frozen=True)
class Converted:
    """A split as Arrow files with their features."""

    paths: list[Path]
    features: Features
    num_rows: int
    key: str
    owner: Any = None  # what must live as long as the files


def verified(found: Found, ready: Mapping[str, Converted]) -> None:
    """DataFileError unless the splits are those of the dataset's card, with as many rows as it says."""
    listed = {
        info.name: info.num_examples for info in SplitDict.from_split_dict(found.about.get("splits") or []).values()
    }
    if not listed:
        return
    remedy = 'Correct its card, or pass verification_mode="no_checks".'
    if set(listed) != set(found.files):
        rule = f"must have the splits of its card: {', '.join(listed)}"
        raise DataFileError(found.name, rule, found=", ".join(found.files), remedy=remedy)
    for split, part in ready.items():
        if part.num_rows != listed[split]:
            rule = f"split {split!r} must have the {listed[split]} rows its card says"
            raise DataFileError(found.name, rule, found=part.num_rows, remedy=remedy)


def info_of(found: Found) -> DatasetInfo:
    """What is known of the dataset before its rows are read."""
    known = {name: found.about[name] for name in _OF_CARD if name in found.about}
    sizes = [known.get("download_size"), known.get("dataset_size")]
    return DatasetInfo(
        **known,
        features=found.features.copy() if found.features is not None else None,
        builder_name=found.source.kind,
        dataset_name=found.name,
        config_name=found.config_name,
        version=Version(str(found.about.get("version") or "0.0.0")),
        splits=_splits(found),
        size_in_bytes=sum(sizes) if None not in sizes else None,  # type: ignore[arg-type]
    )


def _splits(found: Found) -> SplitDict | None:
    if not found.about.get("splits"):
        return None
    splits = SplitDict.from_split_dict(found.about["splits"])
    for info in splits.values():
        info.dataset_name = found.name
    return splits


def convert_found(
    found: Found,
    splits: Sequence[str],
    cache_dir: str | os.PathLike[str] | None,
    anew: set[str],
    *,
    in_memory: bool = False,
) -> dict[str, Converted]:
    """Each split as Arrow in the cache, converted where it is not there yet; those in `anew` once more, this once."""
    ready = {}
    for split in splits:
        try:
            ready[split] = _converted(found, split, cache_dir, split in anew)
        except CacheError as problem:
            if not in_memory:
                raise
            log.warning("%s The rows are read into memory all the same, and anew each time.", problem)
            ready[split] = _read_once(found, split)
        anew.discard(split)
    return ready


def _read_once(found: Found, split: str) -> Converted:
    from martlet.datasets.opened import temporary

    return temporary(
        lambda path: convert(found.source, found.files[split], path, found.features), secrets.token_hex(16)
    )


def _converted(found: Found, split: str, cache_dir: str | os.PathLike[str] | None, is_forced: bool) -> Converted:
    from martlet.datasets import cache
    from martlet.datasets.opened import cached

    if found.source.kind == "sql" or not cache.is_caching_enabled():
        return _read_once(found, split)
    parts = {
        "source": found.source.kind,
        "options": found.source.options(),
        "features": found.features.to_dict() if found.features is not None else None,
        "files": [file.identity() for file in found.files[split]],
        "martlet": sys.modules["martlet"].__version__,
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:32]
    return cached(
        key,
        lambda path: convert(found.source, found.files[split], path, found.features),
        f"{found.source.kind} {found.name} {split}",
        cache_dir,
        is_forced=is_forced,
    )


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
