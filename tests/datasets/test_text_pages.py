"""Snippets of the text pages of Hugging Face's documentation that once came out otherwise, beside their library."""

import gc
from pathlib import Path

import datasets as theirs
import pyarrow as pa
import pytest

import martlet.datasets as ours
from martlet.errors import ArgumentError

GLUE = """---
dataset_info:
  features:
  - name: label
    dtype:
      class_label:
        names:
          '0': entailment
          '1': neutral
          '2': contradiction
  splits:
  - name: train
    num_examples: 3
    num_bytes: 24
  - name: test
    num_examples: 2
    num_bytes: 16
configs:
- config_name: default
  data_files:
  - split: train
    path: train.csv
  - split: test
    path: test.csv
---
"""


@pytest.fixture
def glue(tmp_path):
    folder = tmp_path / "glue"
    folder.mkdir()
    (folder / "README.md").write_text(GLUE)
    (folder / "train.csv").write_text("label\n0\n1\n2\n")
    (folder / "test.csv").write_text("label\n2\n-1\n")
    return str(folder)


def test_a_split_that_is_loaded_knows_of_the_others(glue, tmp_path):
    for lib in (ours, theirs):
        more = {"cache_dir": str(tmp_path / "cache")} if lib is theirs else {}
        for ds in (lib.load_dataset(glue, split="train", **more), lib.load_dataset(glue, **more)["test"]):
            assert {name: split.num_examples for name, split in ds.info.splits.items()} == {"train": 3, "test": 2}


def test_splits_asked_for_by_name_make_a_dict_of_datasets(glue, tmp_path):
    asked = {"a": "train[:2]", "b": "test"}
    for lib in (ours, theirs):
        more = {"cache_dir": str(tmp_path / "cache")} if lib is theirs else {}
        found = lib.load_dataset(glue, split=asked, **more)
        assert type(found) is lib.DatasetDict and found.num_rows == {"a": 2, "b": 2}
    streams = ours.load_dataset(glue, split={"b": "test"}, streaming=True)
    assert type(streams) is ours.IterableDatasetDict and list(streams["b"]) == [{"label": 2}, {"label": -1}]
    assert isinstance(ours.load_dataset(glue, split=["train", "test"]), list)


@pytest.mark.parametrize("saver", [ours, theirs])
def test_load_dataset_reads_what_save_to_disk_wrote(tmp_path, saver):
    whole = saver.Dataset.from_dict({"a": [1, 2, 3]}, features=saver.Features({"a": saver.Value("int8")}))
    whole.save_to_disk(str(tmp_path / "one"), num_shards=2)
    both = saver.DatasetDict({"mine": whole.select([1, 2]), "train": whole})
    both.save_to_disk(str(tmp_path / "both"))
    (tmp_path / "one" / "cache-1.arrow").write_bytes(b"not of the dataset")
    one = ours.load_dataset(str(tmp_path / "one"), split="train")
    assert one["a"][:] == [1, 2, 3] and one.features == {"a": ours.Value("int8")}
    splits = ours.load_dataset(str(tmp_path / "both"))
    assert splits["mine"]["a"][:] == [2, 3] and splits["train"]["a"][:] == [1, 2, 3]
    assert list(ours.load_dataset(str(tmp_path / "one"), split="train", streaming=True)) == whole.to_list()


def test_load_dataset_of_a_saved_pick_of_rows_says_what_reads_it(tmp_path):
    ours.Dataset.from_dict({"a": [1]}).save_to_disk(str(tmp_path / "one"))
    state = tmp_path / "one" / "state.json"
    state.write_text(state.read_text().replace("{", '{"_indices_data_files": [{"filename": "i.arrow"}],', 1))
    with pytest.raises(ArgumentError, match="load_from_disk"):
        ours.load_dataset(str(tmp_path / "one"))


def test_data_is_a_table_that_holds_pyarrows():
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    for lib in (ours, theirs):
        data = lib.Dataset(table).data
        assert data.table.equals(table, check_metadata=False) and data.num_rows == len(data) == 2
        assert data.column("a").to_pylist() == data["a"].to_pylist() == [1, 2] and data.column_names == ["a", "b"]
        assert data.to_pandas().shape == (2, 2) and data.schema.names == ["a", "b"] and data.nbytes > 0
        assert lib.Dataset(data)[:] == {"a": [1, 2], "b": ["x", "y"]}
    data = ours.Dataset(table).data
    assert data == ours.Dataset(table).data and data != ours.Dataset.from_dict({"a": [1]}).data
    assert pa.table(data).equals(table) and isinstance(data, ours.table.Table)
    with pytest.raises(AttributeError, match="no_such"):
        _ = data.no_such


def test_a_row_without_a_label_stays_without_one_when_labels_are_aligned(glue):
    mapping = {"contradiction": 0, "neutral": 1, "entailment": 2}
    aligned = ours.load_dataset(glue).align_labels_with_mapping(mapping, "label")
    assert aligned["train"]["label"][:] == [2, 1, 0] and aligned["test"]["label"][:] == [0, -1]


def test_a_slice_of_a_split_is_not_written_once_more_for_workers(glue, monkeypatch):
    monkeypatch.setattr("martlet.datasets.stored.SENT_BYTES", 1)
    part = ours.load_dataset(glue, split="train[1:]")
    assert part.data.num_rows == len(part) == 2 and part["label"][:] == [1, 2]
    assert part._stored.in_files(None) is part._stored  # so it is mapped from the file it lies in
    assert part.map(lambda row: {"n": row["label"] + 1}, num_proc=2)["n"][:] == [2, 3]
    both = ours.load_dataset(glue, split="train[1:]+test[:1]")
    assert both["label"][:] == [1, 2, 2] and both.data.num_rows == 3


def test_the_copy_of_a_folder_at_a_url_goes_with_its_dataset(tmp_path):
    import fsspec

    ours.Dataset.from_dict({"a": [1, 2]}).save_to_disk("memory://saved/one")
    try:
        loaded = ours.load_from_disk("memory://saved/one")
        (file,) = {entry["filename"] for entry in loaded.cache_files}
        kept = loaded.select([1])
        del loaded
        assert Path(file).is_file() and kept["a"][:] == [2]
        del kept
        gc.collect()
        assert not Path(file).parent.exists()
    finally:
        fsspec.filesystem("memory").rm("/saved", recursive=True)
