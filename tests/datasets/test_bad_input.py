"""What cannot be done is said in words, and no row is lost: functions, columns, keys, kinds."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from martlet.datasets import (
    Array2D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Value,
    concatenate_datasets,
    interleave_datasets,
    load_from_disk,
)
from martlet.errors import ArgumentError, DatasetError, FeatureError, FormatError, MapError, UnsupportedError

DS = Dataset.from_dict({"a": list(range(2500)), "t": ["x"] * 2500})

CALLS = {
    "another type in a later batch": (
        lambda: DS.map(lambda row: {"b": row["a"] if row["a"] < 1000 else "s"})[0],
        MapError,
        r"rows 1,000 to 1,999: column 'b' was Value\('int64'\)",
    ),
    "another type in the same batch": (
        lambda: DS.map(lambda row: {"b": [1] if row["a"] else 2}, on_mixed_types=None)[0],
        MapError,
        r"rows 0 to 999.*'b'.*one type",
    ),
    "other columns for one row": (
        lambda: DS.map(lambda row: {"b": 1} if row["a"] < 1500 else {"c": 1})[0],
        MapError,
        r"same columns",
    ),
    "other columns within a batch": (
        lambda: DS.map(lambda row: {"b": 1} if row["a"] < 500 else {"c": 1})[0],
        MapError,
        r"no 'b' in row 500",
    ),
    "None for some rows": (
        lambda: DS.map(lambda row: None if row["a"] < 5 else {"b": 1})[0],
        MapError,
        r"None for some rows|must return the same columns",
    ),
    "not a dict": (lambda: DS.map(lambda row: 3)[0], MapError, r"must return a dict"),
    "a scalar for a batch": (
        lambda: DS.map(lambda rows: {"b": 3}, batched=True)[0],
        MapError,
        r"column 'b' must be a list",
    ),
    "lengths that differ": (
        lambda: DS.map(lambda rows: {"b": [1], "c": [1, 2]}, batched=True, remove_columns=["a", "t"])[0],
        MapError,
        r"'b' has 1, 'c' has 2",
    ),
    "fewer rows while columns stay": (
        lambda: DS.map(lambda rows: {"b": [1]}, batched=True)[0],
        MapError,
        r"remove_columns=ds.column_names",
    ),
    "features that do not fit": (
        lambda: DS.map(
            lambda row: {"b": "x"}, features=Features({"a": Value("int64"), "t": Value("string"), "b": Value("int8")})
        )[0],
        DatasetError,
        r"'b'.*int8",
    ),
    "features that lack a column": (
        lambda: DS.map(lambda row: {"b": 1}, features=Features({"a": Value("int64")}))[0],
        DatasetError,
        r"every column",
    ),
    "a filter of too few": (
        lambda: len(DS.filter(lambda rows: [True], batched=True)),
        MapError,
        r"1000 rows must return as many",
    ),
    "a filter that is no list": (lambda: len(DS.filter(lambda rows: True, batched=True)), MapError, r"truth values"),
    "no function": (lambda: DS.map(3), ArgumentError, r"needs a function"),
    "an unknown keyword": (lambda: DS.map(lambda row: row, num_procs=2), ArgumentError, r"Did you mean 'num_proc'"),
    "a removed column that is not there": (
        lambda: DS.map(lambda row: row, remove_columns="b"),
        ArgumentError,
        r"remove_columns",
    ),
    "SQL that is none": (lambda: DS.filter("a >"), ArgumentError, r"cannot be run"),
    "SQL of another column": (lambda: DS.filter("b > 1"), ArgumentError, r"\"?b\"?"),
    "an expression of another column": (lambda: DS.filter(pc.field("b") > 1), ArgumentError, r"columns are a, t"),
    "a column that is not there": (lambda: DS["b"], ArgumentError, r"columns are a, t"),
    "a column nearly there": (
        lambda: Dataset.from_dict({"text": [1]}).remove_columns("texts"),
        ArgumentError,
        r"Did you mean 'text'",
    ),
    "a name twice": (lambda: DS.rename_column("a", "t"), ArgumentError, r"once"),
    "duplicate columns": (
        lambda: Dataset(pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"])),
        ArgumentError,
        r"twice 'a'",
    ),
    "a column too short": (lambda: DS.add_column("b", [1]), ArgumentError, r"2500 values"),
    "a column that is there": (lambda: DS.add_column("a", [1] * 2500), ArgumentError, r"new name"),
    "columns of other lengths": (lambda: Dataset.from_dict({"a": [1], "b": [1, 2]}), MapError, r"equally long"),
    "values of two types": (lambda: Dataset.from_dict({"a": [1, "x"]}), FeatureError, r"on_mixed_types"),
    "a string for a column": (lambda: Dataset.from_dict({"a": "abc"}), ArgumentError, r"list of values"),
    "a mask": (lambda: DS[np.array([True, False])], ArgumentError, r"mask"),
    "a float": (lambda: DS[1.5], ArgumentError, r"indexed by"),
    "True": (lambda: DS[True], ArgumentError, r"indexed by"),
    "an unknown format": (lambda: DS.with_format("numpi"), ArgumentError, r"types are"),
    "a format we lack": (lambda: DS.with_format("jax"), UnsupportedError, r"jax"),
    "a format of no column": (lambda: DS.with_format("numpy", columns=["b"]), ArgumentError, r"columns are"),
    "a cast that loses": (
        lambda: Dataset.from_dict({"a": [1.5]}).cast_column("a", Value("int8")),
        FeatureError,
        r"int8",
    ),
    "a label too large": (
        lambda: Dataset.from_dict({"a": [7]}).cast_column("a", ClassLabel(num_classes=2)),
        FeatureError,
        r"-1 to 1",
    ),
    "an array of another shape": (
        lambda: Dataset.from_dict({"a": [[[1, 2]]]}, features=Features({"a": Array2D((2, 2), "int8")})),
        FeatureError,
        r"\(2, 2\)",
    ),
    "kinds that disagree": (
        lambda: concatenate_datasets([DS, Dataset.from_dict({"a": ["x"]})]),
        FeatureError,
        r"column 'a'",
    ),
    "side by side of other lengths": (
        lambda: concatenate_datasets([DS, Dataset.from_dict({"b": [1]})], axis=1),
        ArgumentError,
        r"as many rows",
    ),
    "no datasets": (lambda: concatenate_datasets([]), ArgumentError, r"at least one"),
    "splits": (lambda: concatenate_datasets([DatasetDict({"a": DS})]), ArgumentError, r"dict of splits"),
    "probabilities too few": (lambda: interleave_datasets([DS, DS], probabilities=[1.0]), ArgumentError, r"needs 2"),
    "probabilities of no sum": (
        lambda: interleave_datasets([DS, DS], probabilities=[0.5, 0.6]),
        ArgumentError,
        r"add up",
    ),
    "a strategy of none": (lambda: interleave_datasets([DS, DS], stopping_strategy="soon"), ArgumentError, r"one of"),
    "a test of all": (lambda: DS.train_test_split(1.0), ArgumentError, r"between 0 and 1"),
    "stratified by no label": (
        lambda: DS.train_test_split(0.5, stratify_by_column="a"),
        ArgumentError,
        r"class_encode_column",
    ),
    "a shard of none": (lambda: DS.shard(2, 2), ArgumentError, r"0 to 1"),
    "sorting by nothing": (lambda: DS.sort("b"), ArgumentError, r"columns are"),
    "a split of none": (lambda: DatasetDict({"train": DS})["text"], KeyError, r"splits are 'train'"),
    "a row of splits": (lambda: DatasetDict({"train": DS})[0], KeyError, r"ds\['train'\]\[0\]"),
    "a generator of none": (lambda: Dataset.from_generator(lambda: 3), ArgumentError, r"yields"),
    "another type in a later generated row": (
        lambda: Dataset.from_generator(lambda: ({"a": i if i < 1500 else "x"} for i in range(1600))),
        MapError,
        r"generated rows 1,000 to 1,599",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_said(name):
    call, kind, words = CALLS[name]
    with pytest.raises(kind, match=words):
        call()


def test_rows_beyond_the_end():
    for key in (2500, -2501, [0, 2500], np.array([-2501])):
        with pytest.raises(IndexError, match="of a dataset of 2500 rows"):
            DS[key]
    with pytest.raises(IndexError):
        DS.select(range(2501))


def test_nulls_that_show_their_type_later_are_widened():
    out = DS.map(lambda row: {"b": None if row["a"] < 2000 else [row["a"]]}, num_proc=None)
    assert repr(out.features["b"]) == "List(Value('int64'))" and out[0]["b"] is None and out[2400]["b"] == [2400]


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_from_disk(tmp_path / "no")
    with pytest.raises(FormatError, match="save_to_disk wrote"):
        load_from_disk(tmp_path)
    DS.select(range(10)).save_to_disk(tmp_path / "ds")
    with pytest.raises(ArgumentError, match="not splits"):
        DatasetDict.load_from_disk(tmp_path / "ds")
    (data,) = (tmp_path / "ds").glob("*.arrow")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(FormatError, match="Arrow file"):
        load_from_disk(tmp_path / "ds")
    state = tmp_path / "ds" / "state.json"
    state.write_text(state.read_text().replace("data-00000-of-00001.arrow", "../../etc/passwd"))
    with pytest.raises(FormatError, match="own folder"):
        load_from_disk(tmp_path / "ds")


def test_saving_over_what_is_mapped(tmp_path):
    DS.select(range(100)).save_to_disk(tmp_path / "ds")
    mapped = load_from_disk(tmp_path / "ds")
    mapped.map(lambda row: {"b": -row["a"]}).save_to_disk(tmp_path / "ds")
    assert mapped["a"][:] == list(range(100))
    assert load_from_disk(tmp_path / "ds")["b"][:] == [-a for a in range(100)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["ds"]
