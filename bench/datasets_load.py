"""Loading, streaming and tokenizing with martlet.datasets beside Hugging Face's. Prints one table of ratios.

    python bench/datasets_load.py [--rows 200000] [--tokenizer FOLDER] [--memory]

Both libraries read the same JSON Lines (about 570 bytes a row), alternating, each in a new process with an empty cache;
seconds of the call alone, medians of three. `--memory` compares peak memory at 100 MB and 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WORDS = ["the", "of", "and", "to", "in", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he", "but"]

LOAD = "ds = {library}.load_dataset('json', data_files={path!r}, split='train', cache_dir={cache!r}{more})"
STREAM = "ds = {library}.load_dataset('json', data_files={path!r}, split='train', streaming=True)"
MEASURES = {
    "load_dataset, cold": ("", LOAD, LOAD),
    "streaming: all rows": ("", STREAM + "\nfor row in ds: pass", STREAM + "\nfor row in ds: pass"),
    "streaming: shuffled": (
        "",
        STREAM + ".shuffle(seed=1)\nfor row in ds: pass",
        STREAM + ".shuffle(seed=1, buffer_size=10000)\nfor row in ds: pass",
    ),
}
TOKENIZE = {
    "tokenize": (
        LOAD + "\nds = ds.select(range(min(20000, len(ds))))\nfrom martlet import AutoTokenizer\n"
        "tok = AutoTokenizer.from_pretrained({tokenizer!r})\nfrom martlet.datasets import tokenize_backend\n"
        "tokenize_backend(tok)",
        "made = martlet.datasets.tokenize(ds, tok)\nlen(made)",
        LOAD + "\nds = ds.select(range(min(20000, len(ds))))\nfrom transformers import AutoTokenizer\n"
        "tok = AutoTokenizer.from_pretrained({tokenizer!r})",
        "ds.map(lambda b: tok(b['text']), batched=True)",
    )
}
PROCESS = """
import json, resource, sys, time
import {module}
{quiet}
open({cache!r} + "/warm.jsonl", "w").write('{{"a": 1}}')
{module}.load_dataset("json", data_files={cache!r} + "/warm.jsonl", cache_dir={cache!r})  # what is imported lazily
{before}
begin = time.perf_counter()
{work}
spent = time.perf_counter() - begin
print("ANSWER", json.dumps([spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def make(path: Path, num_rows: int) -> None:
    """`num_rows` objects with an id, about 500 characters of text and a score."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=150))[:500] for _ in range(500)]
    with path.open("w") as file:
        for number in range(num_rows):
            text = f"{number} {lines[draw.randrange(500)]}"
            file.write(json.dumps({"id": number, "text": text, "score": draw.random()}) + "\n")


def run(module: str, before: str, work: str, **names: str) -> tuple[float, float]:
    """Seconds of the work and peak megabytes of its process."""
    with tempfile.TemporaryDirectory() as cache:
        quiet = "datasets.disable_progress_bars()" if module == "datasets" else ""
        filled = {"cache": cache, "library": module, "more": "", **names}
        code = PROCESS.format(
            module=module, quiet=quiet, cache=cache, before=before.format(**filled), work=work.format(**filled)
        )
        environment = {"MARTLET_DATASETS_CACHE": cache, "HF_HOME": cache, "TOKENIZERS_PARALLELISM": "true"}
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, megabytes = json.loads(done.stdout.rpartition("ANSWER")[2])
    return seconds, megabytes


def compare(name: str, ours: tuple[str, str], theirs: tuple[str, str], repeats: int, **names: str) -> None:
    """One line: both medians and their ratio."""
    found: dict[str, list[float]] = {"martlet.datasets": [], "datasets": []}
    for _ in range(repeats):
        found["martlet.datasets"].append(run("martlet.datasets", *ours, **names)[0])
        found["datasets"].append(run("datasets", *theirs, **names)[0])
    mine, other = (statistics.median(found[module]) for module in ("martlet.datasets", "datasets"))
    print(f"{name:28} {mine:9.2f} s {other:9.2f} s {other / mine:7.1f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--memory", action="store_true")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="martlet-bench-"))
    try:
        path = folder / "rows.jsonl"
        make(path, asked.rows)
        print(f"{asked.rows} rows, {path.stat().st_size / 1e6:.0f} MB      martlet.datasets    datasets")
        for name, (before, ours, theirs) in MEASURES.items():
            compare(name, (before, ours), (before, theirs), asked.repeats, path=str(path))
        one, two = (
            statistics.median(
                run("martlet.datasets", "", LOAD, path=str(path), more=f", num_proc={count}")[0]
                for _ in range(asked.repeats)
            )
            for count in (1, 2)
        )
        print(f"num_proc=1, then 2           {one:9.2f} s {two:9.2f} s {one / two:7.1f}x", flush=True)
        if asked.tokenizer:
            for name, (before, work, their_before, their_work) in TOKENIZE.items():
                names = {"path": str(path), "tokenizer": asked.tokenizer}
                compare(f"{name}, 20,000 rows", (before, work), (their_before, their_work), asked.repeats, **names)
        if asked.memory:
            for rows in (175_000, 3_500_000):
                make(path, rows)
                size = path.stat().st_size / 1e6
                peak = run("martlet.datasets", "", LOAD, path=str(path))[1]
                print(f"peak memory of a load of {size:.0f} MB: {peak:.0f} MB")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
