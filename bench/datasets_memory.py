"""Peak memory of martlet.datasets as rows grow: a generated dataset, a map, a filter, a shuffled pass.

    python bench/datasets_memory.py

Each size runs in a process of its own. "own" is memory that the process allocated (RssAnon, sampled); pages of mapped
files are counted apart: the system takes them back whenever it wants.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROW_CHARS = 2_000


def rows(num_rows: int) -> Iterator[dict[str, Any]]:
    """Rows of about 2,000 bytes."""
    text = "abcdefghij" * (ROW_CHARS // 10)
    for number in range(num_rows):
        yield {"id": number, "text": f"{number}{text}", "score": number % 1000 / 1000}


def one(num_rows: int) -> None:
    """Does the work and prints the peak of own and of mapped memory, in MB."""
    from martlet.datasets import Dataset

    peaks = {"RssAnon": 0, "RssFile": 0}

    def watch() -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]))
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    ds = Dataset.from_generator(rows, gen_kwargs={"num_rows": num_rows})
    mapped = ds.map(lambda batch: {"n": [len(text) for text in batch["text"]]}, batched=True)
    kept = mapped.filter(lambda row: row["score"] > 0.5).shuffle(seed=0)
    total = sum(row["n"] for row in kept)
    assert total > 0
    print(
        f"{num_rows * ROW_CHARS / 1e6:8,.0f} {peaks['RssAnon'] / 1024:10,.0f} {peaks['RssFile'] / 1024:12,.0f}",
        flush=True,
    )


def main() -> None:
    if len(sys.argv) > 1:
        one(int(sys.argv[1]))
        return
    print("MB of rows     own, MB   mapped, MB")
    for num_rows in (50_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "MARTLET_DATASETS_CACHE": folder}
            subprocess.run([sys.executable, __file__, str(num_rows)], check=True, env=environment)


if __name__ == "__main__":
    main()
