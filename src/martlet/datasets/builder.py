"""load_dataset_builder: what is known of a dataset before its rows are read, and its rows as files elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.datasets import elsewhere
from martlet.datasets.arguments import verb
from martlet.datasets.features import Features
from martlet.datasets.info import INFO_FILE
from martlet.datasets.load import Found, each_split, find, info_of, open_split
from martlet.datasets.modes import DownloadMode, VerificationMode, fetching, mode_of
from martlet.datasets.splits import SplitDict, SplitInfo
from martlet.errors import ArgumentError

if TYPE_CHECKING:
    from martlet.datasets.dataset import Dataset
    from martlet.datasets.info import DatasetInfo

FORMATS = ("arrow", "parquet", "json")


@dataclass
class BuilderConfig:
    """A configuration: its name and the files of each split."""

    name: str = "default"
    data_files: dict[str, list[str]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


class DatasetBuilder:
    """A dataset that was found and is not read yet: `info`, `config`, and the three ways to its rows."""

    def __init__(self, found: Found, cache_dir: str | os.PathLike[str] | None, is_forced: bool = False) -> None:
        self._found, self._cache_dir = found, cache_dir
        self._anew = set(found.files) if is_forced else set()  # splits to be converted once more
        self._folder: str | None = None
        files = {split: [file.url for file in group] for split, group in found.files.items()}
        self.config = BuilderConfig(found.config_name, files, found.source.options())
        self._info = info_of(found)
        if self._info.splits is None:
            self._info.splits = SplitDict({split: SplitInfo(split, dataset_name=found.name) for split in found.files})

    @property
    def info(self) -> DatasetInfo:
        """What its card says of it; `features` that the card does not say are those of its first rows."""
        if self._info.features is None:
            streams = self.as_streaming_dataset()
            self._info.features = next((ds.features for ds in streams.values()), None)
        return self._info

    @property
    def name(self) -> str:
        """The format."""
        return self._found.source.kind

    @property
    def dataset_name(self) -> str:
        """The dataset."""
        return self._found.name

    @property
    def cache_dir(self) -> str:
        """The folder of the cache that its rows are kept in."""
        from martlet.datasets import cache

        with cache.in_folder(self._cache_dir):
            return str(cache.cache_folder())

    @verb
    def download_and_prepare(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        download_config: Any = None,
        download_mode: Any = None,
        verification_mode: Any = None,
        file_format: str = "arrow",
        max_shard_size: int | str | None = None,
        num_proc: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Converts all splits, into the cache, or with `output_dir` (a folder or a URL of fsspec's) into files there.

        The files are {dataset}-{split}.{file_format}, in shards of `max_shard_size` (500MB) with -00000-of-00002, and
        dataset_info.json. `file_format` is "arrow", "parquet" or "json".
        """
        if file_format not in FORMATS:
            raise ArgumentError("file_format", f"must be one of {', '.join(FORMATS)}", found=repr(file_format))
        is_forced = download_config is not None and bool(download_config.force_download)
        if is_forced or mode_of(DownloadMode, download_mode, "download_mode") is DownloadMode.FORCE_REDOWNLOAD:
            self._anew = set(self._found.files)
        if num_proc is None and download_config is not None:
            num_proc = download_config.num_proc
        if num_proc is not None:
            self._found.source.num_threads = num_proc
        splits = self.as_dataset(verification_mode=verification_mode)
        if output_dir is None:
            return
        self._folder = folder = os.fspath(output_dir)
        for split, dataset in splits.items():
            self._write(dataset, f"{folder}/{self.dataset_name}-{split}", file_format, max_shard_size, storage_options)
        self.info.features = next(iter(splits.values())).features if splits else self.info.features
        self._write_info(folder, storage_options)

    def _write(self, dataset: Dataset, start: str, form: str, max_shard_size: Any, storage: Any) -> None:
        from martlet.datasets.saving import num_shards_of

        count = num_shards_of(dataset, max_shard_size)
        if "://" not in start:
            Path(start).parent.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            name = start if count == 1 else f"{start}-{number:05d}-of-{count:05d}"
            part = dataset if count == 1 else dataset.shard(count, number, contiguous=True)
            if form == "arrow":
                _write_arrow(part, f"{name}.arrow", storage)
            else:
                getattr(part, f"to_{form}")(f"{name}.{form}", storage_options=storage)

    def _write_info(self, folder: str, storage_options: Any) -> None:
        if "://" not in folder:
            self.info.write_to_directory(folder)
            return
        import json

        import fsspec

        with fsspec.open(f"{folder}/{INFO_FILE}", "w", **(storage_options or {})) as file:
            file.write(json.dumps(self.info.to_dict()))

    @verb
    def as_dataset(self, split: Any = None, verification_mode: Any = None, in_memory: bool = False) -> Any:
        """A DatasetDict, or the Dataset of a split or of some of its rows; converted now if it is not in the cache."""
        mode = mode_of(VerificationMode, verification_mode or "basic_checks", "verification_mode")
        found, cache, anew = self._found, self._cache_dir, self._anew
        return each_split(split, lambda one: open_split(found, one, cache, mode, anew, in_memory=in_memory))

    @verb
    def as_streaming_dataset(self, split: Any = None, base_path: str | None = None) -> Any:
        """An IterableDatasetDict, or the IterableDataset of a split."""
        if base_path is not None:
            remedy = "Give load_dataset_builder() another data_dir= or data_files=."
            raise ArgumentError("as_streaming_dataset()", "the files are found already", found=base_path, remedy=remedy)
        from martlet.datasets.slicing import as_instruction
        from martlet.datasets.streams.opening import open_streams

        return open_streams(self._found, None if split is None else as_instruction(split))

    def __repr__(self) -> str:
        return f"DatasetBuilder({self.dataset_name}, {self.config.name}: {', '.join(self._found.files)})"


def _write_arrow(dataset: Dataset, name: str, storage_options: Any) -> None:
    import pyarrow as pa

    from martlet.datasets.writing import opened

    with opened(name, storage_options, None) as file, pa.ipc.new_stream(file, dataset.features.arrow_schema) as writer:
        for table in dataset._tables(10_000):
            writer.write_table(table)


def load_dataset_builder(
    path: str,
    name: str | None = None,
    data_dir: str | None = None,
    data_files: Any = None,
    cache_dir: str | os.PathLike[str] | None = None,
    features: Features | None = None,
    download_config: Any = None,
    download_mode: Any = None,
    revision: str | None = None,
    token: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **config_kwargs: Any,
) -> DatasetBuilder:
    """The dataset, found and not read: what `load_dataset` would load, with `info` from its card. Errors as there."""
    given = {"token": token, "storage_options": storage_options, "cache_dir": cache_dir, "num_proc": None}
    how = fetching(download_config, given)
    mode = mode_of(DownloadMode, download_mode, "download_mode")
    found = find(
        path,
        name,
        data_dir,
        data_files,
        revision,
        how["token"],
        how["cache_dir"],
        how["storage_options"],
        how["num_proc"],
        config_kwargs,
        False,
    )
    if features is not None:
        found.features = Features(features)
    return DatasetBuilder(found, how["cache_dir"], mode is DownloadMode.FORCE_REDOWNLOAD)


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
