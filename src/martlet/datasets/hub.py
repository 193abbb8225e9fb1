"""Datasets on the Hub: found, listed, described and sent, through huggingface_hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from martlet.datasets.files import DataFile
from martlet.datasets.finding import Config, by_split, guess_splits, pick, read_configs
from martlet.datasets.info import DatasetInfo
from martlet.datasets.load import Found, config_of, find, found_of, info_of
from martlet.datasets.sources.registry import SOURCES, infer_kind
from martlet.datasets.splits import SplitDict, SplitInfo
from martlet.errors import ArgumentError, DatasetNotFoundError, HubError, OfflineError
from martlet.hub import Snapshot, open_snapshot

PARQUET_BRANCH = "refs/convert/parquet"  # where the Hub keeps datasets of any form as Parquet


def in_repository(
    path: str,
    name: str | None,
    data_dir: str | None,
    data_files: Any,
    revision: str | None,
    token: bool | str | None,
    cache_dir: str | os.PathLike[str] | None,
    num_proc: int | None,
    options: dict[str, Any],
    streaming: bool,
) -> Found:
    """A dataset of the Hub: its README's configs, else files by name; else the Parquet the Hub made of it."""
    snapshot = _opened(path, revision, token, cache_dir)
    names = snapshot.list()
    config = config_of(snapshot.file("README.md") if "README.md" in names else None, name, data_dir, data_files, path)
    split_names = _matched(names, config, path)
    files = {split: [_file(snapshot, each, token, streaming) for each in group] for split, group in split_names.items()}
    if any(infer_kind(group) is not None for group in files.values()):
        return found_of(path.rpartition("/")[2], config, files, num_proc, options, path)
    if revision is not None or config.data_files is not None:
        raise DatasetNotFoundError(path, "holds no data files of a known format", found=_few(names))
    return _from_parquet_branch(path, name, token, cache_dir, num_proc, options, streaming, names)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) or "no files"


def _opened(path: str, revision: str | None, token: bool | str | None, cache_dir: Any) -> Snapshot:
    from huggingface_hub import constants

    hub_cache = os.path.join(cache_dir, "hub") if cache_dir is not None else None
    try:
        snapshot = open_snapshot(path, revision=revision, token=token, cache_dir=hub_cache, kind="dataset")
        if not snapshot.list() and constants.HF_HUB_OFFLINE:
            rule = "is in no cache, and the network is not to be used"
            raise OfflineError(path, rule, remedy="Unset HF_HUB_OFFLINE to fetch it.")
        return snapshot
    except OfflineError:
        raise
    except HubError as problem:
        raise DatasetNotFoundError(path, "is no format, folder, or name on the Hub", found=problem.found) from problem


def _file(snapshot: Snapshot, name: str, token: bool | str | None, streaming: bool) -> DataFile:
    if not streaming:
        return DataFile(str(snapshot.require(name)))
    revision = (snapshot.revision or "main").replace("/", "%2F")
    return DataFile(f"hf://datasets/{snapshot.name}@{revision}/{name}", storage_options={"token": token})


def _matched(names: tuple[str, ...], config: Config, where: str) -> dict[str, list[str]]:
    """The repository's files of each split, by the configuration's patterns or by their names."""
    top = f"{config.data_dir.strip('/')}/" if config.data_dir else ""
    inside = [name.removeprefix(top) for name in names if name.startswith(top)]
    if config.data_files is None:
        return {split: [top + name for name in group] for split, group in guess_splits(inside).items()}
    from fsspec.utils import glob_translate  # type: ignore[attr-defined,unused-ignore]

    found: dict[str, list[str]] = {}
    for split, patterns in by_split(config.data_files).items():
        chosen: dict[str, None] = {}
        for pattern in patterns:
            import re

            shape = re.compile(glob_translate(pattern))
            matched = [name for name in inside if name == pattern or shape.match(name)]
            if not matched:
                raise DatasetNotFoundError(
                    f"{where}: {pattern}", "no file matches", found=", ".join(inside[:8]) or "no files"
                )
            chosen.update(dict.fromkeys(matched))
        found[split] = [top + name for name in chosen]
    return found


def _from_parquet_branch(
    path: str,
    name: str | None,
    token: Any,
    cache_dir: Any,
    num_proc: int | None,
    options: dict[str, Any],
    streaming: bool,
    names: tuple[str, ...],
) -> Found:
    try:
        snapshot = _opened(path, PARQUET_BRANCH, token, cache_dir)
        made = snapshot.list()
        if not _parquet_configs(made):
            raise DatasetNotFoundError(path, "has no Parquet of the Hub's", found=_few(made))
    except OfflineError as problem:
        remedy = "Unset HF_HUB_OFFLINE to ask the Hub for its Parquet."
        raise OfflineError(path, "holds no data files that are cached", found=_few(names), remedy=remedy) from problem
    except HubError as problem:
        found = _few(names)
        raise DatasetNotFoundError(
            path, "holds no data files, and the Hub has made no Parquet of it", found=found
        ) from problem
    configs = _parquet_configs(made)
    config = pick([Config(each) for each in configs], name, path)
    files = {
        split: [_file(snapshot, each, token, streaming) for each in group]
        for split, group in configs[config.name].items()
    }
    return found_of(path.rpartition("/")[2], config, files, num_proc, options, path)


def _parquet_configs(names: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """config/split/0000.parquet, as the branch is laid out."""
    configs: dict[str, dict[str, list[str]]] = {}
    for each in names:
        parts = PurePosixPath(each).parts
        if len(parts) == 3 and each.endswith(".parquet"):
            configs.setdefault(parts[0], {}).setdefault(parts[1].removeprefix("partial-"), []).append(each)
    return configs


def list_datasets(
    *,
    filter: Any = None,
    author: str | None = None,
    search: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    token: bool | str | None = None,
) -> Iterator[Any]:
    """Datasets of the Hub, as huggingface_hub describes them, lazily; by tags, author, words; sorted, so many."""
    import huggingface_hub
    from huggingface_hub import errors

    api = huggingface_hub.HfApi(token=token)
    try:
        yield from api.list_datasets(filter=filter, author=author, search=search, sort=sort, limit=limit)  # type: ignore[arg-type]
    except (errors.HfHubHTTPError, OSError, ValueError) as problem:
        raise HubError("the Hub", "could not be searched", found=str(problem)[:200]) from problem


def get_dataset_config_names(
    path: str,
    revision: str | None = None,
    download_config: Any = None,
    download_mode: Any = None,
    data_files: Any = None,
    token: bool | str | None = None,
    **options: Any,
) -> list[str]:
    """The configurations of a dataset: of its README, of the Hub's Parquet, or "default"."""
    token = token if token is not None else getattr(download_config, "token", None)
    if data_files is not None or options:
        return [_found(path, None, revision, data_files, token, options).config_name]
    if path in SOURCES:
        return ["default"]
    if os.path.isdir(path):
        readme = Path(path, "README.md")
        text = readme.read_text("utf-8") if readme.is_file() else ""
        return [config.name for config in read_configs(text, path)] or ["default"]
    snapshot = _opened(path, revision, token, None)
    names = snapshot.list()
    readme_file = snapshot.file("README.md") if "README.md" in names else None
    configs = read_configs(readme_file.read_text("utf-8"), path) if readme_file is not None else []
    if configs:
        return [config.name for config in configs]
    if infer_kind([DataFile(name) for name in names if not name.endswith(".zip")]) is not None:
        return ["default"]
    return list(_parquet_configs(_opened(path, PARQUET_BRANCH, token, None).list())) or ["default"]


def get_dataset_split_names(
    path: str,
    config_name: str | None = None,
    data_files: Any = None,
    download_config: Any = None,
    download_mode: Any = None,
    revision: str | None = None,
    token: bool | str | None = None,
    **options: Any,
) -> list[str]:
    """The splits of a configuration, without reading its data."""
    token = token if token is not None else getattr(download_config, "token", None)
    return list(_found(path, config_name, revision, data_files, token, options).files)


def get_dataset_config_info(
    path: str,
    config_name: str | None = None,
    data_files: Any = None,
    download_config: Any = None,
    download_mode: Any = None,
    revision: str | None = None,
    token: bool | str | None = None,
    **options: Any,
) -> DatasetInfo:
    """What is known of a configuration before its data is read: its splits; of its card features, rows and bytes."""
    token = token if token is not None else getattr(download_config, "token", None)
    found = _found(path, config_name, revision, data_files, token, options)
    info = info_of(found)
    if info.splits is None:
        info.splits = SplitDict({split: SplitInfo(split, dataset_name=found.name) for split in found.files})
    return info


def get_dataset_infos(
    path: str,
    data_files: Any = None,
    download_config: Any = None,
    download_mode: Any = None,
    revision: str | None = None,
    token: bool | str | None = None,
    **options: Any,
) -> dict[str, DatasetInfo]:
    """`get_dataset_config_info` of each configuration."""
    names = get_dataset_config_names(path, revision, download_config, download_mode, data_files, token, **options)
    return {
        name: get_dataset_config_info(
            path, name, data_files, download_config, download_mode, revision, token, **options
        )
        for name in names
    }


def get_dataset_default_config_name(
    path: str,
    revision: str | None = None,
    download_config: Any = None,
    download_mode: Any = None,
    data_files: Any = None,
    token: bool | str | None = None,
    **options: Any,
) -> str | None:
    """The configuration taken when none is named; None if one must be named."""
    names = get_dataset_config_names(path, revision, download_config, download_mode, data_files, token, **options)
    if len(names) == 1:
        return names[0]
    try:
        return _found(path, None, revision, data_files, token, options).config_name
    except ArgumentError:
        return None


def _found(
    path: str, name: str | None, revision: str | None, data_files: Any, token: Any, options: dict[str, Any]
) -> Found:
    # streaming: nothing but the listing and the README is fetched
    found = find(path, name, None, data_files, revision, token, None, None, None, options, True)
    return replace(found, config_name=name or found.config_name)
