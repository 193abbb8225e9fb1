"""Keys of functions: equal for equal behaviour in any process, different for anything that a result depends on."""

import functools
import re
import subprocess
import sys
import threading
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from martlet.datasets import Dataset
from martlet.datasets.hashing import key_of
from martlet.errors import HashingError

FACTOR = 2


@dataclass
class Point:
    x: int
    names: dict[str, int]


def key(value):
    return key_of(value)[0]


def by(n):
    return lambda row: {"a": row["a"] * n}


def uses_global(row):
    return {"a": row["a"] * FACTOR}


def test_what_a_result_depends_on_changes_the_key(monkeypatch):
    assert key(by(2)) == key(by(2)) != key(by(3))
    assert key(lambda row: row) != key(lambda row: None)
    assert key(functools.partial(by, 1)) != key(functools.partial(by, 2))
    before = key(uses_global)
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert key(uses_global) != before
    assert key(lambda row, n=1: n) != key(lambda row, n=2: n)
    assert key(lambda row, *, n=1: n) != key(lambda row, *, n=2: n)


PAIRS = [
    (np.arange(3), np.arange(3.0)),
    (torch.ones(2), torch.zeros(2)),
    (torch.ones(2, dtype=torch.bfloat16), torch.ones(2)),
    (Point(1, {"a": 1}), Point(1, {"a": 2})),
    (re.compile("a"), re.compile("a", re.I)),
    (pa.table({"a": [1]}), pa.table({"a": [2]})),
    (frozenset("ab"), frozenset("ac")),
    ({"a": 1}, {"a": 1.0}),
    ((1, 2), [1, 2]),
    (Tokenizer(WordLevel({"a": 0}, "a")), Tokenizer(WordLevel({"a": 0, "b": 1}, "a"))),
    (Dataset.from_dict({"a": [1]}), Dataset.from_dict({"a": [2]})),
    (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
    (b"a", "a"),
    (1, True),
]


@pytest.mark.parametrize("one, other", PAIRS, ids=lambda value: type(value).__name__)
def test_objects(one, other):
    assert key(one) == key(one) != key(other) == key(other)


def test_the_same_in_every_process():
    code = (
        "import sys; from martlet.datasets.hashing import key_of\n"
        "names = {'b', 'a', 'c'}\n"
        "class Sub:\n    def __init__(self, n): self.n = n\n"
        "def f(row, sub=Sub(3)): return {'n': row['a'] in names, 'm': [w for w in sub.n]}\n"
        "print(key_of(f)[0])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": str(seed)}
        ).stdout
        for seed in (1, 2)
    }
    assert len(runs) == 1


def test_what_can_be_run_later():
    seen, count = [], 0

    def writes(row):
        seen.append(row)

    def counts(row):
        nonlocal count
        count += 1

    assert key_of(by(2))[1]
    for function in (writes, counts, lambda row: print(row)):
        assert not key_of(function)[1]


def test_functions_that_write_outside_run_at_once():
    seen, count = [], 0

    def counts(row):
        nonlocal count
        count += 1

    ds = Dataset.from_dict({"a": [1, 2]})
    ds.map(lambda row: seen.append(row["a"]))
    ds.map(counts)
    assert seen == [1, 2] and count == 2


def test_what_cannot_be_hashed_is_named(tmp_path):
    Dataset.from_dict({"a": [1, 2]}).save_to_disk(tmp_path / "ds")
    ds = Dataset.load_from_disk(tmp_path / "ds")
    lock = threading.Lock()

    def uses_lock(row):
        with lock:
            return {"b": row["a"]}

    with pytest.raises(HashingError, match=r"variable 'lock': _thread.lock.*cache=False"):
        ds.map(uses_lock)
    assert ds.map(uses_lock, cache=False)["b"][:] == [1, 2]
    assert ds.map(uses_lock, new_fingerprint="mine")["b"][:] == [1, 2]


def test_our_tokenizer_has_a_key_and_keeps_it():
    from martlet.tokenizers import Tokenizer as Ours

    tokenizer = Ours(Tokenizer(WordLevel({"a": 0, "b": 1, "[PAD]": 2}, "a")))
    tokenizer.pad_token = "[PAD]"
    before = key_of(lambda row: tokenizer(row["a"], truncation=True))
    tokenizer(["a", "b"], padding=True, truncation=True, max_length=3)
    assert key_of(lambda row: tokenizer(row["a"], truncation=True)) == before and before[1]
    tokenizer.pad_token = "b"
    assert key_of(lambda row: tokenizer(row["a"], truncation=True))[0] != before[0]


def test_a_tokenizer_keeps_its_key_when_it_is_used():
    transformers = pytest.importorskip("transformers")
    plain = Tokenizer(WordLevel({"a": 0, "b": 1, "[PAD]": 2}, "a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]")
    before = key_of(lambda row: tokenizer(row["a"]))
    tokenizer(["a", "b"], padding=True, truncation=True, max_length=3)
    assert key_of(lambda row: tokenizer(row["a"]))[0] == before[0] and before[1]
