"""Keywords that Hugging Face's library has do here what they say, or are errors that name them."""

import asyncio
import inspect
import io
import sqlite3
from pathlib import Path
from typing import Any

import datasets as hf
import pytest

from martlet.datasets import Dataset, IterableDataset
from martlet.errors import ArgumentError, DatasetError, MapError, UnsupportedError

ROWS = Dataset.from_dict({"a": list(range(300)), "t": [f"é, {number}" for number in range(300)]}).shuffle(seed=3)


@pytest.mark.parametrize("keywords", [{}, {"lines": False}, {"date_unit": "ms"}, {"indent": 1}])
def test_json_by_two_processes(keywords: dict[str, Any]):
    one, two = io.BytesIO(), io.BytesIO()
    assert ROWS.to_json(one, **keywords) == ROWS.to_json(
        two, num_proc=2, batch_size=None if keywords else 40, **keywords
    )
    assert one.getvalue() == two.getvalue()


def test_csv_by_two_processes(tmp_path: Path):
    ROWS.to_csv(tmp_path / "one.csv", batch_size=7)
    ROWS.with_format("numpy").to_csv(tmp_path / "two.csv.gz", batch_size=7, num_proc=2)
    assert list(Dataset.from_csv(str(tmp_path / "two.csv.gz"))) == list(Dataset.from_csv(str(tmp_path / "one.csv")))
    assert len(list(tmp_path.iterdir())) == 2 + (tmp_path / "cache").exists()


def test_a_table_by_two_processes(tmp_path: Path):
    assert ROWS.to_sql("rows", f"sqlite:///{tmp_path}/a.db", num_proc=2, batch_size=40) == 300
    connection = sqlite3.connect(tmp_path / "a.db")
    assert sorted(connection.execute("select a, t from rows")) == sorted((row["a"], row["t"]) for row in ROWS)
    with pytest.raises(ArgumentError, match=r"cannot share a connection.*URI"):
        ROWS.to_sql("rows", connection, num_proc=2)
    connection.close()


def test_where_one_process_writes(tmp_path: Path):
    for write in (
        lambda: ROWS.to_parquet(tmp_path / "a.parquet", num_proc=2),
        lambda: ROWS.to_iterable_dataset().to_csv(tmp_path / "a.csv", num_proc=2),
        lambda: ROWS.to_json(tmp_path / "a.json", orient="split", lines=False, num_proc=2),
    ):
        with pytest.raises(ArgumentError, match="num_proc=2"):
            write()
    with pytest.raises(ArgumentError, match="at least 1"):
        ROWS.to_csv(tmp_path / "a.csv", num_proc=-1)


def _mixed(names: list[str], count: int) -> Any:
    for name in names:
        for number in range(count):
            yield {"name": name, "value": number if number % 2 else f"n{number}"}


def _other(names: list[str], count: int) -> Any:
    yield {"name": "other"}


def test_generators(tmp_path: Path, cache: Path):
    kwargs = {"gen_kwargs": {"names": ["a", "b", "c"], "count": 3}}
    one = Dataset.from_generator(_mixed, **kwargs)
    two = Dataset.from_generator(_mixed, num_proc=2, cache_dir=str(tmp_path / "other"), split="test", **kwargs)
    assert list(one) == list(two) == list(_mixed(["a", "b", "c"], 3)) and one.features == two.features
    assert two.split == "test" and all(Path(f["filename"]).is_relative_to(tmp_path / "other") for f in two.cache_files)
    assert Dataset.from_generator(_mixed, num_proc=2, keep_in_memory=True, **kwargs).cache_files == []
    named = Dataset.from_generator(_mixed, num_proc=2, fingerprint="one", **kwargs)
    assert list(Dataset.from_generator(_other, fingerprint="one", **kwargs)) == list(named) == list(one)
    assert named._fingerprint == "one"
    assert list(Dataset.from_generator(_other, fingerprint="two", **kwargs)) == [{"name": "other"}]


class Gate:
    """Coroutines that only go on once `count` of them wait: one after the other they never would."""

    def __init__(self, count: int) -> None:
        self.count, self.waiting = count, 0
        self.most = 0

    async def wait(self) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        for _ in range(100):
            if self.most >= self.count:
                break
            await asyncio.sleep(0)
        self.waiting -= 1


@pytest.mark.parametrize("is_stream", [False, True])
def test_coroutines_of_batches_wait_side_by_side(is_stream: bool):
    ds: Any = Dataset.from_dict({"a": list(range(50))})
    ds = ds.to_iterable_dataset() if is_stream else ds
    gate = Gate(10)

    async def mapped(batch: Any, at: list[int]) -> Any:
        await gate.wait()
        return {"b": [value + 1 for value in batch["a"]], "at": at}

    async def kept(batch: Any) -> Any:
        await gate.wait()
        return [value % 3 == 0 for value in batch["a"]]

    made = list(ds.map(mapped, batched=True, batch_size=5, with_indices=True, drop_last_batch=True))
    assert made == [{"a": i, "b": i + 1, "at": i} for i in range(50)] and gate.most == 10
    gate.most = 0
    assert [row["a"] for row in ds.filter(kept, batched=True, batch_size=5)] == list(range(0, 50, 3))
    assert gate.most == 10


def test_coroutines_of_batches_resume():
    async def mapped(batch: Any, at: list[int]) -> Any:
        await asyncio.sleep(0)
        return {"a": [value for value in batch["a"] for _ in range(2)], "at": [n for n in at for _ in range(2)]}

    def rows() -> Any:
        yield from ({"a": number} for number in range(53))

    for source in (IterableDataset.from_generator(rows), IterableDataset.from_dict({"a": list(range(53))})):
        ds = source.map(mapped, batched=True, batch_size=5, with_indices=True)
        whole = list(ds)
        for count in (1, 37, 105):
            walk = iter(ds)
            before = [next(walk) for _ in range(count)]
            state = ds.state_dict()
            again = source.map(mapped, batched=True, batch_size=5, with_indices=True)
            again.load_state_dict(state)
            assert before + list(again) == whole


def test_masks_of_other_lengths():
    for ds, kind in ((ROWS, MapError), (ROWS.to_iterable_dataset(), DatasetError)):
        for made in ([True], {"a": [True]}, "yes", None):
            with pytest.raises(kind, match="truth values"):
                list(ds.filter(lambda batch, made=made: made, batched=True, batch_size=5))


def test_rows_written_anew(tmp_path: Path):
    from martlet.datasets import Features, Value, load_dataset, load_dataset_builder

    ds = Dataset.from_dict({"a": [1, None, 3]}).select([2, 0])
    small = Features({"a": Value("int8")})
    assert ds.flatten_indices(features=small, disable_nullable=True).features == small
    with pytest.raises(ArgumentError, match="no value be missing; found 'a'"):
        Dataset.from_dict({"a": [1, None]}).select([1, 0]).flatten_indices(disable_nullable=True)
    ROWS.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  splits:\n  - name: train\n    num_examples: 7\n---\n", "utf-8"
    )
    with pytest.raises(ValueError, match="7 rows its card says"):
        load_dataset(str(tmp_path), save_infos=True, verification_mode="no_checks")
    with pytest.raises(ArgumentError, match="found already"):
        load_dataset_builder(str(tmp_path)).as_streaming_dataset(base_path="other")
    with pytest.raises(UnsupportedError, match="HF_TOKEN"):
        ds.features.decode_example({"a": 1}, token_per_repo_id={"org/name": "t"})


def test_public_names_take_hugging_faces_keywords():
    for mine, theirs in ((Dataset, hf.Dataset), (IterableDataset, hf.IterableDataset)):
        for name, member in inspect.getmembers(theirs, callable):
            if name.startswith("_") or not hasattr(mine, name) or isinstance(member, type):
                continue
            known = inspect.signature(getattr(mine, name)).parameters
            if any(p.kind is p.VAR_KEYWORD for p in known.values()):
                continue
            wanted = {
                n
                for n, p in inspect.signature(member).parameters.items()
                if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            }
            assert wanted - set(known) - {"self"} == set(), f"{mine.__name__}.{name}"
