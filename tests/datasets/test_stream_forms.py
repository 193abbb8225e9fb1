"""Streams made of objects and files, cut into shards, batched by a column, and written to files in one pass."""

import asyncio
import io
import json
from pathlib import Path

import numpy as np
import pytest

from martlet.datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    Value,
    load_dataset,
)
from martlet.errors import ArgumentError

ROWS = [{"n": number, "word": f"w{number}"} for number in range(10)]


def _plain(count=10):
    for number in range(count):
        yield {"n": number, "word": f"w{number}"}


def _of_shards(names):
    for name in names:
        for number in range(3):
            yield {"name": name, "n": number}


@pytest.fixture
def stream():
    """A stream whose rows are not counted."""
    return IterableDataset.from_generator(_plain)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "text"])
def test_files_as_streams_and_as_splits(tmp_path: Path, kind):
    ds = Dataset.from_list(ROWS)
    path = str(tmp_path / f"rows.{kind}")
    if kind == "text":
        Path(path).write_text("".join(f"{row['word']}\n" for row in ROWS))
        rows = [{"text": row["word"]} for row in ROWS]
    else:
        getattr(ds, f"to_{kind}")(path)
        rows = ROWS
    assert getattr(IterableDataset, f"from_{kind}")(path).to_list() == rows
    splits = getattr(DatasetDict, f"from_{kind}")({"train": path, "test": path})
    assert type(splits) is DatasetDict
    assert {split: each.to_list() for split, each in splits.items()} == {"train": rows, "test": rows}


def test_objects_as_streams(tmp_path: Path):
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    columns = {"n": [row["n"] for row in ROWS], "word": [row["word"] for row in ROWS]}
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    made = [
        IterableDataset.from_dict(columns, num_shards=3),
        IterableDataset.from_list(ROWS),
        IterableDataset.from_pandas(pd.DataFrame(columns)),
        IterableDataset.from_polars(pl.DataFrame(columns)),
        IterableDataset.from_file(next((tmp_path / "saved").glob("*.arrow"))),
    ]
    assert all(each.to_list() == ROWS for each in made)
    assert made[0].num_shards == 3
    with pytest.raises(ArgumentError, match="callable"):
        IterableDataset.from_generator(_plain())


@pytest.mark.parametrize("contiguous", [True, False])
def test_shards_of_an_uncounted_stream_are_all_of_it(stream, contiguous):
    many = IterableDataset.from_generator(_of_shards, gen_kwargs={"names": list("abcde")})
    for source in (stream, many, many.filter(lambda row: row["n"] != 1), stream.map(lambda row: {"m": row["n"]})):
        parts = [source.shard(3, index, contiguous).to_list() for index in range(3)]
        whole = source.to_list()
        assert sorted((row for part in parts for row in part), key=str) == sorted(whole, key=str)
        assert all(parts)
    names = [[row["name"] for row in many.shard(2, index, contiguous)][::3] for index in range(2)]
    assert names == ([["a", "b", "c"], ["d", "e"]] if contiguous else [["a", "c", "e"], ["b", "d"]])


def test_a_shard_goes_on_where_its_state_was_taken(stream):
    part = stream.shard(3, 1)
    walk = iter(part)
    next(walk)
    state, rest = part.state_dict(), list(walk)
    again = stream.shard(3, 1)
    again.load_state_dict(json.loads(json.dumps(state)))
    assert list(again) == rest and rest


@pytest.mark.parametrize("is_counted", [True, False])
def test_batches_by_a_column_resume(is_counted):
    def rows():
        yield from ({"group": group, "n": number} for number, group in enumerate("aabccc"))

    source = IterableDataset.from_generator(rows)
    source = source.to_dataset().to_iterable_dataset() if is_counted else source
    ds = source.batch(by_column="group")
    expected = [
        {"group": ["a", "a"], "n": [0, 1]},
        {"group": ["b"], "n": [2]},
        {"group": ["c", "c", "c"], "n": [3, 4, 5]},
    ]
    assert list(ds) == expected
    assert source.to_dataset().batch(by_column="group").to_list() == expected
    for done in range(1, 4):
        walk = iter(ds)
        for _ in range(done):
            next(walk)
        state = ds.state_dict()
        again = source.batch(by_column="group")
        again.load_state_dict(state)
        assert list(again) == expected[done:]
    with pytest.raises(ArgumentError, match="batch_size or by_column"):
        source.batch()


def test_a_stream_is_written_in_one_pass_as_its_dataset_is(stream, tmp_path: Path):
    ds = Dataset.from_list(ROWS)
    for kind in ("csv", "json", "parquet"):
        mine, other = io.BytesIO(), io.BytesIO()
        getattr(stream, f"to_{kind}")(mine)
        getattr(ds, f"to_{kind}")(other)
        if kind == "parquet":
            (tmp_path / "mine.parquet").write_bytes(mine.getvalue())
            assert load_dataset("parquet", data_files=str(tmp_path / "mine.parquet"), split="train").to_list() == ROWS
        else:
            assert mine.getvalue() == other.getvalue()
    assert stream.to_dict() == ds.to_dict()
    assert [part["n"] for part in stream.to_dict(batch_size=4, batched=True)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert stream.to_pandas().equals(ds.to_pandas())
    assert stream.to_polars().equals(ds.to_polars())
    assert stream.to_sql("rows", f"sqlite:///{tmp_path / 'rows.sqlite'}") == 10


def test_a_column_of_a_stream():
    ds = IterableDataset.from_list([{"deep": {"n": number}} for number in range(3)])
    assert list(ds["deep"]["n"]) == [0, 1, 2] == list(ds["deep"]["n"])
    with pytest.raises(ArgumentError, match="missing"):
        ds["missing"]
    with pytest.raises(ArgumentError, match="take"):
        ds[0]


def test_pictures_of_a_stream_stay_as_their_bytes_are_when_they_are_not_decoded(tmp_path: Path):
    pil = pytest.importorskip("PIL.Image")
    path = tmp_path / "one.jpg"
    pil.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    data = path.read_bytes()
    ds = Dataset.from_list(
        [{"image": {"bytes": data, "path": None}, "n": 1}], Features({"image": Image(), "n": Value("int64")})
    ).to_iterable_dataset()
    assert next(iter(ds))["image"].size == (4, 4)
    for raw in (
        ds.decode(False),
        ds.cast_column("image", Image(decode=False)),
        ds.shuffle(seed=1).take(1).decode(False),
    ):
        assert next(iter(raw))["image"]["bytes"] == data
        assert next(iter(raw.decode()))["image"].size == (4, 4)


def test_a_dict_of_streams_does_verbs_to_each_and_shows_itself():
    dsets = IterableDatasetDict({split: IterableDataset.from_list(ROWS) for split in ("train", "test")})
    short = dsets.take(2).batch(2)
    assert [each.to_list() for each in short.values()] == [[{"n": [0, 1], "word": ["w0", "w1"]}]] * 2
    assert "train" in repr(dsets)


def test_json_columns_are_parsed_in_data_frames():
    pytest.importorskip("pandas")
    ds = Dataset.from_dict({"any": [{"a": 1}, [2], "x"]}, on_mixed_types="use_json")
    assert ds.to_pandas()["any"].tolist() == [{"a": 1}, [2], "x"]


def test_coroutines_of_a_stream_wait_side_by_side_and_its_state_is_exact():
    running, most = 0, 0

    async def waiting(row, at):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return {"b": row["a"] * 10 + at}

    async def is_even(row):
        await asyncio.sleep(0)
        return row["a"] % 2 == 0

    def generated():
        yield from ({"a": number} for number in range(50))

    for stream in (IterableDataset.from_dict({"a": list(range(50))}), IterableDataset.from_generator(generated)):
        running, most = 0, 0
        mapped = stream.map(waiting, with_indices=True)
        assert [row["b"] for row in mapped] == [number * 11 for number in range(50)] and most > 5
        rows = iter(mapped)
        seen = [next(rows)["b"] for _ in range(17)]
        state = json.loads(json.dumps(mapped.state_dict()))
        mapped.load_state_dict(state)
        assert seen + [row["b"] for row in mapped] == [number * 11 for number in range(50)]
        assert [row["a"] for row in stream.filter(is_even)] == list(range(0, 50, 2))


def test_coroutines_run_where_an_event_loop_runs_already():
    async def waiting(row):
        await asyncio.sleep(0)
        return {"b": row["a"] + 1}

    async def cell():
        ds = Dataset.from_dict({"a": [1, 2]})
        return ds.map(waiting)["b"][:], list(ds.to_iterable_dataset().map(waiting)["b"])

    assert asyncio.run(cell()) == ([2, 3], [2, 3])


def test_pixels_keep_their_type():
    features = Features({"i": Image()})
    for dtype, mode in ((np.uint16, "I;16"), (np.float32, "F"), (np.uint8, "L")):
        assert Dataset.from_dict({"i": [np.zeros((4, 4), dtype)]}, features=features)[0]["i"].mode == mode
