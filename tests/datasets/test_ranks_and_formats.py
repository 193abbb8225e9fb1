"""Streams split between ranks and put together, their functions in a format, and what is sent to another process."""

import json
import pickle

import pytest

from martlet.datasets import (
    ClassLabel,
    Dataset,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    get_dataset_config_names,
    interleave_datasets,
    load_dataset,
    split_dataset_by_node,
)
from martlet.errors import ArgumentError, FeatureError, OfflineError


def generated(shards):
    for shard in shards:
        yield from ({"id": 2 * shard + i} for i in range(2))


def shards_of(count):
    return IterableDataset.from_generator(generated, gen_kwargs={"shards": list(range(count))})


def ids(stream):
    return [row["id"] for row in stream]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("strategy", ["auto", "examples"])
def test_what_is_split_stays_split_when_put_together(axis, strategy):
    one = IterableDataset.from_dict({"a": list(range(12))}, num_shards=3)
    two = IterableDataset.from_dict({"ab"[axis]: list(range(100, 112))}, num_shards=4)
    whole = list(concatenate_datasets([one, two], axis=axis))
    seen = []
    for rank in range(2):
        parts = [split_dataset_by_node(each, rank, 2, strategy) for each in (one, two)]
        seen += (rows := list(concatenate_datasets(parts, axis=axis)))
        assert rows == list(split_dataset_by_node(concatenate_datasets([one, two], axis=axis), rank, 2, strategy))
    assert sorted(map(str, seen)) == sorted(map(str, whole))


@pytest.mark.parametrize("join", [concatenate_datasets, interleave_datasets])
def test_streams_of_different_ranks_are_not_put_together(join):
    stream = shards_of(4)
    with pytest.raises(ArgumentError, match="identically split"):
        join([split_dataset_by_node(stream, 0, 2), stream])


def test_strategies():
    whole = ids(shards_of(6))
    rows = [ids(split_dataset_by_node(shards_of(6), rank, 3, strategy="examples")) for rank in range(3)]
    assert rows == [whole[rank::3] for rank in range(3)]
    parts = [split_dataset_by_node(shards_of(5), rank, 3, strategy="shards") for rank in range(3)]
    assert [ids(part) for part in parts] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5]]
    assert [part.num_shards for part in parts] == [2, 2, 1]
    counted = IterableDataset.from_dict({"id": list(range(12))}, num_shards=6)
    parts = [split_dataset_by_node(counted, rank, 3, strategy="shards") for rank in range(3)]
    assert [ids(part) for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert sorted(i for part in parts for i in ids(part.shuffle(seed=1))) == list(range(12))
    with pytest.raises(ArgumentError, match="num_shards=2"):
        split_dataset_by_node(shards_of(2), 0, 3, strategy="shards")
    with pytest.raises(ArgumentError, match="cannot change"):
        split_dataset_by_node(split_dataset_by_node(shards_of(6), 0, 2, "examples"), 0, 2, "shards")
    with pytest.raises(ArgumentError, match="'auto'"):
        split_dataset_by_node(Dataset.from_dict({"id": [1, 2]}), 0, 2, strategy="shards")


def test_a_split_by_examples_goes_on_where_it_was():
    stream = split_dataset_by_node(shards_of(6), 1, 2, strategy="examples")
    walk = iter(stream)
    first = [next(walk)["id"] for _ in range(2)]
    again = split_dataset_by_node(shards_of(6), 1, 2, strategy="examples")
    again.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert first + ids(again) == ids(stream)


@pytest.mark.filterwarnings("ignore:To copy construct:UserWarning")  # theirs
@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas", "arrow", "polars"])
@pytest.mark.parametrize("batched", [False, True])
def test_functions_of_a_stream_get_the_format(kind, batched):
    pytest.importorskip({"numpy": "numpy", "arrow": "pyarrow"}.get(kind, kind))
    datasets = pytest.importorskip("datasets")

    def seen_by(library):
        rows = {"a": [1, 2, 3], "b": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "c": ["x", "y", "z"]}
        stream = library.Dataset.from_dict(rows).to_iterable_dataset().with_format(kind)
        seen = []

        def note(given):
            cells = {name: type(given[name]).__name__ for name in given} if isinstance(given, dict) else given.shape
            seen.append((type(given).__name__, cells))
            return given

        def kept(given):
            note(given)
            return [True, False, True][: len(given["a"])] if batched else True

        left = len(list(stream.filter(kept, batched=batched, batch_size=2)))
        made = list(stream.map(note, batched=batched, batch_size=2))
        return seen, left, [type(row).__name__ for row in made], str(made[2]["b"])

    import martlet.datasets

    assert seen_by(martlet.datasets) == seen_by(datasets)


def test_a_transform_of_a_stream_is_before_its_functions():
    stream = IterableDataset.from_dict({"a": [1, 2]}).with_transform(lambda batch: {"a": [-v for v in batch["a"]]})
    kept = stream.filter(lambda row: row["a"] < -1)
    assert list(kept.with_format(None)) == [{"a": 2}]


def test_columns_renamed_are_found_again_in_their_files(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "1", "label": "x"}\n{"a": "2", "label": "y"}\n')
    ds = load_dataset("json", data_files=str(path), split="train").rename_column("label", "labels")
    assert pickle.loads(pickle.dumps(ds))[:] == ds[:]
    again = ds.select_columns(["labels", "a"]).rename_columns({"a": "b"})
    assert pickle.loads(pickle.dumps(again))[:] == again[:]
    both = concatenate_datasets([ds, ds]).rename_column("labels", "c")
    assert pickle.loads(pickle.dumps(both))[:] == both[:]


def test_a_format_is_taken_from_another_dataset():
    ds = Dataset.from_dict({"a": [1, 2]})
    for other in (ds.with_transform(lambda batch: {"z": batch["a"]}), ds.with_format("numpy", dtype="float32")):
        new = ds.select([0, 1])
        new.set_format(**other.format)
        assert new[1] == other[1]
        assert new.format == other.format


def test_texts_that_are_to_be_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "1", "b": 1, "c": "x"}\n{"a": 2, "b": "2.5", "c": "y"}\n{"a": null, "b": 3, "c": "x"}\n')
    features = Features({"a": Value("int64"), "b": Value("float32"), "c": ClassLabel(names=["x", "y"])})
    expected = {"a": [1, 2, None], "b": [1.0, 2.5, 3.0], "c": [0, 1, 0]}
    assert Dataset.from_json(str(path), features=features)[:] == expected
    stream = load_dataset("json", data_files=str(path), features=features, streaming=True, split="train")
    assert stream.to_dict() == expected


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("dtype", ["string", "int32", "float32"])
def test_every_column_as_asked(tmp_path, kind, dtype):
    path = tmp_path / f"rows.{kind}"
    lines = "a,b,c\n1,2,3.0\n" if kind == "csv" else '{"a": "1", "b": 2, "c": 3.0}\n'
    path.write_text(lines)
    features = Features({name: Value(dtype) for name in "abc"})
    made = load_dataset(kind, data_files=str(path), features=features, split="train")
    assert made.features == features
    assert [float(value) for value in made[0].values()] == [1, 2, 3]
    stream = load_dataset(kind, data_files=str(path), features=features, split="train", streaming=True)
    assert list(stream) == list(made)


def test_numbers_that_are_no_truths(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a\n0\n3\n")
    with pytest.raises(FeatureError, match="3"):
        load_dataset("csv", data_files=str(path), features=Features({"a": Value("bool")}))


def test_an_unknown_name_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for call in (get_dataset_config_names, load_dataset):
        with pytest.raises(OfflineError, match="nobody/nothing"):
            call("nobody/nothing")


def counted(**columns):
    return IterableDataset.from_dict(columns)


def uncounted(**columns):
    def rows():
        yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))

    return IterableDataset.from_generator(rows)


@pytest.mark.parametrize("one", [counted, uncounted])
@pytest.mark.parametrize("two", [counted, uncounted])
def test_streams_side_by_side(one, two):
    both = concatenate_datasets([one(a=[1, 2, 3]), two(b=["x", "y", "z"])], axis=1)
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]
    assert list(both) == rows
    assert [list(split_dataset_by_node(both, rank, 2)) for rank in range(2)] == [rows[::2], rows[1::2]]
    walk = iter(both)
    first, state = next(walk), both.state_dict()
    both.load_state_dict(json.loads(json.dumps(state)))
    assert [first, *both] == rows
    with pytest.raises(ValueError, match="as many rows"):
        list(concatenate_datasets([one(a=[1, 2, 3]), two(b=["x", "y"])], axis=1))
    with pytest.raises(ValueError, match="names must differ"):
        list(concatenate_datasets([one(a=[1, 2]), two(a=[1, 2])], axis=1))


def test_a_format_that_all_have_stays():
    streams = [counted(a=[1]).with_format("numpy"), counted(a=[2]).with_format("numpy")]
    assert type(next(iter(concatenate_datasets(streams)))["a"]).__name__ == "int64"
    assert next(iter(concatenate_datasets([streams[0], counted(a=[2])]))) == {"a": 1}
