"""The same calls on Hugging Face's Dataset and on ours give the same rows, features and signatures."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import datasets as hf
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import martlet.datasets as ours

hf.disable_progress_bars()
# Hugging Face's own: a deprecated argument
pytestmark = pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")


@pytest.fixture(autouse=True)
def event_loops(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes the event loops that Hugging Face's map leaves open, which the garbage collector finds at any time."""
    made: list[asyncio.AbstractEventLoop] = []
    new_event_loop = asyncio.new_event_loop

    def kept() -> asyncio.AbstractEventLoop:
        made.append(new_event_loop())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", kept)
    yield
    for loop in made:
        loop.close()


ROWS = {
    "id": list(range(23)),
    "text": [None if i % 7 == 3 else f"row {i} é" for i in range(23)],
    "score": [i / 4 for i in range(23)],
    "label": [["neg", "pos", "so"][i % 3] for i in range(23)],
    "tokens": [list(range(i % 4)) for i in range(23)],
    "meta": [{"a": i, "b": {"c": str(i)}} for i in range(23)],
    "flag": [i % 2 == 0 for i in range(23)],
}


def both(columns: dict[str, Any] = ROWS, **kwargs: Any) -> tuple[Any, Any]:
    return ours.Dataset.from_dict(columns, **kwargs), hf.Dataset.from_dict(columns, **kwargs)


def same(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, hf.DatasetDict):
        assert list(mine) == list(theirs)
        for split in theirs:
            same(mine[split], theirs[split])
        return
    assert mine.column_names == theirs.column_names
    assert repr(mine.features) == repr(theirs.features)
    assert mine.num_rows == theirs.num_rows and mine.shape == theirs.shape
    assert mine.to_dict() == theirs.to_dict()
    assert mine[:] == theirs[:]
    assert list(mine) == list(theirs)


async def awaited(row: dict[str, Any]) -> dict[str, Any]:
    return {"n": row["id"] + 1}


def grow(batch: Any) -> dict[str, Any]:
    return {"id": [i for i in batch["id"] for _ in range(2)]}


def in_place(row: Any) -> Any:
    row["score"] = row["score"] * 2
    row["tokens"].append(7)
    return row


def some_rows(row: Any) -> Any:
    return {"score": -1.0} if row["flag"] else {}


def own_or_other(row: Any) -> Any:
    row["score"] = row["id"] / 2
    return row if row["flag"] else {"text": "x"}


def written_and_other(row: Any) -> Any:
    row["text"], row["new"] = str(row["text"]).upper(), row["id"]
    return {"n": len(row["text"])}


def written_by_or(row: Any) -> Any:
    row |= {"n": row["id"], "score": 0.5}
    return row


def taken_out(row: Any) -> Any:
    del row["meta"]
    row["number"] = row.pop("id")
    return row


def written_batch(rows: Any) -> Any:
    rows["text"] = [str(text).upper() for text in rows["text"]]
    return {"n": [len(text) for text in rows["text"]]}


def taken_out_of_batch(rows: Any) -> Any:
    rows["number"] = rows.pop("id")
    return {"n": rows.pop("score")}


def messages(row: Any) -> Any:
    turns = [{"role": "user", "content": row["text"]}, {"role": "assistant", "calls": [{"name": "f", "n": row["id"]}]}]
    return {"messages": turns, "same": [{"a": 1, "b": None}, {"a": 2, "b": {"c": 1}}], "any": [1, "x", None]}


CALLS: dict[str, Callable[[Any], Any]] = {
    "map of no rows": lambda ds: ds.select([]).map(lambda row: {"n": 1}, remove_columns=["id", "meta"]),
    "map some rows": lambda ds: ds.map(some_rows),
    "map own or other": lambda ds: ds.map(own_or_other),
    "map written and other": lambda ds: ds.map(written_and_other),
    "map written by or": lambda ds: ds.map(written_by_or),
    "map written and removed": lambda ds: ds.map(written_and_other, remove_columns=["text", "meta"]),
    "map taken out": lambda ds: ds.map(taken_out),
    "map all taken out": lambda ds: ds.map(lambda row: {"n": sorted(row.popitem()[0] for _ in range(len(row)))}),
    "map taken out of whole rows": lambda ds: ds.select_columns(["id", "text"]).map(
        lambda row: {"n": (row["text"], row.pop("id"))[1]}
    ),
    "map written batch": lambda ds: ds.map(written_batch, batched=True, batch_size=7),
    "map taken out of batch": lambda ds: ds.map(taken_out_of_batch, batched=True, batch_size=7),
    "map written and removed batch": lambda ds: ds.map(written_batch, batched=True, remove_columns=["text", "id"]),
    "map to a table": lambda ds: ds.map(lambda row: pa.table({"n": [row["id"]], "id": ["x"]}), remove_columns="id"),
    "map to a frame": lambda ds: ds.map(lambda rows: pd.DataFrame({"n": rows["id"][:3]}), batched=True, batch_size=6),
    "map to messages": lambda ds: ds.map(messages),
    "map to messages in batches": lambda ds: ds.map(
        lambda rows: {"m": [{"k" + str(i % 2): i} for i in rows["id"]], "e": [{} for _ in rows["id"]]},
        batched=True,
        batch_size=3,
    ),
    "map": lambda ds: ds.map(lambda row: {"n": row["id"] * 2, "text": "x"}),
    "map whole row": lambda ds: ds.map(lambda row: {**row, "n": row["id"]}),
    "map in place": lambda ds: ds.map(in_place),
    "map row methods": lambda ds: ds.map(
        lambda row: {"n": sorted(row.keys()), "m": row.get("no", 3), "k": "id" in row}
    ),
    "map none": lambda ds: ds.map(lambda row: None),
    "map batched": lambda ds: ds.map(
        lambda rows: {"n": [len(rows["id"])] * len(rows["id"])}, batched=True, batch_size=5
    ),
    "map batched in place": lambda ds: ds.map(lambda rows: rows | {"n": rows["id"]}, batched=True),
    "map growing": lambda ds: ds.map(grow, batched=True, batch_size=4, remove_columns=ds.column_names),
    "map shrinking": lambda ds: ds.map(
        lambda rows: {"n": rows["id"][:1]}, batched=True, batch_size=4, remove_columns=ds.column_names
    ),
    "map drop last": lambda ds: ds.map(
        lambda rows: {"n": rows["id"]}, batched=True, batch_size=4, drop_last_batch=True
    ),
    "map all at once": lambda ds: ds.map(lambda rows: {"n": [len(rows["id"])] * 23}, batched=True, batch_size=None),
    "map indices": lambda ds: ds.map(lambda row, i: {"i": i}, with_indices=True),
    "map batched indices": lambda ds: ds.map(lambda rows, i: {"i": i}, with_indices=True, batched=True, batch_size=6),
    "map inputs": lambda ds: ds.map(lambda i, s: {"n": i + s}, input_columns=["id", "score"]),
    "map kwargs": lambda ds: ds.map(lambda row, by: {"n": row["id"] * by}, fn_kwargs={"by": 3}),
    "map remove": lambda ds: ds.map(lambda row: {"id": -1, "n": 1}, remove_columns=["id", "text"]),
    "map features": lambda ds: ds.select_columns("id").map(
        lambda row: {"n": row["id"]}, features=type(ds.features)({"id": ds.features["id"], "n": ds.features["score"]})
    ),
    "map async": lambda ds: ds.map(awaited),
    "map arrays": lambda ds: ds.map(lambda row: {"n": np.arange(3, dtype=np.int16), "m": np.ones((2, 2))}),
    "map tokens": lambda ds: ds.map(
        lambda rows: {"input_ids": [[1, 2]] * len(rows["id"]), "attention_mask": [[1, 1]] * len(rows["id"])},
        batched=True,
    ),
    "map null": lambda ds: ds.map(lambda row: {"n": None}),
    "map mixed": lambda ds: ds.map(lambda row: {"n": row["id"] if row["flag"] else "s"}),
    "map new type": lambda ds: ds.map(lambda row: {"id": f"no {row['id']}"}),
    "map numpy format": lambda ds: (
        ds.with_format("numpy", columns=["id", "tokens"]).map(lambda row: {"n": row["id"] + 1}).with_format(None)
    ),
    "map pandas": lambda ds: (
        ds.select_columns(["id", "score"])
        .with_format("pandas")
        .map(lambda df: df.assign(n=df.id * 2), batched=True)
        .with_format(None)
    ),
    "map arrow": lambda ds: (
        ds.select_columns(["id"])
        .with_format("arrow")
        .map(lambda t: t.append_column("n", t["id"]), batched=True)
        .with_format(None)
    ),
    "chain": lambda ds: (
        ds.map(lambda row: {"n": row["id"]})
        .filter(lambda row: row["n"] % 2)
        .map(lambda row: {"k": row["n"] + 1})
        .rename_column("k", "z")
    ),
    "chain of batches": lambda ds: ds.filter(lambda row: row["id"] % 3 > 0).map(
        lambda rows: {"n": [len(rows["id"])] * len(rows["id"])}, batched=True, batch_size=4
    ),
    "chain growing": lambda ds: ds.map(grow, batched=True, batch_size=4, remove_columns=ds.column_names).map(
        lambda rows, i: {"i": i, "n": [len(i)] * len(i)}, batched=True, batch_size=5, with_indices=True
    ),
    "filter": lambda ds: ds.filter(lambda row: row["score"] > 2 and row["text"]),
    "filter batched": lambda ds: ds.filter(lambda rows: [i % 2 for i in rows["id"]], batched=True, batch_size=5),
    "filter inputs": lambda ds: ds.filter(lambda i: i > 20, input_columns="id"),
    "filter indices": lambda ds: ds.filter(lambda row, i: i % 5 == 0, with_indices=True),
    "filter twice": lambda ds: ds.filter(lambda row: row["id"] > 3).filter(
        lambda row, i: i % 2 == 0, with_indices=True
    ),
    "filter nothing": lambda ds: ds.filter(lambda row: False),
    "select": lambda ds: ds.select([3, 1, 1]),
    "select range": lambda ds: ds.select(range(2, 20, 3)),
    "select iterator": lambda ds: ds.select(i for i in (4, 5)),
    "select none": lambda ds: ds.select([]),
    "skip take": lambda ds: ds.skip(3).take(5).skip(1),
    "take many": lambda ds: ds.take(100),
    "repeat": lambda ds: ds.take(3).repeat(2),
    "shard": lambda ds: ds.shard(4, 1),
    "shard spread": lambda ds: ds.shard(4, 3, contiguous=False),
    "sort": lambda ds: ds.sort(["label", "score"], reverse=[True, False]),
    "sort nulls": lambda ds: ds.sort("text", null_placement="at_start"),
    "split": lambda ds: ds.train_test_split(test_size=0.3, seed=42),
    "split rows": lambda ds: ds.train_test_split(test_size=4, train_size=5, seed=1),
    "split in order": lambda ds: ds.train_test_split(shuffle=False),
    "split stratified": lambda ds: ds.class_encode_column("label").train_test_split(
        0.4, stratify_by_column="label", seed=7
    ),
    "flatten": lambda ds: ds.flatten(),
    "class encode": lambda ds: ds.class_encode_column("label"),
    "class encode numbers": lambda ds: ds.class_encode_column("id"),
    "class encode nulls": lambda ds: ds.class_encode_column("text", include_nulls=True),
    "remove": lambda ds: ds.remove_columns(["text", "meta"]),
    "rename": lambda ds: ds.rename_columns({"text": "words", "id": "n"}),
    "select columns": lambda ds: ds.select_columns(["score", "id"]),
    "add column": lambda ds: ds.add_column("n", np.arange(23)),
    "add column of picked": lambda ds: ds.select([5, 2]).add_column("n", ["a", None]),
    "add item": lambda ds: ds.select_columns(["id", "text"]).add_item({"id": 99, "text": "new"}),
    "add item to picked": lambda ds: (
        ds.select_columns(["id", "text"]).select([4, 2]).add_item({"id": 99, "text": "new"})
    ),
    "batch": lambda ds: ds.select_columns(["id", "text"]).batch(5),
    "batch drop": lambda ds: ds.select_columns(["id", "text"]).batch(5, drop_last_batch=True),
    "flatten indices": lambda ds: ds.select([3, 1]).flatten_indices(),
    "align": lambda ds: ds.class_encode_column("label").align_labels_with_mapping(
        {"POS": 0, "SO": 1, "NEG": 2}, "label"
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_same_call_gives_the_same_rows(name):
    mine, theirs = both()
    same(CALLS[name](mine), CALLS[name](theirs))


@pytest.mark.parametrize("name", CALLS)
def test_the_same_on_rows_from_files_that_were_picked(name, tmp_path):
    both()[1].save_to_disk(tmp_path / "ds")
    mine, theirs = ours.load_from_disk(tmp_path / "ds"), hf.load_from_disk(tmp_path / "ds")
    picked = list(range(22, -1, -1))
    if name == "map features":
        picked = list(range(23))
    same(CALLS[name](mine.select(picked)), CALLS[name](theirs.select(picked)))


KEYS = [
    0,
    -1,
    np.int64(3),
    slice(None),
    slice(2, 9, 3),
    slice(100, 200),
    [0, 5, 5],
    range(3),
    np.array([2, 1]),
    (1, 2),
    [],
]


@pytest.mark.parametrize("format", [None, "numpy", "torch", "pandas", "polars", "arrow"])
@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_in_every_format(format, key):
    columns = {name: ROWS[name] for name in ("id", "score", "label", "tokens", "flag")}
    mine, theirs = (ds.with_format(format)[key] for ds in both(columns))
    equal(mine, theirs)


@pytest.mark.parametrize("format", [None, "numpy", "torch", "pandas", "polars", "arrow"])
def test_iterating_in_every_format(format):
    columns = {name: ROWS[name] for name in ("id", "score", "text", "tokens", "flag")}
    mine, theirs = (ds.with_format(format) for ds in both(columns))
    for one, other in zip(mine, theirs, strict=True):
        equal(one, other)
    for one, other in zip(mine.iter(5), theirs.iter(5), strict=True):
        equal(one, other)
    equal(mine["tokens"][:], theirs["tokens"][:])
    equal(list(mine["id"]), list(theirs["id"]))
    equal(mine[3:5], theirs[3:5])


def equal(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert list(mine) == list(theirs)
        for key in theirs:
            equal(mine[key], theirs[key])
    elif isinstance(theirs, pd.DataFrame):
        pd.testing.assert_frame_equal(mine, theirs)
    elif isinstance(theirs, pd.Series):
        pd.testing.assert_series_equal(mine, theirs)
    elif isinstance(theirs, pl.DataFrame | pl.Series):
        assert (
            mine.equals(theirs) and mine.dtype == theirs.dtype if isinstance(theirs, pl.Series) else mine.equals(theirs)
        )
    elif isinstance(theirs, pa.Table | pa.ChunkedArray):
        assert mine.to_pylist() == theirs.to_pylist() and type(mine) is type(theirs)
    elif isinstance(theirs, list | tuple):
        assert type(mine) is type(theirs) and len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            equal(one, other)
    elif hasattr(theirs, "dtype"):
        assert type(mine) is type(theirs) and mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype or not len(mine)  # without rows theirs is float32, ours is what it would be
        if mine.dtype == object:
            equal(list(mine), list(theirs))
        else:
            assert np.array_equal(np.asarray(mine), np.asarray(theirs))
    else:
        assert mine == theirs and type(mine) is type(theirs)


def test_arrays_in_every_format():
    for shape in ((2, 3), (None, 3)):
        columns = {"a": [np.arange(6, dtype="int16").reshape(2, 3), np.ones((2, 3), "int16")]}
        mine = ours.Dataset.from_dict(columns, features=ours.Features({"a": ours.Array2D(shape, "int16")}))
        theirs = hf.Dataset.from_dict(columns, features=hf.Features({"a": hf.Array2D(shape, "int16")}))
        assert mine[:] == theirs[:]
        for format in ("numpy", "torch"):
            equal(mine.with_format(format)[:], theirs.with_format(format)[:])
            equal(mine.with_format(format)[1], theirs.with_format(format)[1])


@pytest.mark.parametrize("axis", [0, 1])
def test_concatenating(axis):
    (mine, theirs), (more, others) = both({"a": [1, 2, 3]}), both({"b" if axis else "a": [4, 5, 6]})
    same(ours.concatenate_datasets([mine, more], axis=axis), hf.concatenate_datasets([theirs, others], axis=axis))
    picked = ours.concatenate_datasets([mine.select([2, 0]), more.select([1, 1])], axis=axis)
    same(picked, hf.concatenate_datasets([theirs.select([2, 0]), others.select([1, 1])], axis=axis))


def test_concatenating_fills_what_is_missing():
    (mine, theirs), (more, others) = both({"a": [1, 2]}), both({"a": [None], "b": ["x"]})
    same(ours.concatenate_datasets([mine, more]), hf.concatenate_datasets([theirs, others]))


@pytest.mark.parametrize("strategy", ["first_exhausted", "all_exhausted", "all_exhausted_without_replacement"])
@pytest.mark.parametrize("probabilities", [None, [0.2, 0.5, 0.3]])
def test_interleaving(strategy, probabilities):
    columns = [{"a": list(range(10 * n, 10 * n + 3 + n))} for n in range(3)]
    kwargs = {"probabilities": probabilities, "seed": 5, "stopping_strategy": strategy}
    mine = ours.interleave_datasets([ours.Dataset.from_dict(c) for c in columns], **kwargs)
    same(mine, hf.interleave_datasets([hf.Dataset.from_dict(c) for c in columns], **kwargs))


def test_made_from_frames_lists_and_generators():
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[5, 7])
    same(ours.Dataset.from_pandas(frame), hf.Dataset.from_pandas(frame))
    same(ours.Dataset.from_pandas(frame, preserve_index=False), hf.Dataset.from_pandas(frame, preserve_index=False))
    polars = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert ours.Dataset.from_polars(polars)[:] == hf.Dataset.from_polars(polars)[:]
    rows = [{"a": 1, "b": [1.5]}, {"a": None, "b": []}]
    same(ours.Dataset.from_list(rows), hf.Dataset.from_list(rows))
    mine = ours.Dataset.from_generator(lambda n: ({"a": i} for i in range(n)), gen_kwargs={"n": 2500})
    assert mine["a"][:] == list(range(2500)) and mine.split == "train" and mine.cache_files


def test_folders_of_either_library_are_read_by_the_other(tmp_path):
    features = {
        "label": {"names": ["no", "yes"], "_type": "ClassLabel"},
        "array": {"shape": [2, 2], "dtype": "float32", "_type": "Array2D"},
        "json": {"_type": "Json"},
        "nested": {"feature": {"shape": [None, 1], "dtype": "int8", "_type": "Array2D"}, "_type": "List"},
    }
    columns = {"label": [1, 0], "array": [[[1, 2], [3, 4]]] * 2, "json": [{"a": 1}, [1, "b"]], "nested": [[[[1]]], []]}
    mine = ours.Dataset.from_dict(columns, features=ours.Features.from_dict(features), split="train")
    mine.with_format("numpy", columns=["label"]).save_to_disk(tmp_path / "mine", num_shards=2)
    read = hf.load_from_disk(tmp_path / "mine")
    assert read.format["type"] == "numpy" and str(read.split) == "train"
    assert read.features.to_dict() == mine.features.to_dict()
    read = read.with_format(None)
    assert read[:] == mine[:] == {**columns, "array": [[[1.0, 2.0], [3.0, 4.0]]] * 2}
    read.save_to_disk(tmp_path / "theirs", num_shards=2)
    again = ours.load_from_disk(tmp_path / "theirs")
    assert again.features == mine.features and again[:] == mine[:] and again.split == "train"
    ours.DatasetDict({"train": mine, "test": mine.select([1])}).save_to_disk(tmp_path / "dict")
    assert hf.load_from_disk(tmp_path / "dict")["test"].num_rows == 1
    hf.load_from_disk(tmp_path / "dict").save_to_disk(tmp_path / "dict2")
    assert ours.load_from_disk(tmp_path / "dict2").num_rows == {"train": 2, "test": 1}


def test_every_keyword_of_theirs_is_ours():
    missing = []
    for mine, theirs in ((ours.Dataset, hf.Dataset), (ours.DatasetDict, hf.DatasetDict)):
        for name, method in inspect.getmembers(theirs, callable):
            if name.startswith("_") or name in ABSENT:
                continue
            if not hasattr(mine, name):
                missing.append(f"{theirs.__name__}.{name}")
                continue
            known = set(inspect.signature(getattr(mine, name)).parameters)
            asked = set(inspect.signature(method).parameters) - {"self", "kwargs", "to_json_kwargs"}
            missing += [f"{theirs.__name__}.{name}({key}=)" for key in sorted(asked - known)]
    assert missing == ["DatasetDict.flatten_indices(new_fingerprint=)"]  # two splits cannot share one


# search engines, TensorFlow and Spark; and what loading owns
ABSENT = {
    *("add_elasticsearch_index", "add_faiss_index", "add_faiss_index_from_external_arrays", "drop_index", "get_index"),
    *(
        "get_nearest_examples",
        "get_nearest_examples_batch",
        "is_index_initialized",
        "list_indexes",
        "load_elasticsearch_index",
    ),
    *("load_faiss_index", "save_faiss_index", "search", "search_batch", "to_tf_dataset", "from_spark"),
    *("from_sql", "push_to_hub"),
    *("clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"),
}


def test_a_function_may_be_told_the_split():
    mine, theirs = (lib.DatasetDict({"a": ds, "b": ds.take(2)}) for lib, ds in zip((ours, hf), both(), strict=True))
    call = {"with_split": True, "with_indices": True}
    same(mine.map(lambda row, i, s: {"s": f"{s}{i}"}, **call), theirs.map(lambda row, i, s: {"s": f"{s}{i}"}, **call))
