"""Shuffled streams of files whose rows are not counted, threads that decode ahead, and workers that are killed."""

import gzip
import io
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from martlet.datasets import (
    Dataset,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    List,
    Value,
    concatenate_datasets,
    interleave_datasets,
    load_dataset,
    split_dataset_by_node,
)
from martlet.errors import ArgumentError

SIZES = (40, 7, 0, 23, 61, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("files")
    numbers = itertools.count()
    for part, size in enumerate(SIZES):
        lines = "".join(json.dumps({"id": next(numbers), "part": part}) + "\n" for _ in range(size))
        (top / f"part-{part}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    lines = "".join(json.dumps({"id": number, "part": 9}) + "\n" for number in range(1000, 1200))
    (top / "counted.jsonl").write_text(lines)
    return top


def files(folder: Path) -> Any:
    return load_dataset("json", data_files=str(folder / "part-*.gz"), split="train", streaming=True)


def ids(rows: Any) -> list[int]:
    return [row["id"] for row in rows]


def shards(names: list[str], size: int) -> Iterator[dict[str, Any]]:
    for name in names:
        for number in range(size):
            yield {"id": f"{name}{number}"}


def test_files_come_in_an_order_of_the_seed_and_the_epoch(folder: Path):
    one_by_one = files(folder).shuffle(seed=3, buffer_size=1, max_buffer_input_shards=1)
    parts = [part for part, _ in itertools.groupby(row["part"] for row in one_by_one)]
    assert sorted(parts) == [0, 1, 3, 4, 5] and parts != sorted(parts)
    assert sorted(ids(one_by_one)) == list(range(sum(SIZES)))
    assert ids(one_by_one) == ids(files(folder).shuffle(seed=3, buffer_size=1, max_buffer_input_shards=1))
    first = set()
    for epoch in range(12):
        one_by_one.set_epoch(epoch)
        first.add(next(iter(one_by_one))["part"])
    assert len(first) > 2


def test_files_read_in_turn_are_mixed_in_the_buffer(folder: Path):
    mixed = files(folder).shuffle(seed=3, buffer_size=10, max_buffer_input_shards=4)
    assert len({row["part"] for row in mixed.take(10)}) >= 3
    assert sorted(ids(mixed)) == list(range(sum(SIZES)))
    turns = [row["part"] for row in files(folder).shuffle(seed=3, buffer_size=1, max_buffer_input_shards=2).take(4)]
    assert turns[:2] == turns[2:] and turns[0] != turns[1]


PIPELINES = {
    "files": lambda ds: ds.shuffle(seed=1, buffer_size=16, max_buffer_input_shards=3),
    "one at a time": lambda ds: ds.shuffle(seed=1, buffer_size=16, max_buffer_input_shards=1),
    "after steps": lambda ds: (
        ds.filter(lambda row: row["id"] % 3).map(lambda row: {"n": 1}).select_columns("id").shuffle(2, buffer_size=9)
    ),
    "batches": lambda ds: ds.map(lambda rows: {"n": rows["id"]}, batched=True, batch_size=8).shuffle(seed=2),
    "twice": lambda ds: ds.repeat(2).shuffle(seed=2, buffer_size=20),
    "shuffled twice": lambda ds: ds.shuffle(seed=1, buffer_size=5).shuffle(seed=2, buffer_size=20),
    "chained": lambda ds: concatenate_datasets([ds, ds.map(lambda row: {"id": -row["id"]})]).shuffle(seed=4),
    "interleaved": lambda ds: interleave_datasets([ds, ds], [0.3, 0.7], seed=1).shuffle(seed=4, buffer_size=12),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_state_goes_on_exactly_and_is_small(folder: Path, name: str):
    made = PIPELINES[name](files(folder))
    made.set_epoch(2)
    whole = ids(made)
    assert len(whole) == len(ids(PIPELINES[name](files(folder))))
    for stop in (0, 1, 15, 16, 17, 46, len(whole) - 1, len(whole)):
        made = PIPELINES[name](files(folder))
        made.set_epoch(2)
        rows = iter(made)
        before = [next(rows)["id"] for _ in range(stop)]
        state = json.dumps(made.state_dict())
        assert len(state) < 600
        again = PIPELINES[name](files(folder))
        again.set_epoch(2)
        again.load_state_dict(json.loads(state))
        assert before + ids(again) == whole


def test_any_number_of_ranks_reads_the_one_order(folder: Path):
    made = files(folder).shuffle(seed=8, buffer_size=12)
    whole = ids(made)
    for world in (2, 3, 9):
        parts = [ids(split_dataset_by_node(made, rank, world)) for rank in range(world)]
        dealt = [parts[place % world][place // world] for place in range(len(whole))]
        assert dealt == whole and sum(map(len, parts)) == len(whole)


def test_ranks_that_get_whole_files_permute_their_own(folder: Path):
    made = files(folder).shuffle(seed=8, buffer_size=5)
    parts = [list(split_dataset_by_node(made, rank, 3, strategy="shards")) for rank in range(3)]
    assert sorted(row["id"] for part in parts for row in part) == list(range(sum(SIZES)))
    seen = [{row["part"] for row in part} for part in parts]
    assert not seen[0] & seen[1] and not seen[1] & seen[2] and not seen[0] & seen[2]
    assert [set(ids(part)) for part in parts] == [set(ids(made.shard(3, rank, contiguous=False))) for rank in range(3)]


def test_rows_that_are_counted_are_permuted_whole_beside_files_that_are_not(folder: Path):
    counted = load_dataset("json", data_files=str(folder / "counted.jsonl"), split="train", streaming=True)
    alone = ids(counted.shuffle(seed=5, max_buffer_input_shards=1))
    assert alone == ids(counted.shuffle(seed=5)) and sorted(alone) == list(range(1000, 1200))
    both = concatenate_datasets([counted, files(folder)]).shuffle(seed=5, buffer_size=2)
    rows = ids(both)
    assert sorted(rows) == [*range(sum(SIZES)), *range(1000, 1200)]
    assert max(abs(a - b) for a, b in itertools.pairwise(rows[:200])) > 100


def test_steps_that_count_rows_keep_the_order_of_the_files(folder: Path):
    ds = files(folder)
    assert set(ids(ds.take(20).shuffle(seed=1))) == set(range(20))
    assert set(ids(ds.skip(150).shuffle(seed=1))) == set(range(150, sum(SIZES)))
    numbered = ds.map(lambda row, number: {"n": number}, with_indices=True).shuffle(seed=1)
    assert all(row["n"] == row["id"] for row in numbered)


def test_lists_of_a_generator_are_shards(folder: Path):
    made = IterableDataset.from_generator(shards, gen_kwargs={"names": list("abcdefgh"), "size": 5})
    mixed = made.shuffle(seed=1, buffer_size=1, max_buffer_input_shards=1)
    names = [name for name, _ in itertools.groupby(row["id"][0] for row in mixed)]
    assert sorted(names) == list("abcdefgh") != names
    rows = iter(mixed)
    before = [next(rows)["id"] for _ in range(13)]
    mixed.load_state_dict(mixed.state_dict())
    assert sorted(before + ids(mixed)) == sorted(ids(made))
    parts = [ids(mixed.shard(2, index)) for index in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(ids(made)) and len(parts[0]) == 20


def test_what_a_shuffle_refuses(folder: Path):
    with pytest.raises(ArgumentError, match="buffer_size must be at least 1"):
        files(folder).shuffle(buffer_size=0)
    with pytest.raises(ArgumentError, match="max_buffer_input_shards must be at least 1"):
        files(folder).shuffle(max_buffer_input_shards=0)
    generator = np.random.default_rng(1)  # is the caller's, and stays as it is
    assert ids(files(folder).shuffle(generator=generator)) == ids(files(folder).shuffle(generator=generator))
    dsets = IterableDatasetDict({"train": files(folder)})
    assert ids(dsets.shuffle(seed=1, max_buffer_input_shards=2)["train"]) == ids(
        files(folder).shuffle(seed=1, max_buffer_input_shards=2)
    )


def pictures() -> list[dict[str, Any]]:
    pil = pytest.importorskip("PIL.Image")
    rows = []
    for number in range(30):
        out = io.BytesIO()
        pil.fromarray(np.full((2, 3, 3), number, np.uint8)).save(out, "png")
        rows.append({"image": {"bytes": out.getvalue(), "path": None}, "n": number})
    return rows


FEATURES = Features({"image": Image(), "n": Value("int64")})


def gray(rows: Any) -> list[int]:
    return [int(np.asarray(row["image"])[0, 0, 0]) for row in rows]


def streams_of_pictures() -> list[Any]:
    rows = pictures()
    return [
        Dataset.from_list(rows, FEATURES).to_iterable_dataset(),
        Dataset.from_list(rows, FEATURES).to_iterable_dataset().filter(lambda row: True),
        Dataset.from_list(rows, FEATURES).to_iterable_dataset().take(30).skip(0),
    ]


@pytest.mark.parametrize("number", range(3))
def test_threads_decode_ahead_in_the_order_of_the_rows(number: int):
    ds = streams_of_pictures()[number]
    threaded = ds.decode(num_threads=4)
    assert threaded.features == ds.features
    assert gray(threaded) == gray(ds) == list(range(30))
    assert gray(threaded.shuffle(seed=1)) == gray(ds.shuffle(seed=1))
    assert gray(threaded.decode(num_threads=0)) == list(range(30))
    raw = next(iter(threaded.decode(False)))["image"]
    assert raw["bytes"] == pictures()[0]["image"]["bytes"]
    rows = iter(threaded)
    before = [int(np.asarray(next(rows)["image"])[0, 0, 0]) for _ in range(11)]
    again = streams_of_pictures()[number].decode(num_threads=2)
    again.load_state_dict(json.loads(json.dumps(threaded.state_dict())))
    assert before + gray(again) == list(range(30))
    parts = [gray(split_dataset_by_node(threaded, rank, 2)) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(30)) and len(parts[0]) == 15
    with pytest.raises(ArgumentError, match="num_threads must be 0 or more"):
        ds.decode(num_threads=-1)


def test_a_picture_that_is_broken_is_the_error_of_its_row():
    rows = pictures()[:6]
    rows[3]["image"]["bytes"] = b"no picture"
    ds = Dataset.from_list(rows, FEATURES).to_iterable_dataset().decode(num_threads=3)
    given = iter(ds)
    assert gray([next(given) for _ in range(3)]) == [0, 1, 2]
    with pytest.raises(Exception, match=r"image|picture"):
        next(given)


def test_lists_of_pictures_are_decoded_by_threads_too():
    one = pictures()[7]["image"]
    ds = Dataset.from_list([{"all": [one, one]}], Features({"all": List(Image())})).to_iterable_dataset()
    assert [image.size for image in next(iter(ds.decode(num_threads=2)))["all"]] == [(3, 2)] * 2


# kill -9 of a DataLoader's worker

EPOCHS = {
    "counted": lambda folder: (
        load_dataset("json", data_files=str(folder / "counted.jsonl"), split="train", streaming=True)
        .filter(lambda row: row["id"] % 7)
        .shuffle(seed=6)
    ),
    "files dealt out": lambda folder: files(folder).map(lambda rows: {"n": rows["id"]}, batched=True, batch_size=6),
    "files shuffled": lambda folder: files(folder).shuffle(seed=6, buffer_size=13, max_buffer_input_shards=2),
}


def loader_of(ds: IterableDataset, states: list[dict[str, Any] | None]) -> Any:
    """Rows of two workers, each with its worker's number and process, and the state after it."""
    torch = pytest.importorskip("torch")

    class WithStates(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[tuple[int, int, int, str]]:
            worker = torch.utils.data.get_worker_info().id
            if states[worker] is not None:
                ds.load_state_dict(states[worker])
            for row in ds:
                yield worker, os.getpid(), row["id"], json.dumps(ds.state_dict())

    return torch.utils.data.DataLoader(WithStates(), batch_size=None, num_workers=2)


@pytest.mark.parametrize("name", EPOCHS)
def test_a_worker_killed_in_an_epoch_and_gone_on(folder: Path, name: str):
    """States are saved every ten rows; what came before them, and after going on from them, is the whole epoch."""
    whole: list[list[int]] = [[], []]
    for worker, _, number, _ in loader_of(EPOCHS[name](folder), [None, None]):
        whole[worker].append(number)
    rows: list[list[int]] = [[], []]
    saved: list[tuple[int, Any]] = [(0, None), (0, None)]
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        for worker, process, number, state in loader_of(EPOCHS[name](folder), [None, None]):
            rows[worker].append(number)
            if len(rows[worker]) % 10 == 0:
                saved[worker] = len(rows[worker]), json.loads(state)
            if len(rows[1]) == 25 and worker == 1:
                os.kill(process, signal.SIGKILL)
    assert all(0 < kept < len(all_rows) for (kept, _), all_rows in zip(saved, whole, strict=True))
    gone_on = [rows[worker][: saved[worker][0]] for worker in range(2)]
    for worker, _, number, _ in loader_of(EPOCHS[name](folder), [state for _, state in saved]):
        gone_on[worker].append(number)
    assert gone_on == whole


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's
@pytest.mark.parametrize("name", EPOCHS)
def test_a_stateful_loader_goes_on(folder: Path, name: str):
    """torchdata's loader keeps the states of its workers, and the rows that were given."""
    reason = "StatefulDataLoader is torchdata's: pip install torchdata"
    loaders = pytest.importorskip("torchdata.stateful_dataloader", reason=reason)

    def loader() -> Any:
        return loaders.StatefulDataLoader(EPOCHS[name](folder), batch_size=None, num_workers=2)

    whole = ids(loader())
    for stop in (1, 24, len(whole) - 3):
        made = loader()
        rows = iter(made)
        before = [next(rows)["id"] for _ in range(stop)]
        state = made.state_dict()
        del rows
        again = loader()
        again.load_state_dict(state)
        assert before + ids(again) == whole


def test_what_is_taken_and_what_is_left_do_not_change_with_the_epoch(folder: Path):
    """Of a shuffled stream cut into a part to test with and one to train with no row ever moves to the other."""
    counted = load_dataset("json", data_files=str(folder / "counted.jsonl"), split="train", streaming=True)
    for ds in (counted, files(folder)):
        shuffled = ds.shuffle(seed=1, buffer_size=50)
        held, rest = shuffled.take(30), shuffled.skip(30).shuffle(seed=2)
        first = ids(rest)
        for epoch in (0, 3):
            shuffled.set_epoch(epoch), held.set_epoch(epoch), rest.set_epoch(epoch)
            assert not set(ids(held)) & set(ids(rest)) and len(ids(rest)) == len(first)
        assert set(ids(rest)) == set(first) and ids(rest) != first


def test_workers_that_stay_alive_see_the_epoch(folder: Path):
    torch = pytest.importorskip("torch")
    ds = files(folder).shuffle(seed=1)
    loader = torch.utils.data.DataLoader(ds, batch_size=None, num_workers=2, persistent_workers=True)
    first = ids(loader)
    assert ids(loader) == first
    ds.set_epoch(1)
    assert ids(loader) != first and sorted(ids(loader)) == sorted(first)


def test_streams_of_other_columns_are_filled_up():
    one = IterableDataset.from_generator(lambda: iter([{"a": 1}, {"a": 2}]))
    two = IterableDataset.from_generator(lambda: iter([{"a": 3, "b": "x"}]))
    both = concatenate_datasets([one, two])
    assert list(both) == [{"a": 1, "b": None}, {"a": 2, "b": None}, {"a": 3, "b": "x"}]
    assert both.features == Features({"a": Value("int64"), "b": Value("string")})
    assert list(interleave_datasets([one, two])) == [{"a": 1, "b": None}, {"a": 3, "b": "x"}]
