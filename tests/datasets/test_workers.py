"""num_proc: fresh processes, errors and deaths told with their rows, nothing left behind."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from martlet.datasets import Dataset, DatasetDict, load_dataset, template
from martlet.datasets.runner import ThisProcess
from martlet.errors import HashingError, WorkerError


@pytest.fixture
def ds(tmp_path: Path) -> Dataset:
    Dataset.from_dict({"a": list(range(100))}).save_to_disk(tmp_path / "ds")
    return Dataset.load_from_disk(tmp_path / "ds")


def test_fresh_processes_share_the_rows_and_keep_their_order(ds):
    out = ds.map(lambda row, rank: {"pid": os.getpid(), "rank": rank, "b": -row["a"]}, num_proc=2, with_rank=True)
    assert out["b"][:] == [-a for a in range(100)]
    assert len(set(out["pid"])) == len(set(out["rank"])) == 2 and os.getpid() not in out["pid"][:]
    assert ds.shuffle(seed=1).filter(lambda row: row["a"] % 2, num_proc=2)["a"][:] == [
        a for a in ds.shuffle(seed=1)["a"] if a % 2
    ]


def test_rows_in_memory_go_to_workers_too():
    both = DatasetDict({"train": Dataset.from_dict({"a": [1, 2, 3] * 20}), "test": Dataset.from_dict({"a": [4]})})
    out = both.map(lambda rows: {"b": rows["a"]}, batched=True, batch_size=7, num_proc=2)
    assert out["train"]["b"][:] == [1, 2, 3] * 20 and out["test"]["b"][:] == [4]


def test_workers_are_fresh_whatever_ran_before(ds, monkeypatch):
    """Nothing of one run is left in the next, and chance is not the same in each of them."""

    def look(rows):
        import random

        had, sys.modules["left_behind"] = "left_behind" in sys.modules, sys
        return {"had": [had], "said": [os.environ.get("SAID")], "draw": [repr((np.random.rand(), random.random()))]}

    for said in ("one", "two"):
        monkeypatch.setenv("SAID", said)
        out = ds.map(look, batched=True, batch_size=50, num_proc=2, remove_columns="a", cache=False)
        assert out["said"][:] == [said] * 2 and len(set(out["draw"])) == 2
        assert not out["had"][0]
    assert not _children()


@pytest.mark.skipif(not template.IS_POSSIBLE, reason="no forks here")
def test_a_template_that_dies_is_told_and_replaced(ds, monkeypatch):
    def kills(row):
        os.kill(os.getppid(), signal.SIGKILL)
        return {"b": row["a"]}

    _ = ds.map(lambda row: {"b": 1}, num_proc=2, cache=False)[0]
    assert "template" in "".join(map(_command, _children_of(os.getpid())))
    assert ds.map(kills, num_proc=2, cache=False)["b"][:] == list(range(100))  # its workers have pipes of their own
    assert not _children()
    for _ in range(2):
        assert ds.map(lambda row: {"b": row["a"]}, num_proc=2, cache=False)["b"][:] == list(range(100))
    template.end()
    assert "template" not in "".join(map(_command, _children_of(os.getpid())))
    monkeypatch.setattr(template, "IS_POSSIBLE", False)  # interpreters of their own give the same
    assert ds.map(lambda row: {"b": row["a"]}, num_proc=2, cache=False)["b"][:] == list(range(100))


def test_a_worker_has_the_limits_of_its_caller(ds):
    resource = pytest.importorskip("resource")
    _ = ds.map(lambda row: {"b": 1}, num_proc=2, cache=False)[0]
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (old[0] - 1, old[1]))
    try:
        out = ds.map(lambda row: {"b": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}, num_proc=2, cache=False)
        assert set(out["b"]) == {old[0] - 1}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)


def test_memory_that_runs_out_in_a_worker_is_told(ds):
    def grows(row):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
        return {"b": len(bytearray(8 << 30))}

    with pytest.raises(MemoryError) as caught:
        _ = ds.map(grows, num_proc=2, cache=False)[0]
    assert "grows" in caught.value.__notes__[0] and not _children()


def die(row):
    if row["a"] == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"b": 1}


def test_a_worker_that_dies_ends_the_call(ds):
    with pytest.raises(WorkerError, match=r"died at rows 48 to 51; found it was ended by SIGKILL, .*memory"):
        _ = ds.map(die, num_proc=2)[0]
    with pytest.raises(WorkerError, match=r"ended with code 3"):
        ds.map(lambda row: os._exit(3), num_proc=2)  # at the first row, at the call, and not of this process
    assert not _children()


def test_an_error_in_a_worker_is_the_error_here(ds):
    def fails(row):
        raise KeyError("no such thing") if row["a"] > 90 else ZeroDivisionError if row["a"] < 0 else None
        return {"b": 1}

    def late(row):
        return {"b": 1 // (99 - row["a"])}

    with pytest.raises(ZeroDivisionError) as caught:
        _ = ds.map(late, num_proc=2)[0]
    assert "In a worker process" in "".join(caught.value.__notes__) and "late" in caught.value.__notes__[0]


def test_what_cannot_be_sent_is_named(ds):
    lock = threading.Lock()
    with pytest.raises(HashingError, match=r"cannot be sent to worker processes.*lock"):
        _ = ds.map(lambda row: {"b": lock.locked()}, num_proc=2, cache=False)[0]


def test_another_runner_can_do_the_work(ds):
    class Noting(ThisProcess):
        parts: tuple = ()

        def run(self, job, parts, on_rows):
            Noting.parts = tuple(parts)
            super().run(job, parts, on_rows)

    assert ds.map(lambda row: {"b": row["a"]}, runner=Noting())["b"][:] == list(range(100))
    assert Noting.parts[0] == (0, 0, 4) and Noting.parts[-1][2] == 100


SCRIPT = """
import os, sys, time
from martlet.datasets import Dataset
FACTOR = 2  # of the script itself: workers get it by value, and the script is not run again
print("started", flush=True)
def f(row):
    time.sleep(0.01)
    return {"b": row["a"] * FACTOR, "pid": os.getpid()}
ds = Dataset.load_from_disk(sys.argv[1]).map(f, num_proc=2)
open(sys.argv[2], "w").write("running")
print(ds["b"][:] == [2 * a for a in range(100)])
"""


def test_a_script_without_a_guard(ds, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "ds", tmp_path / "flag"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "started\nTrue\n" and done.stderr == ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_nothing_stays(ds, tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "ds"), str(tmp_path / "flag")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (workers := _children(process.pid)) or not list(
        Path(os.environ["MARTLET_DATASETS_CACHE"]).rglob("*.arrow")
    ):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    process.wait()
    while any(Path(f"/proc/{worker}").exists() and "martlet" in _command(worker) for worker in workers):
        time.sleep(0.01)
    cache = Path(os.environ["MARTLET_DATASETS_CACHE"])
    assert not list(cache.glob("??/*/entry.json"))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "started\nTrue\n"


def _children(pid: int | None = None) -> list[int]:
    """Worker processes of a process: its own, and what its template forked."""
    found = []
    for child in _children_of(pid or os.getpid()):
        if "martlet.datasets.worker" in _command(child):
            found.append(child)
        if "martlet.datasets.template" in _command(child):
            found.extend(_children_of(child))
    return found


def _children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found.append(int(path.name))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def test_splits_that_are_loaded_whole_go_to_workers_by_their_files(tmp_path):
    for name, count in (("train", 3000), ("test", 2000)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {number}\n" for number in range(count)))
    files = {"train": str(tmp_path / "train.txt"), "test": str(tmp_path / "test.txt")}
    for split in ("train", "test+train", "train[:100%]", "train[5:]+test", "test+test"):
        ds = load_dataset("text", data_files=files, split=split)
        sent = pickle.dumps(ds)
        assert pickle.loads(sent)["text"][:] == ds["text"][:]
        assert (len(sent) < 5000) == (split in ("train", "test+train", "train[:100%]"))
        made = ds.map(lambda row: {"n": len(row["text"])}, num_proc=2)
        assert made["n"][:] == [len(text) for text in ds["text"]]
