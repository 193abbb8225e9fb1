"""Nearest rows by vectors, and what else of Hugging Face's surface is taken or refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import martlet.datasets as ours
from martlet.datasets import Dataset, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk
from martlet.datasets.search import FlatIndex
from martlet.errors import ArgumentError, FormatError, OfflineError, UnsupportedError

VECTORS = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)


@pytest.fixture
def ds() -> Dataset:
    return Dataset.from_dict({"n": list(range(50)), "vector": VECTORS.tolist()})


@pytest.mark.parametrize("metric", [0, 1])
def test_the_nearest_rows(ds: Dataset, metric: int):
    assert ds.add_faiss_index(column="vector", metric_type=metric) is ds
    query = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    all_scores = query @ VECTORS.T if metric == 0 else ((query[:, None] - VECTORS) ** 2).sum(2)
    order = np.argsort(-all_scores if metric == 0 else all_scores, axis=1)[:, :4]
    scores, examples = ds.get_nearest_examples("vector", query[:1], k=4)
    assert examples["n"] == order[0].tolist() and len(examples["vector"]) == 4
    np.testing.assert_allclose(scores, all_scores[0, order[0]], rtol=1e-5)
    found = ds.search("vector", query[1], k=4)
    assert found.indices.tolist() == order[1].tolist()
    totals = ds.search_batch("vector", query, k=4)
    assert [each.tolist() for each in totals.total_indices] == order.tolist()
    batches = ds.get_nearest_examples_batch("vector", query, k=4)
    assert [each["n"] for each in batches.total_examples] == order.tolist()
    assert len(ds.search("vector", query[0], k=400).indices) == 50


def test_an_index_is_kept_in_a_file_and_read(ds: Dataset, tmp_path: Path):
    ds.add_faiss_index("vector", index_name="by_vector")
    assert ds.list_indexes() == ["by_vector"] and ds.is_index_initialized("by_vector")
    ds.save_faiss_index("by_vector", tmp_path / "a.faiss")
    other = Dataset.from_dict({"n": list(range(50))})
    other.load_faiss_index("again", tmp_path / "a.faiss")
    assert other.search("again", VECTORS[7]).indices.tolist() == ds.search("by_vector", VECTORS[7]).indices.tolist()
    ds.drop_index("by_vector")
    assert ds.list_indexes() == []
    with pytest.raises(ArgumentError, match="add_faiss_index"):
        ds.search("by_vector", VECTORS[0])
    with pytest.raises(ArgumentError, match="must hold 2 vectors"):
        Dataset.from_dict({"n": [1, 2]}).load_faiss_index("x", tmp_path / "a.faiss")
    data = (tmp_path / "a.faiss").read_bytes()
    for number, broken in enumerate((data[:-1], data[:30], data[:4] + b"\xff" * 4 + data[8:])):
        (tmp_path / f"{number}.faiss").write_bytes(broken)
        with pytest.raises(FormatError):
            other.load_faiss_index("x", tmp_path / f"{number}.faiss")
    (tmp_path / "other").write_bytes(b"IwFl" + data[4:])
    with pytest.raises(UnsupportedError, match="custom_index"):
        other.load_faiss_index("x", tmp_path / "other")


def test_the_files_are_those_of_faiss(ds: Dataset, tmp_path: Path):
    faiss = pytest.importorskip("faiss")
    for metric, made in ((0, faiss.IndexFlatIP(6)), (1, faiss.IndexFlatL2(6))):
        made.add(VECTORS)
        faiss.write_index(made, str(tmp_path / "theirs"))
        FlatIndex(VECTORS, metric).save(tmp_path / "ours")
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
        np.testing.assert_array_equal(FlatIndex.load(tmp_path / "theirs").vectors, VECTORS)
    ds.add_faiss_index("vector", custom_index=faiss.index_factory(6, "HNSW8"))
    assert ds.search("vector", VECTORS[3], k=3).indices[0] == 3


def test_an_index_lies_where_fsspec_reaches(ds: Dataset, tmp_path: Path):
    ds.add_faiss_index("vector")
    ds.save_faiss_index("vector", "memory://indexes/a.faiss", storage_options={"skip_instance_cache": True})
    other = Dataset.from_dict({"n": list(range(50))})
    other.load_faiss_index("v", "memory://indexes/a.faiss", storage_options={"skip_instance_cache": True})
    assert other.search("v", VECTORS[9], k=1).indices.tolist() == [9]
    with pytest.raises(UnsupportedError, match="searches on the CPU"):
        other.load_faiss_index("v", "memory://indexes/a.faiss", device=0)
    with pytest.raises(FileNotFoundError):
        other.load_faiss_index("v", tmp_path / "none")


def test_an_index_of_ones_own_is_trained(ds: Dataset):
    class Own:
        d, trained, added = 6, 0, 0

        def train(self, vectors: Any) -> None:
            assert not self.added
            self.trained = len(vectors)

        def add(self, vectors: Any) -> None:
            self.added = len(vectors)

    ds.add_faiss_index("vector", custom_index=(own := Own()), train_size=20)
    assert (own.trained, own.added) == (20, 50)
    ds.add_faiss_index("vector", custom_index=(own := Own()))
    assert (own.trained, own.added) == (0, 50)


def test_what_an_index_needs(ds: Dataset):
    ds.add_faiss_index_from_external_arrays(VECTORS[::-1], "outside", string_factory="Flat")
    assert ds.search("outside", VECTORS[0], k=1).indices.tolist() == [49]
    with pytest.raises(UnsupportedError, match="custom_index"):
        ds.add_faiss_index("vector", string_factory="IVF10,Flat")
    with pytest.raises(UnsupportedError, match="CPU"):
        ds.add_faiss_index("vector", device=0)
    with pytest.raises(ArgumentError, match="one width"):
        ds.add_faiss_index("n")
    with pytest.raises(ArgumentError, match="must be 6 numbers"):
        ds.search("outside", VECTORS[0, :5])
    with pytest.raises(ArgumentError, match="must be one vector"):
        ds.search("outside", VECTORS[:2])
    with pytest.raises(ArgumentError, match="k: must be at least 1"):
        ds.search("outside", VECTORS[0], k=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ds: ds.add_elasticsearch_index("n"), "ds.sql"),
        (lambda ds: ds.to_tf_dataset(batch_size=2), "from_generator"),
        (lambda ds: Dataset.from_spark(None), "Parquet"),
        (lambda ds: IterableDataset.from_spark(None), "Parquet"),
        (lambda ds: ours.DownloadManager(), "from_generator"),
        (lambda ds: type("Mine", (ours.GeneratorBasedBuilder,), {}), "GeneratorBasedBuilder.*from_generator"),
        (lambda ds: type("Mine", (ours.ArrowBasedBuilder,), {}), "ArrowBasedBuilder.*from_generator"),
        (lambda ds: setattr(ours.config, "MAX_TABLES", 3), "IN_MEMORY_MAX_SIZE"),
    ],
)
def test_what_is_not_there_says_what_to_take(ds: Dataset, call: Any, words: str):
    with pytest.raises(UnsupportedError, match=words):
        call(ds)


def test_settings(ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ds.save_to_disk(tmp_path / "ds")
    ds.to_json(tmp_path / "ds.jsonl")

    def files(**how: Any) -> int:
        loaded = load_dataset("json", data_files=str(tmp_path / "ds.jsonl"), split="train", **how)
        return len(loaded.cache_files) + len(load_from_disk(tmp_path / "ds", **how).cache_files)

    assert ours.config.IN_MEMORY_MAX_SIZE == 0 and files() == 2
    monkeypatch.setattr(ours.config, "IN_MEMORY_MAX_SIZE", 100)
    assert files() == 2 and files(keep_in_memory=True) == 0
    monkeypatch.setattr(ours.config, "IN_MEMORY_MAX_SIZE", 1e9)
    assert files() == 0 and files(keep_in_memory=False) == 2
    monkeypatch.setattr(ours.config, "IN_MEMORY_MAX_SIZE", "much")
    with pytest.raises(ArgumentError, match="bytes"):
        files()
    assert ours.config.PYARROW_AVAILABLE and ours.config.PYARROW_VERSION.major >= 18
    with pytest.raises(AttributeError, match="IN_MEMORY_MAX_SIZE"):
        _ = ours.config.MAX_TABLES


def test_the_network_is_switched_off(monkeypatch: pytest.MonkeyPatch):
    before = ours.config.HF_HUB_OFFLINE
    with monkeypatch.context() as patch:
        patch.setattr(ours.config, "HF_DATASETS_OFFLINE", True)
        assert ours.config.HF_HUB_OFFLINE
        with pytest.raises(OfflineError):
            load_dataset("nobody/nothing")
    assert before == ours.config.HF_HUB_OFFLINE


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MARTLET_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert tmp_path / "home" / "martlet" / "datasets" == ours.config.HF_DATASETS_CACHE
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "theirs"))
    assert tmp_path / "theirs" / "martlet" == ours.config.HF_DATASETS_CACHE
    monkeypatch.setitem(ours.config._set, "HF_DATASETS_CACHE", tmp_path / "set")
    assert tmp_path / "set" == ours.config.HF_DATASETS_CACHE
    monkeypatch.setenv("MARTLET_DATASETS_CACHE", str(tmp_path / "ours"))
    assert tmp_path / "ours" == ours.config.HF_DATASETS_CACHE


def test_streams_are_told_their_split():
    dsets = IterableDatasetDict({split: IterableDataset.from_list([{"n": 1}]) for split in ("train", "test")})
    made = dsets.map(lambda row, split: {"split": split}, with_split=True)
    assert [list(each) for each in made.values()] == [[{"n": 1, "split": "train"}], [{"n": 1, "split": "test"}]]
    made = dsets.map(lambda row, number, split: {"split": (number, split)}, with_indices=True, with_split=True)
    assert list(made["test"]) == [{"n": 1, "split": (0, "test")}]
