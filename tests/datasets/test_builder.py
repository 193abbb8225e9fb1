"""What is known of a dataset before it is read, its card held to what it says, and Hugging Face's names of it all."""

import importlib
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import martlet.datasets
from martlet.datasets import (
    ClassLabel,
    DatasetInfo,
    DownloadConfig,
    DownloadMode,
    Features,
    Value,
    VerificationMode,
    Version,
    get_dataset_config_info,
    get_dataset_config_names,
    get_dataset_default_config_name,
    get_dataset_infos,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
)
from martlet.errors import ArgumentError, DataFileError, UnsupportedError

CARD = """---
dataset_info:
  features:
  - name: id
    dtype: int32
  - name: label
    dtype:
      class_label:
        names: {'0': 'no', '1': 'yes'}
  splits:
  - name: train
    num_bytes: 60
    num_examples: 5
  - name: test
    num_bytes: 36
    num_examples: 3
  download_size: 100
  dataset_size: 96
---
# Text
"""


@pytest.fixture
def folder(tmp_path):
    top = tmp_path / "made"
    top.mkdir()
    for split, rows in (("train", 5), ("test", 3)):
        lines = "".join(json.dumps({"id": i, "label": i % 2}) + "\n" for i in range(rows))
        (top / f"{split}.jsonl").write_text(lines)
    (top / "README.md").write_text(CARD)
    return top


FEATURES = Features({"id": Value("int32"), "label": ClassLabel(names=["no", "yes"])})


def test_what_the_card_says(folder):
    builder = load_dataset_builder(str(folder))
    info = builder.info
    assert info.features == FEATURES
    assert {name: split.num_examples for name, split in info.splits.items()} == {"train": 5, "test": 3}
    assert (info.dataset_size, info.download_size, info.size_in_bytes) == (96, 100, 196)
    assert (builder.name, builder.dataset_name, builder.config.name) == ("json", "made", "default")
    assert get_dataset_config_info(str(folder)) == info
    assert get_dataset_infos(str(folder)) == {"default": info}
    assert get_dataset_split_names(str(folder)) == ["train", "test"]
    assert get_dataset_config_names(str(folder)) == ["default"]
    assert get_dataset_default_config_name(str(folder)) == "default"
    assert load_dataset(str(folder), split="train").features == FEATURES


def test_three_ways_to_the_rows(folder):
    builder = load_dataset_builder(str(folder))
    assert builder.as_dataset("test[1:]")[:] == {"id": [1, 2], "label": [1, 0]}
    assert [row["id"] for row in builder.as_streaming_dataset(split="train")] == [0, 1, 2, 3, 4]
    assert {split: len(rows) for split, rows in builder.as_dataset().items()} == {"train": 5, "test": 3}


@pytest.mark.parametrize("form", ["arrow", "parquet", "json"])
def test_rows_as_files_elsewhere(folder, tmp_path, form):
    for out in (str(tmp_path / "out"), f"memory://{form}/out"):
        load_dataset_builder(str(folder)).download_and_prepare(out, file_format=form, max_shard_size="40B")
        train = load_dataset(form, data_files=f"{out}/made-train-*-of-00002.{form}", split="train")
        assert train[:]["id"] == [0, 1, 2, 3, 4]
    info = DatasetInfo.from_directory(tmp_path / "out")
    assert info.features == FEATURES
    assert info.version == "0.0.0"


def test_rows_that_are_not_as_the_card_says(folder):
    with open(folder / "test.jsonl", "a") as file:
        file.write('{"id": 9, "label": 0}\n')
    with pytest.raises(DataFileError, match="must have the 3 rows"):
        load_dataset(str(folder))
    assert len(load_dataset(str(folder), split="train")) == 5
    assert len(load_dataset(str(folder), split="test", verification_mode="no_checks")) == 4
    (folder / "test.jsonl").unlink()
    with pytest.raises(DataFileError, match="splits of its card: train, test"):
        load_dataset(str(folder))
    assert list(load_dataset(str(folder), verification_mode=VerificationMode.NO_CHECKS)) == ["train"]


def test_modes_and_configs_of_downloads(folder):
    config = DownloadConfig(num_proc=1, token="x", storage_options={})
    again = load_dataset(str(folder), download_mode=DownloadMode.FORCE_REDOWNLOAD, download_config=config)
    assert len(again["train"]) == 5
    for name, value in (("download_mode", "never"), ("verification_mode", "some"), ("download_config", "x")):
        with pytest.raises(ArgumentError, match=name):
            load_dataset(str(folder), **{name: value})
    with pytest.raises(UnsupportedError, match="HF_HUB_OFFLINE"):
        DownloadConfig(local_files_only=True)


def test_sizes_of_what_was_loaded(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": list(range(100)), "b": [f"row {i}" for i in range(100)]}), path)
    ours = load_dataset("parquet", data_files=str(path), split="train")
    theirs = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "theirs"))
    for name in ("download_size", "builder_name", "config_name"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.dataset_size == ours.data.nbytes == ours.size_in_bytes - ours.download_size
    assert str(ours.version) == str(theirs.version)
    assert ours.info.splits["train"].num_examples == theirs.info.splits["train"].num_examples


def test_versions():
    assert Version("1.2.3") == "1.2.3" < Version("1.10.0")
    assert DatasetInfo.from_dict(DatasetInfo(version="1.2.3").to_dict()).version.minor == 2
    with pytest.raises(ArgumentError):
        Version("1.2")


@pytest.mark.parametrize("name", ["Video", "Pdf", "Nifti", "Mesh"])
def test_kinds_that_are_not_there(name):
    with pytest.raises(UnsupportedError, match=name):
        getattr(martlet.datasets, name)()
    with pytest.raises(UnsupportedError, match=name):
        Features.from_dict({"a": {"_type": name}})


def test_how_much_is_said(monkeypatch):
    log = logging.getLogger("martlet.datasets")
    monkeypatch.setattr(log, "level", log.level)
    say = martlet.datasets.utils.logging
    say.set_verbosity_error()
    assert say.get_verbosity() == martlet.datasets.logging.ERROR == log.level
    martlet.datasets.disable_progress_bars()
    assert martlet.datasets.are_progress_bars_disabled() and not say.is_progress_bar_enabled()
    martlet.datasets.enable_progress_bars()
    assert not martlet.datasets.are_progress_bars_disabled()
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    assert martlet.datasets.are_progress_bars_disabled()


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("arrow_dataset", "Dataset"),
        ("iterable_dataset", "IterableDataset"),
        ("dataset_dict", "DatasetDict"),
        ("distributed", "split_dataset_by_node"),
        ("exceptions", "DatasetNotFoundError"),
        ("exceptions", "DatasetGenerationError"),
        ("fingerprint", "Hasher"),
        ("features", "Features"),
        ("utils", "disable_progress_bars"),
        ("utils.logging", "set_verbosity_error"),
    ],
)
def test_where_names_live(place, name):
    assert getattr(importlib.import_module(f"martlet.datasets.{place}"), name) is not None


def test_a_key_of_a_function():
    hasher = martlet.datasets.fingerprint.Hasher
    assert hasher.hash(len) != hasher.hash(max)
    assert hasher.hash([1, "a"]) == hasher.hash([1, "a"])
