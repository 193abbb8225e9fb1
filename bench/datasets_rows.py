"""Rows of martlet.datasets beside Hugging Face's: filter, map, iterate, index. Prints one table of ratios.

    python bench/datasets_rows.py [rows] [--cpu]

Both libraries work on the same Arrow file, alternating, each measure its best of three; caches off, so all is work.
--cpu counts the processor's time instead of the clock's: what to ask for on a machine that others use too.
"""

from __future__ import annotations

import gc
import random
import string
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets as theirs
import numpy as np

import martlet.datasets as ours

CLOCK = time.process_time if "--cpu" in sys.argv else time.perf_counter


def make(folder: Path, num_rows: int) -> Path:
    """About 500 characters of text, a number and a score a row."""
    rng = np.random.default_rng(0)
    base = "".join(random.Random(0).choices(string.ascii_lowercase + "    ", k=200_000))
    starts, lengths = rng.integers(0, 199_000, num_rows), rng.integers(300, 700, num_rows)
    columns = {
        "id": np.arange(num_rows),
        "text": [base[start : start + length] for start, length in zip(starts, lengths, strict=True)],
        "score": rng.random(num_rows),
    }
    ours.Dataset.from_dict(columns).save_to_disk(folder / "rows")
    return folder / "rows"


def best(calls: dict[str, Callable[[], Any]], repeats: int = 3) -> dict[str, float]:
    """Seconds of each call, alternating."""
    found: dict[str, float] = {}
    for _ in range(repeats):
        for name, call in calls.items():
            gc.collect()
            begin = CLOCK()
            call()
            found[name] = min(found.get(name, 1e9), CLOCK() - begin)
    return found


def drain(rows: Any) -> None:
    for _ in rows:
        pass


def slow(row: Any) -> dict[str, int]:
    """Work that Python does for each row: about a tenth of a millisecond."""
    return {"words": sum(len(word) % 7 for word in row["text"].split() * 4)}


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    num_rows = numbers[0] if numbers else 100_000
    ours.disable_caching()
    theirs.disable_caching()
    theirs.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder), num_rows)
        mine, other = ours.load_from_disk(path), theirs.load_from_disk(path)
        picked = np.random.default_rng(1).integers(0, num_rows, 10_000).tolist()
        some = picked[:5_000]
        few = range(num_rows // 4)
        journeys: list[tuple[str, float, int, Callable[[Any], Any]]] = [
            ("filter(lambda) on a float", 1.5, num_rows, lambda ds: len(ds.filter(lambda row: row["score"] > 0.5))),
            ("map(lambda)", 1.5, num_rows, lambda ds: ds.map(lambda row: {"n": row["id"] + 1})[0]),
            ("map(lambda) over the text", 1.5, num_rows, lambda ds: ds.map(lambda row: {"n": len(row["text"])})[0]),
            (
                "map(lambda, batched)",
                1.5,
                num_rows,
                lambda ds: ds.map(lambda b: {"n": list(map(len, b["text"]))}, batched=True)[0],
            ),
            ("iterate rows", 2, num_rows, drain),
            ("iterate after shuffle", 4, num_rows // 4, lambda ds: drain(ds.shuffle(seed=0).select(few))),
            ("iterate batches of 1,000", 1, num_rows, lambda ds: drain(ds.iter(1000))),
            ("iterate after shuffle, batches", 1, num_rows, lambda ds: drain(ds.shuffle(seed=0).iter(1000))),
            ("ds[i]", 2, len(some), lambda ds: [ds[i] for i in some]),
            ("ds[10,000 random rows]", 2, 10_000, lambda ds: ds[picked]),
        ]
        print(f"{num_rows:,} rows, rows/s\n{'':34}{'theirs':>12}{'ours':>12}{'ratio':>8}{'target':>8}")
        for name, target, count, call in journeys:
            found = best({"theirs": lambda call=call: call(other), "ours": lambda call=call: call(mine)})
            show(name, count, found, target)
        by = best(
            {
                "theirs": lambda: len(other.filter(lambda row: row["score"] > 0.5)),
                "ours": lambda: len(mine.filter("score > 0.5")),
            }
        )
        show("filter('score > 0.5')", num_rows, by, 10)
        if "--cpu" in sys.argv:  # two processes take no less of the processor
            return
        part = mine.select(range(num_rows // 4))
        pair = best({"theirs": lambda: part.map(slow)[0], "ours": lambda: part.map(slow, num_proc=2)[0]}, 2)
        show("ours: map of 1 beside 2 processes", num_rows // 4, pair, 1)


def show(name: str, count: int, seconds: dict[str, float], target: float) -> None:
    old, new = (count / seconds[key] for key in ("theirs", "ours"))
    print(f"{name:34}{old:12,.0f}{new:12,.0f}{new / old:8.1f}{target:8.1f}", flush=True)


if __name__ == "__main__":
    main()
