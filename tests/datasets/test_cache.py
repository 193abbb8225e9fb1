"""The cache: found again, evicted, shared by processes, deleted while in use, read-only, full, killed in the middle."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from martlet.cli import main
from martlet.datasets import Dataset, cache, disable_caching, enable_caching, load_dataset
from martlet.errors import ArgumentError, CacheError

CALLS: list[int] = []


@pytest.fixture
def ds(tmp_path: Path) -> Dataset:
    Dataset.from_dict({"a": list(range(200)), "t": [f"text {i}" for i in range(200)]}).save_to_disk(tmp_path / "ds")
    return Dataset.load_from_disk(tmp_path / "ds")


def noted(path: Path):
    """A function of rows that writes down each call."""
    name = str(path)

    def function(row):
        with open(name, "a") as file:
            file.write(f"{row['a']}\n")
        return {"b": row["a"] + 1}

    return function


def test_a_result_is_found_again(ds, tmp_path):
    function = noted(tmp_path / "calls")
    first = ds.map(function)
    assert first["b"][:] == list(range(1, 201))
    again = Dataset.load_from_disk(tmp_path / "ds").map(function)
    assert again[:] == first[:] and again.cache_files == first.cache_files
    assert len((tmp_path / "calls").read_text().split()) == 200
    assert ds.map(function, load_from_cache_file=False)["b"][:] == first["b"][:]
    assert len((tmp_path / "calls").read_text().split()) == 400
    later = os.stat(tmp_path / "ds" / "data-00000-of-00001.arrow").st_mtime_ns + 1_000_000
    os.utime(tmp_path / "ds" / "data-00000-of-00001.arrow", ns=(later, later))
    assert Dataset.load_from_disk(tmp_path / "ds").map(function).cache_files != first.cache_files


def test_a_chain_is_written_once_and_shown(ds, cache):
    chain = (
        ds.map(lambda row: {"b": row["a"] * 2}).filter(lambda row: row["b"] % 3 == 0).map(lambda row: {"c": -row["b"]})
    )
    shown = chain.plan()
    assert shown.count("map") == 2 and "filter" in shown and "written once" in shown and "then cached under" in shown
    assert not list(cache.glob("??/*.part"))
    assert chain["c"][:3] == [0, -6, -12]
    assert len([path for path in cache.glob("??/*") if path.is_dir()]) == 1
    same = (
        ds.map(lambda row: {"b": row["a"] * 2}).filter(lambda row: row["b"] % 3 == 0).map(lambda row: {"c": -row["b"]})
    )
    assert "memory" not in same.plan() and same[:] == chain[:]


def test_a_filter_picks_rows_without_writing_them(ds, cache):
    kept = ds.filter(lambda row: row["a"] > 190)
    assert len(kept) == 9 and kept.cache_files == ds.cache_files
    assert sum(path.stat().st_size for path in cache.rglob("*.arrow")) < 50_000


def test_no_caching(ds, cache):
    disable_caching()
    try:
        assert ds.map(lambda row: {"b": 1})["b"][:] == [1] * 200
    finally:
        enable_caching()
    assert not list(cache.rglob("*.arrow"))


def test_memory_and_files_of_ones_own(ds, tmp_path, cache):
    assert ds.map(lambda row: {"b": 1}, keep_in_memory=True).cache_files == []
    named = ds.map(lambda row: {"b": 1}, cache_file_name=str(tmp_path / "mine.arrow"))
    assert named.cache_files == [{"filename": str(tmp_path / "mine.arrow")}]
    assert Dataset.from_file(str(tmp_path / "mine.arrow"))[:] == named[:]
    kept = ds.filter(lambda row: row["a"] < 3, cache_file_name=str(tmp_path / "kept.arrow"))
    assert kept["a"][:] == [0, 1, 2] and (tmp_path / "kept.arrow").is_file()
    assert not list(cache.rglob("*.arrow"))


def test_the_longest_unused_goes_first(ds, monkeypatch):
    for n in range(3):
        _ = ds.map(lambda row, n: {"b": n}, fn_kwargs={"n": n})[0]
    first, second, third = cache.entries()
    now = time.time()
    for age, entry in ((30, second), (20, first), (10, third)):
        os.utime(entry.folder / "entry.json", (now - age, now - age))
    _ = ds.map(lambda row, n: {"b": n}, fn_kwargs={"n": 0})[0]  # used again, so the youngest
    assert next(entry.key for entry in cache.entries()) == second.key
    monkeypatch.setenv("MARTLET_DATASETS_CACHE_BYTES", str(sum(entry.num_bytes for entry in cache.entries()) - 1))
    assert [entry.key for entry in cache.evict()] == [second.key]
    monkeypatch.setenv("MARTLET_DATASETS_CACHE_BYTES", "much")
    with pytest.raises(ArgumentError, match="number of bytes"):
        cache.evict()


def test_deleted_while_in_use(ds, cache):
    mapped = ds.map(lambda row: {"b": row["a"]})
    assert mapped[0]["b"] == 0
    shutil.rmtree(cache)
    assert mapped["b"][:] == list(range(200))
    assert mapped.map(lambda row: {"c": row["b"]}, num_proc=2)["c"][:] == list(range(200))


def test_a_cache_that_cannot_be_written(ds, tmp_path, monkeypatch):
    first = ds.map(lambda row: {"b": 1})[0]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MARTLET_DATASETS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CacheError, match=r"cannot be written.*MARTLET_DATASETS_CACHE"):
        _ = ds.map(lambda row: {"b": 1})[0]
    assert ds.map(lambda row: {"b": 1}, keep_in_memory=True)[0] == first


def test_a_read_only_cache_is_still_read(ds, monkeypatch):
    first = ds.map(lambda row: {"b": 1})
    _ = first[0]
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert ds.map(lambda row: {"b": 1})[:] == first[:]
    with pytest.raises(CacheError, match="Read-only"):
        _ = ds.map(lambda row: {"b": 2})[0]


def refuse(*args, **kwargs):
    raise OSError(30, "Read-only file system")


@contextlib.contextmanager
def small_disk():
    """No file may grow beyond 20,000 bytes; writing more is an error of the system, as on a full disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_full_disk(ds, cache, num_proc):
    with small_disk(), pytest.raises(CacheError, match=r"cannot be written.*Free space"):
        _ = ds.map(lambda row: {"b": "x" * 10_000}, num_proc=num_proc)[0]
    if num_proc is None:  # a worker that is ended in the middle cannot clear away
        assert not list(cache.rglob("part-*"))  # nothing half-written fills it further
    assert ds.map(lambda row: {"b": "x" * 10_000}, num_proc=num_proc)[199]["b"] == "x" * 10_000


def test_a_full_disk_while_loading(tmp_path, cache):
    (tmp_path / "a.txt").write_text("a line of text\n" * 20_000)
    with small_disk(), pytest.raises(CacheError, match=r"cannot be written; found File too large"):
        load_dataset("text", data_files=str(tmp_path / "a.txt"))
    assert not list(cache.rglob("data.arrow*"))
    assert load_dataset("text", data_files=str(tmp_path / "a.txt"))["train"].num_rows == 20_000


SLOW = """
import sys, time
from martlet.datasets import Dataset
path, calls, num_proc = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None

def slow(row):
    with open(calls, "a") as file:
        file.write(f"{row['a']}\\n")
    time.sleep(0.005)
    return {"b": row["a"] + 1}

out = Dataset.load_from_disk(path).map(slow, num_proc=num_proc)
assert out["b"][:] == list(range(1, 201)), out["b"][:]
print("same rows")
"""


@pytest.mark.parametrize("num_proc", [0, 2])
def test_killed_in_the_middle_and_run_again(ds, tmp_path, num_proc):
    calls = tmp_path / "calls"
    command = [sys.executable, "-c", SLOW, str(tmp_path / "ds"), str(calls), str(num_proc)]
    process = subprocess.Popen(command)
    while not calls.exists() or len(calls.read_text().split()) < 60:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = len(calls.read_text().split())
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "same rows\n"
    again = len(calls.read_text().split()) - before
    assert again < 200  # what was finished was not done again
    assert not list(Path(os.environ["MARTLET_DATASETS_CACHE"]).glob("??/*.part"))


def test_two_processes_at_once_do_the_work_once(ds, tmp_path):
    calls = tmp_path / "calls"
    command = [sys.executable, "-c", SLOW, str(tmp_path / "ds"), str(calls), "0"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["same rows\n"] * 2
    assert sorted(set(map(int, calls.read_text().split()))) == list(range(200))
    assert len(calls.read_text().split()) <= 200 + 2  # each may try the first row to learn the columns


def test_the_command(ds, capsys, cache):
    _ = ds.map(lambda row: {"b": 1})[0]
    (cache / "ab").mkdir(exist_ok=True)
    left = cache / "ab" / f"ab{'0' * 30}.part"
    left.mkdir()
    os.utime(left, (0, 0))
    assert main(["cache", "ls"]) == 0
    assert "map" in (shown := capsys.readouterr().out) and "2 results" in shown and "not finished" in shown
    assert main(["cache", "gc", "--json"]) == 0
    assert [entry["is_finished"] for entry in json.loads(capsys.readouterr().out)["entries"]] == [False]
    assert main(["cache", "clear"]) == 0
    assert "removed 1 result," in capsys.readouterr().out
    assert main(["cache", "ls"]) == 0
    assert "0 results" in capsys.readouterr().out


def test_cleaning_up_removes_what_was_made_of_this_dataset_alone(tmp_path):
    def of(name):
        (tmp_path / name).write_text("a\n1\n2\n")
        return Dataset.from_csv(str(tmp_path / name))

    def twice(row):
        return {"a": row["a"] * 2}

    def plus(row):
        return {"b": row["a"] + 1}

    mine, other = of("mine.csv"), of("other.csv")
    made = mine.map(twice)
    assert made["a"][:] == [2, 4]
    last = made.map(plus)
    assert last["b"][:] == [3, 5] and other.map(twice)["a"][:] == [2, 4]
    num = len(cache.entries())
    assert last.cleanup_cache_files() == 1  # what it was made from; not what was loaded, nor the other's
    assert len(cache.entries()) == num - 1 and last["b"][:] == [3, 5]
    assert mine.cleanup_cache_files() == 1 and mine["a"][:] == [1, 2]
    assert Dataset.from_dict({"a": [1]}).cleanup_cache_files() == 0
    assert other.cleanup_cache_files() == 1 and len(cache.entries()) == 2


def test_a_result_that_lost_files_is_made_again(ds, caplog):
    made = ds.map(lambda row: {"b": row["a"] + 1})
    assert made["b"][:] == list(range(1, 201))
    Path(made.cache_files[3]["filename"]).unlink()
    again = ds.map(lambda row: {"b": row["a"] + 1})
    assert again["b"][:] == made["b"][:] and "files of a result are gone" in caplog.text
