"""Behaviours that scripts written for Hugging Face's library lean on."""

import itertools

import numpy as np
import pytest

from martlet.datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk
from martlet.errors import ArgumentError, DataFileError


def test_a_picture_is_a_tensor_of_bytes():
    pytest.importorskip("PIL")
    torch = pytest.importorskip("torch")
    from PIL import Image

    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    ds = Dataset.from_dict({"image": [Image.fromarray(pixels)] * 2}).with_format("torch")
    assert ds[0]["image"].dtype == torch.uint8
    assert torch.equal(ds[:]["image"], torch.tensor(pixels.transpose(2, 0, 1)).expand(2, 3, 2, 3))


def test_whatever_gives_an_array():
    class Anything:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3, dtype=dtype)

    assert Dataset.from_dict({"a": [Anything()]})[0] == {"a": [0, 1, 2]}
    assert Dataset.from_dict({"a": [1]}).map(lambda row: {"b": Anything()})[0]["b"] == [0, 1, 2]
    stream = IterableDataset.from_generator(lambda: iter([{"a": Anything()}])).with_format("numpy")
    assert next(iter(stream))["a"].tolist() == [0, 1, 2]


def test_an_endless_key_is_none():
    with pytest.raises(TypeError):
        Dataset.from_dict({"a": [1]})[itertools.count()]


def test_processes_ask_for_as_many_files(tmp_path):
    ds = Dataset.from_dict({"a": list(range(10))})
    ds.save_to_disk(tmp_path / "one", num_proc=3)
    DatasetDict(train=ds).save_to_disk(tmp_path / "two", num_proc=2)
    one, two = load_from_disk(tmp_path / "one"), load_from_disk(tmp_path / "two")["train"]
    assert (len(one.cache_files), len(two.cache_files)) == (3, 2)
    assert one[:] == two[:] == ds[:]


def test_sizes_and_numbers_of_shards_exclude_each_other():
    with pytest.raises(ArgumentError, match="not both"):
        Dataset.from_dict({"a": [1]}).push_to_hub("me/made", max_shard_size="1MB", num_shards=1)


def test_parquet_that_is_broken(tmp_path, caplog):
    for number in range(3):
        Dataset.from_dict({"a": [number]}).to_parquet(tmp_path / f"{number}.parquet")
    (tmp_path / "1.parquet").write_bytes(b"PAR1 nothing")
    files = str(tmp_path / "*.parquet")
    for streaming in (False, True):
        with pytest.raises(DataFileError, match=r"1\.parquet"):
            list(load_dataset("parquet", data_files=files, split="train", streaming=streaming))
        ds = load_dataset("parquet", data_files=files, split="train", streaming=streaming, on_bad_files="skip")
        assert list(ds) == [{"a": 0}, {"a": 2}]
    assert "1.parquet" in caplog.text


def test_a_stream_is_resharded():
    assert list(IterableDataset.from_dict({"a": [1, 2]}).reshard()) == [{"a": 1}, {"a": 2}]


def test_several_splits_at_once(tmp_path):
    for name, count in (("train", 10), ("test", 4)):
        Dataset.from_dict({"a": list(range(count))}).to_json(tmp_path / f"{name}.jsonl")
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    for streaming in (False, True):
        made = load_dataset("json", data_files=files, split=["train[:20%]", "test"], streaming=streaming)
        assert [[row["a"] for row in rows] for rows in made] == [[0, 1], [0, 1, 2, 3]]
        named = load_dataset("json", data_files=files, split={"all": "train+test"}, streaming=streaming)
        assert len(list(named["all"])) == 14


def test_files_are_the_split_that_is_named(tmp_path):
    Dataset.from_dict({"a": list(range(4))}).to_csv(tmp_path / "a.csv")
    path = str(tmp_path / "a.csv")
    assert Dataset.from_csv(path).split == "train"
    assert Dataset.from_csv(path, split="test").split == "test"
    assert Dataset.from_csv({"one": path, "two": path}, split="two").split == "two"
    assert Dataset.from_csv(path, split="train[:2]")[:] == {"a": [0, 1]}


def test_a_size_beside_columns_to_batch_by():
    rows = {"a": [1, 1, 1, 2], "b": [0, 1, 2, 3]}
    for ds in (Dataset.from_dict(rows), IterableDataset.from_dict(rows)):
        assert [row["b"] for row in ds.batch(batch_size=2, by_column="a")] == [[0, 1, 2], [3]]


def test_scalars_of_numpy_keep_their_kind():
    ds = Dataset.from_dict(
        {"a": [np.float32(0.5), None], "b": [np.int8(1), np.int8(2)], "c": [np.int8(1), np.int16(2)]}
    )
    assert {name: kind.dtype for name, kind in ds.features.items()} == {"a": "float32", "b": "int8", "c": "int64"}
    made = ds.map(lambda row: {"d": np.float16(row["b"])})
    assert made.features["d"].dtype == "float16"
    assert made[0] == {"a": 0.5, "b": 1, "c": 1, "d": 1.0}


@pytest.mark.parametrize("library", ["martlet.datasets", "datasets"])
def test_rows_that_are_handed_back(library):
    made = pytest.importorskip(library).Dataset

    def rowwise(row):
        row["b"] = row["a"] + 1
        return row

    def batched(rows):
        rows["b"] = [value + 1 for value in rows["a"]]
        return rows

    for columns in ({"a": [0, 1]}, {"a": [0, 1], "z": ["x", "y"]}):
        ds = made.from_dict(columns)
        assert ds.map(rowwise, remove_columns=["a"])[0] == {**{n: v[0] for n, v in columns.items() if n != "a"}, "b": 1}
        assert ds.map(batched, batched=True, remove_columns=ds.column_names)[:] == {"b": [1, 2]}
        assert ds.map(lambda row: dict(rowwise(row)), remove_columns=["a"])[0]["a"] == 0


@pytest.mark.parametrize("library", ["martlet.datasets", "datasets"])
def test_columns_of_a_format_after_map(library):
    ds = (
        pytest.importorskip(library)
        .Dataset.from_dict({"a": [1, 2], "z": ["x", "y"]})
        .with_format("numpy", columns=["a"])
    )
    made = ds.map(lambda row: {"b": row["a"] + 1})
    assert list(made[0]) == ["a", "b"]
    assert isinstance(made["b"][:], np.ndarray)
    assert list(ds.add_column("n", [1, 2])[0]) == ["a", "n"]
    assert list(made.map(lambda row: {"c": 1}, remove_columns=["a"])[0]) == ["b", "c"]


@pytest.mark.parametrize("library", ["martlet.datasets", "datasets"])
def test_a_struct_with_other_fields(library):
    ds = pytest.importorskip(library).Dataset.from_dict({"a": [{"x": 1}], "b": [[{"x": 1}]]})
    assert ds.map(lambda row: {"a": {"y": "z"}, "b": [{"x": 2, "y": 3}]})[0] == {
        "a": {"y": "z"},
        "b": [{"x": 2, "y": 3}],
    }


@pytest.mark.parametrize("library", ["martlet.datasets", "datasets"])
def test_small_promises(library):
    torch = pytest.importorskip("torch")
    ds = pytest.importorskip(library).Dataset.from_dict({"a": ["x", "y"]})
    tensors = ds.map(lambda batch: {"t": torch.ones(len(batch["a"]), 3)}, batched=True)
    assert tensors.features["t"].feature.dtype == "float32"
    assert ds.add_item({"a": 4})["a"][:] == ["x", "y", "4"]
    for call in (lambda: ds.repeat(None), lambda: ds.to_iterable_dataset(num_shards=3)):
        with pytest.raises((ValueError, TypeError)):
            call()
