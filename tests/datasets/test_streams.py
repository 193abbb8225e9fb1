"""Streams: Hugging Face's rows, none twice or lost with workers and ranks, and states that go on exactly."""

import gzip
import json
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from martlet.datasets import (
    Dataset,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    interleave_datasets,
    load_dataset,
    split_dataset_by_node,
)
from martlet.errors import ArgumentError, DataFileError, DatasetError

NUM_ROWS = 1300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("streams")
    rows = [{"id": i, "text": f"row {i}"} for i in range(NUM_ROWS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (top / "a.jsonl").write_text(lines)
    (top / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (top / "a.txt").write_text("".join(f"row {i}\n" for i in range(NUM_ROWS)))
    (top / "a.csv").write_text("id,text\n" + "".join(f"{i},row {i}\n" for i in range(NUM_ROWS)))
    pq.write_table(pa.Table.from_pylist(rows), top / "a.parquet", row_group_size=300)
    with pa.ipc.new_stream(str(top / "a.arrow"), pa.schema({"id": pa.int64(), "text": pa.string()})) as writer:
        writer.write_table(pa.Table.from_pylist(rows), max_chunksize=500)
    for part in range(4):
        (top / f"part-{part}.jsonl.gz").write_bytes(
            gzip.compress("".join(json.dumps(row) + "\n" for row in rows[part::4]).encode())
        )
    return top


KINDS = {"a.jsonl": "json", "a.jsonl.gz": "json", "a.csv": "csv", "a.parquet": "parquet", "a.arrow": "arrow"}


def stream(folder, name="a.jsonl", **options):
    kind = KINDS.get(name, "json")
    return load_dataset(kind, data_files=str(folder / name), split="train", streaming=True, **options)


def ids(rows):
    return [row["id"] for row in rows]


@pytest.mark.parametrize("name", KINDS)
def test_rows_and_features(folder, name):
    made = stream(folder, name)
    assert made.features == Features({"id": Value("int64"), "text": Value("string")})
    assert ids(made) == list(range(NUM_ROWS)) and ids(made) == list(range(NUM_ROWS))
    assert (made.num_rows == NUM_ROWS) == (name not in ("a.csv", "a.jsonl.gz"))


def test_text(folder):
    made = load_dataset("text", data_files=str(folder / "a.txt"), streaming=True)["train"]
    assert [row["text"] for row in made.skip(5).take(2)] == ["row 5", "row 6"]


VERBS = {
    "map": lambda ds: ds.map(lambda row: {"n": row["id"] * 2}),
    "map, indices": lambda ds: ds.map(lambda row, i: {"n": i}, with_indices=True, remove_columns="text"),
    "map, batched": lambda ds: ds.map(lambda b: {"n": [v + 1 for v in b["id"]]}, batched=True, batch_size=7),
    "map, more rows": lambda ds: ds.map(
        lambda b: {"id": [v for v in b["id"] for _ in range(2)]}, batched=True, remove_columns=["text"], batch_size=5
    ),
    "map, input columns": lambda ds: ds.map(lambda n: {"n": n}, input_columns="id"),
    "map, arguments": lambda ds: ds.map(lambda row, by: {"n": by}, fn_kwargs={"by": 3}),
    "filter": lambda ds: ds.filter(lambda row: row["id"] % 3 == 1),
    "filter, batched": lambda ds: ds.filter(lambda b: [v % 5 == 0 for v in b["id"]], batched=True, batch_size=9),
    "filter, indices": lambda ds: ds.filter(lambda row, i: i % 2 == 0, with_indices=True),
    "skip and take": lambda ds: ds.skip(10).take(20).skip(3),
    "take of a filter": lambda ds: ds.filter(lambda row: row["id"] % 3 == 1).skip(4).take(9),
    "repeat": lambda ds: ds.take(6).repeat(3).skip(2),
    "repeat of a filter": lambda ds: ds.filter(lambda row: row["id"] < 4).repeat(2),
    "batch": lambda ds: ds.take(10).batch(4),
    "batch, whole ones": lambda ds: ds.filter(lambda row: row["id"] < 10).batch(4, drop_last_batch=True),
    "columns": lambda ds: ds.rename_column("id", "n").select_columns(["n"]).rename_columns({"n": "m"}),
    "remove": lambda ds: ds.remove_columns(["text"]),
    "two filters": lambda ds: (
        ds.filter(lambda row: row["id"] % 2 == 0).map(lambda row: {"n": 1}).filter(lambda row: row["id"] > 9)
    ),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_verbs_as_hugging_face(folder, verb, name):
    import datasets

    reference = datasets.load_dataset("json", data_files=str(folder / name), split="train", streaming=True)
    assert list(VERBS[verb](stream(folder, name))) == list(VERBS[verb](reference))


def test_cast(folder):
    made = stream(folder).cast_column("id", Value("string")).take(2)
    assert list(made) == [{"id": "0", "text": "row 0"}, {"id": "1", "text": "row 1"}]
    assert made.features["id"] == Value("string")


@pytest.mark.parametrize("stopping", ["first_exhausted", "all_exhausted", "all_exhausted_without_replacement"])
@pytest.mark.parametrize("probabilities", [None, [0.7, 0.1, 0.2]])
def test_interleave_as_hugging_face(stopping, probabilities):
    import datasets

    def rows(start, count):
        for i in range(count):
            yield {"id": start + i}

    def parts(make):
        return [make(rows, gen_kwargs={"start": 1000 * n, "count": count}) for n, count in enumerate([30, 45, 12])]

    expected = datasets.interleave_datasets(
        parts(datasets.IterableDataset.from_generator), probabilities=probabilities, seed=5, stopping_strategy=stopping
    )
    made = interleave_datasets(
        parts(IterableDataset.from_generator), probabilities=probabilities, seed=5, stopping_strategy=stopping
    )
    assert ids(made) == ids(expected)
    in_memory = [table_stream(range(1000 * n, 1000 * n + count)) for n, count in enumerate([30, 45, 12])]
    again = interleave_datasets(in_memory, probabilities=probabilities, seed=5, stopping_strategy=stopping)
    assert ids(again) == ids(expected)


def table_stream(numbers):
    return Dataset.from_dict({"id": list(numbers)}).to_iterable_dataset()


def test_concatenate():
    one, two = table_stream(range(5)), table_stream(range(5, 9))
    assert ids(concatenate_datasets([one, two])) == list(range(9))
    assert ids(concatenate_datasets([one, two]).shuffle(seed=1).take(9)) != list(range(9))
    beside = concatenate_datasets([one, one.rename_column("id", "n")], axis=1)
    assert list(beside)[3] == {"id": 3, "n": 3}
    with pytest.raises(ArgumentError, match="names must differ"):
        concatenate_datasets([one, one], axis=1)


SHUFFLED = {
    "numbered": lambda ds: ds.shuffle(seed=3),
    "map after": lambda ds: ds.shuffle(seed=3).map(lambda row: {"n": 1}),
    "map before": lambda ds: ds.map(lambda b: {"n": b["id"]}, batched=True, batch_size=10).shuffle(seed=3),
    "filter before": lambda ds: ds.filter(lambda row: row["id"] % 3 > 0).shuffle(seed=3),
    "taken, then filtered": lambda ds: ds.shuffle(seed=3).take(500).filter(lambda row: row["id"] % 2 == 0).take(77),
    "counted filter": lambda ds: ds.filter(lambda row, i: i % 3 > 0, with_indices=True).shuffle(seed=3, buffer_size=50),
    "repeated for ever": lambda ds: ds.shuffle(seed=3).repeat(None).take(NUM_ROWS + 50),
    "drawn": lambda ds: interleave_datasets([ds.take(80), ds.skip(600)], probabilities=[0.2, 0.8], seed=1),
    "batched": lambda ds: ds.shuffle(seed=3).batch(7),
    "packed": lambda ds: ds.map(
        lambda b: {"id": [v for v in b["id"] for _ in range(3)]}, batched=True, batch_size=8, remove_columns="text"
    ),
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("how", SHUFFLED)
def test_a_state_goes_on_row_for_row(folder, how, name):
    make = SHUFFLED[how]
    whole = list(make(stream(folder, name)))
    for stop in (0, 16, 61, len(whole)):
        first = make(stream(folder, name))
        rows = iter(first)
        before = [next(rows) for _ in range(stop)]
        state = json.loads(json.dumps(first.state_dict()))
        assert len(json.dumps(state)) < 300
        second = make(stream(folder, name))
        second.load_state_dict(state)
        assert before + list(second) == whole


@pytest.mark.parametrize("how", [name for name in SHUFFLED if name not in ("drawn",)])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_rows(folder, how, name, world):
    make = SHUFFLED[how]
    whole = [json.dumps(row) for row in make(stream(folder, name))]
    parts = [list(split_dataset_by_node(make(stream(folder, name)), rank, world)) for rank in range(world)]
    if how in ("packed", "map before"):  # batches are made of each rank's own rows
        assert sorted(v for part in parts for v in ids(part)) == sorted(json.loads(row)["id"] for row in whole)
    else:
        assert sorted(json.dumps(row) for part in parts for row in part) == sorted(whole)


def test_the_order_is_the_same_for_any_number_of_ranks(folder):
    whole = ids(stream(folder).shuffle(seed=9))
    assert sorted(whole) == list(range(NUM_ROWS)) and whole != sorted(whole)
    for world in (2, 5):
        parts = [ids(split_dataset_by_node(stream(folder).shuffle(seed=9), rank, world)) for rank in range(world)]
        dealt = [part[i] for i in range(len(parts[0])) for part in parts if i < len(part)]
        assert dealt == whole


def test_epochs_and_seeds(folder):
    made = stream(folder).shuffle(seed=1)
    first = ids(made)
    assert ids(made) == first
    made.set_epoch(1)
    second = ids(made)
    assert second != first and sorted(second) == sorted(first)
    made.set_epoch(0)
    assert ids(made) == first and ids(stream(folder).shuffle(seed=2)) != first


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "part-*.jsonl.gz"])
def test_data_loader_workers_share_the_rows(folder, name):
    torch = pytest.importorskip("torch")
    made = stream(folder, name).map(lambda row: {"n": row["id"]}).shuffle(seed=4)
    loader = torch.utils.data.DataLoader(made.with_format("torch"), batch_size=50, num_workers=2)
    seen = torch.cat([batch["id"] for batch in loader]).tolist()
    assert sorted(seen) == list(range(NUM_ROWS)) and seen != sorted(seen)


def test_data_loader_rows_come_in_the_one_order(folder):
    torch = pytest.importorskip("torch")
    made = stream(folder).shuffle(seed=4)
    loader = torch.utils.data.DataLoader(made, batch_size=None, num_workers=2)
    assert ids(loader) == ids(made)


def test_formats(folder):
    np = pytest.importorskip("numpy")
    made = stream(folder).take(10)
    assert [batch["id"] for batch in made.iter(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert next(iter(made.with_format("arrow").iter(3))).column("id").to_pylist() == [0, 1, 2]
    batch = next(iter(made.map(lambda row: {"n": row["id"] / 2}).with_format("numpy").iter(3)))
    assert isinstance(batch["n"], np.ndarray) and batch["n"].tolist() == [0.0, 0.5, 1.0]
    assert next(iter(made.with_format("pandas").iter(2)))["id"].tolist() == [0, 1]
    assert next(iter(made.with_transform(lambda b: {"n": [v + 1 for v in b["id"]]}))) == {"n": 1}


def test_split_words_while_streaming(folder):
    path = str(folder / "a.jsonl")
    assert ids(load_dataset("json", data_files=path, split="train[10%:11%]", streaming=True)) == list(range(130, 143))
    path = str(folder / "a.csv")
    assert ids(load_dataset("csv", data_files=path, split="train[5:8]", streaming=True)) == [5, 6, 7]


def test_pickles(folder):
    made = pickle.loads(pickle.dumps(stream(folder).shuffle(seed=1).take(30)))
    assert ids(made) == ids(stream(folder).shuffle(seed=1).take(30))


def test_nothing_runs_before_it_is_iterated(folder):
    seen = []
    made = stream(folder).map(lambda row: seen.append(row["id"]) or row).filter(lambda row: True).take(3)
    assert seen == []
    next(iter(made))
    assert seen == [0]


def test_errors(folder, tmp_path):
    made = stream(folder)
    with pytest.raises(ArgumentError, match="id, text"):
        made.select_columns(["nothing"])
    with pytest.raises(ArgumentError, match="fn_kwargs"):
        made.map(lambda row: row, fn_kwarg={})
    with pytest.raises(DatasetError, match="one length"):
        list(made.map(lambda b: {"n": [1]}, batched=True))
    with pytest.raises(DatasetError, match="dict or None"):
        list(made.map(lambda row: 3))
    with pytest.raises(ArgumentError, match="state_dict"):
        made.load_state_dict({"nothing": 1})
    state = split_dataset_by_node(made, 0, 2)
    next(iter(state))
    made.load_state_dict(state.state_dict())
    with pytest.raises(ArgumentError, match="worker 0 of 2"):
        list(made)
    rows = [json.dumps({"v": i}) for i in range(2000)] + [json.dumps({"v": "text"})]
    (tmp_path / "late.jsonl").write_text("\n".join(rows))
    late = load_dataset("json", data_files=str(tmp_path / "late.jsonl"), split="train", streaming=True)
    with pytest.raises(DataFileError, match="types of its first rows"):
        list(late)


def test_a_row_of_a_stream_that_is_handed_back_loses_what_is_removed():
    def wider(rows):
        rows["n"] = rows["id"]
        return rows

    ds = IterableDataset.from_list([{"id": 1, "text": "a"}, {"id": 2, "text": "b"}])
    assert list(ds.map(wider, remove_columns="id")) == [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    assert list(ds.map(wider, batched=True, remove_columns="id")) == [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    assert list(ds.map(lambda row: {**row}, remove_columns="id")) == list(ds)


EPOCH = """
import json, os, sys
from martlet.datasets import load_dataset
path, state_file, out, stop = sys.argv[1:5]
ds = load_dataset("json", data_files=path, split="train", streaming=True)
ds = ds.map(lambda b: {"n": [v * 2 for v in b["id"]]}, batched=True, batch_size=16)
ds = ds.filter(lambda r: r["id"] % 7 > 0).shuffle(seed=5)
if os.path.exists(state_file):
    ds.load_state_dict(json.load(open(state_file)))
with open(out, "a") as file:
    for count, row in enumerate(ds, 1):
        file.write(json.dumps(row) + "\\n")
        if count % 100 == 0:
            file.flush()
            os.fsync(file.fileno())
            open(state_file + ".new", "w").write(json.dumps(ds.state_dict()))
            os.replace(state_file + ".new", state_file)
        if count == int(stop):
            file.flush()
            print("here", flush=True)
            sys.stdin.read()  # until it is killed
"""


def test_killed_in_an_epoch_and_gone_on(folder, tmp_path):
    """kill -9 in the middle of a shuffled epoch; what was written up to the state, and then on, is the whole epoch."""
    path, state, out = str(folder / "a.jsonl"), str(tmp_path / "state"), tmp_path / "out"
    command = [sys.executable, "-c", EPOCH, path, state, str(out)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*command, "537"], **pipes) as process:
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    saved = json.loads(Path(state).read_text())
    kept = saved_rows(saved, path)
    lines = out.read_text().splitlines()
    assert (kept, len(lines)) == (500, 537)
    out.write_text("".join(line + "\n" for line in lines[:kept]))
    subprocess.run([*command, "0"], check=True)
    again = tmp_path / "again"
    subprocess.run([*command[:-2], str(tmp_path / "none"), str(again), "0"], check=True)
    assert out.read_text().splitlines() == again.read_text().splitlines()


def saved_rows(state, path):
    """How many rows came before the state: those of the whole epoch that do not come after it."""
    ds = load_dataset("json", data_files=path, split="train", streaming=True)
    ds = ds.map(lambda b: {"n": [v * 2 for v in b["id"]]}, batched=True, batch_size=16)
    ds = ds.filter(lambda r: r["id"] % 7 > 0).shuffle(seed=5)
    total = sum(1 for _ in ds)
    ds.load_state_dict(state)
    return total - sum(1 for _ in ds)
