"""The table of `martlet.datasets`' speed and memory: ours beside Hugging Face's `datasets`, same files, in turn.

    python bench/datasets.py [--peer-python PATH] [--text FILE] [--tokenizer FOLDER] [--quick] [--only REGEX]
                             [--repeats N] [--json out.json] [--plot out.png]

Both libraries read one JSON Lines file of 200,000 rows (114 MB: a number, about 500 characters of text, a score), cut
from --text, else from Python's own manual. Each has a process of its own that stays; a line is run in one, then in the
other, and so on; what counts is the median of the clock. The result caches of both are off where a function runs. Times
of "theirs" are of the same work in the same run, but for lines that compare ours with ours. --json keeps what is
measured, so that pieces of a run (--only) make one table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROWS, CHARS = 200_000, 500
SERVE = """
import gc, json, sys, time
talk = sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    asked = json.loads(line)
    gc.collect()
    work = compile(asked["code"], "bench", "exec")
    begin = time.perf_counter()
    exec(work, globals())
    spent = time.perf_counter() - begin
    print(json.dumps(spent), file=talk, flush=True)
"""
WATCH = """
import json, sys, threading, time
from pathlib import Path
peaks = {"RssAnon": 0, "RssFile": 0}
def watch():
    while True:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]) // 1024)
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
"""
FLAT = """
ds = load_dataset("json", data_files=PATH, split="train")
ds = ds.map(lambda batch: {"n": [len(text) for text in batch["text"]]}, batched=True)
ds = ds.filter(lambda row: row["score"] > 0.5).shuffle(seed=0)
assert sum(row["n"] for row in ds.select(range(len(ds) // 10))) > 0
print("PEAKS", json.dumps(peaks))
"""
# Work that Python does for a row: a tenth of a millisecond, as people's functions take.
SLOW = '{"words": sum(len(word) % 7 for word in row["text"].split() * 4)}'


@dataclass(frozen=True)
class Line:
    """One line: the code of both, how many rows it goes over, how much faster ours is to be."""

    name: str
    target: float | None
    ours: str
    theirs: str = ""  # "": the same
    share: float = 1.0  # of the rows
    before: str = ""  # not measured
    repeats: int = 5


LOAD = 'load_dataset("json", data_files=PATH, split="train", cache_dir=tempfile.mkdtemp(dir=FOLDER))'
DRAIN = "deque({}, maxlen=0)"
BATCH = 'ds.map(lambda batch: tokenizer(batch["text"]), batched=True)[0]'
LINES = (
    Line("load_dataset, nothing cached", 2, "made = " + LOAD),
    Line(
        "tokenize()", 8, "martlet.datasets.tokenize(few, tokenizer)[0]", BATCH.replace("ds.", "few."), 0.05, repeats=3
    ),
    Line("map(tokenizer), batched", 8, BATCH.replace("ds.", "few."), share=0.05, repeats=3),
    Line("filter by expression", 10, 'ds.filter("score > 0.5")[0]', 'ds.filter(lambda row: row["score"] > 0.5)[0]'),
    Line("filter(lambda) of a number", 1.5, 'ds.filter(lambda row: row["score"] > 0.5)[0]'),
    Line("filter(lambda) of the text", 1.5, 'ds.filter(lambda row: "king" in row["text"])[0]', repeats=3),
    Line("map(lambda)", 1.5, 'ds.map(lambda row: {"n": row["id"] + 1})[0]', repeats=3),
    Line("map(lambda) of the text", 1.5, 'ds.map(lambda row: {"n": len(row["text"])})[0]', repeats=3),
    Line("map(lambda) that changes the text", 1.5, 'ds.map(lambda row: {"text": row["text"].lower()})[0]', repeats=3),
    Line("map(lambda, batched)", 1.5, 'ds.map(lambda b: {"n": [len(t) for t in b["text"]]}, batched=True)[0]'),
    Line("iterate rows", 2, DRAIN.format("ds"), repeats=3),
    Line("iterate rows after shuffle", 4, DRAIN.format("mixed.select(range(len(ds) // 4))"), share=0.25, repeats=3),
    Line("iterate batches of 1,000", None, DRAIN.format("ds.iter(1000)"), repeats=3),
    Line("iterate batches after shuffle", None, DRAIN.format("mixed.iter(1000)"), repeats=3),
    Line("ds[i], 10,000 times", 2, "for i in picked: ds[i]", share=0.05),
    Line("ds[10,000 random rows]", 2, "ds[picked]", share=0.05),
    Line(
        "stream rows",
        None,
        DRAIN.format('load_dataset("json", data_files=PATH, split="train", streaming=True)'),
        repeats=3,
    ),
)  # fmt: skip
BOTH = """
import random, tempfile
from collections import deque
disable_caching()
ds = load_dataset("json", data_files=PATH, split="train")
few, part, mixed = ds.select(range(len(ds) // 20)), ds.select(range(len(ds) // 10)), ds.shuffle(seed=0)
draw = random.Random(1)
picked = [draw.randrange(len(ds)) for _ in range(len(ds) // 20)]
"""
TOKENIZER = "from {module} import AutoTokenizer\ntokenizer = AutoTokenizer.from_pretrained(TOKENIZER)\n"
WARM = "few.select(range(10)).map(lambda b: tokenizer(b['text']), batched=True)[0]"  # what is read or proved once


class Library:
    """A process in which one of the libraries works."""

    def __init__(self, python: str, module: str, names: dict[str, str], folder: Path) -> None:
        environment = {"MARTLET_DATASETS_CACHE": str(folder), "HF_HOME": str(folder), "TOKENIZERS_PARALLELISM": "true"}
        self.module, self.names = module, names
        self._process = subprocess.Popen(
            [python, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, **environment, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
        )  # fmt: skip
        values = "\n".join(f"{name} = {value!r}" for name, value in names.items())
        self.run(f"import {module}\nfrom {module} import load_dataset, disable_caching\n{values}\n{BOTH}")
        transformers = "martlet" if module.startswith("martlet") else "transformers"
        self.run(TOKENIZER.format(module=transformers) + WARM)

    def run(self, code: str) -> float:
        """Seconds of the code."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": code}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.module} could not run: {code}")
        return float(json.loads(answer))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def text_of(path: str) -> str:
    """Real text: the file's, else that of Python's manual, which every Python has."""
    if path:
        return Path(path).read_text("utf-8")
    from pydoc_data.topics import topics

    return "\n".join(topics.values())


def make_rows(path: Path, text: str, num_rows: int) -> None:
    """`num_rows` objects, about 570 bytes each, cut from the text; the same for the same text."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            start, length = draw.randrange(len(text) - 2 * CHARS), draw.randint(CHARS * 4 // 5, CHARS * 6 // 5)
            row = {"id": number, "text": text[start : start + length], "score": draw.random()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def make_tokenizer(folder: Path, text: str) -> str:
    """A byte-level vocabulary of 16,000 made from the text, for a run without --tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=16_000, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(text.splitlines(), trainer)
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return str(folder)


def start_of(python: str, module: str) -> float:
    """Seconds of the import in a new process."""
    code = f"import time; begin = time.perf_counter(); import {module}; print(time.perf_counter() - begin)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tempfile.gettempdir())
    return float(done.stdout)


def peaks_of(num_rows: int, text: str) -> dict[str, int]:
    """Peak megabytes that a process allocated, and that it mapped, while it loads, maps, filters and shuffles."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        make_rows(path, text, num_rows)
        head = f"from martlet.datasets import load_dataset\nPATH = {str(path)!r}\n"
        environment = {**os.environ, "MARTLET_DATASETS_CACHE": folder}
        done = subprocess.run(
            [sys.executable, "-c", WATCH + head + FLAT], capture_output=True, text=True, env=environment, cwd=folder
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        found: dict[str, int] = json.loads(done.stdout.rpartition("PEAKS")[2])
        return {**found, "file": path.stat().st_size // 1_000_000}


class Table:
    """Lines as they are measured, printed at once, and kept."""

    def __init__(self, kept: str) -> None:
        self._path = Path(kept) if kept else None
        self.lines: dict[str, dict[str, Any]] = {}
        if self._path is not None and self._path.is_file():
            self.lines = json.loads(self._path.read_text())

    def head(self, words: str) -> None:
        """Titles."""
        print(words)
        print(f"{'':36}{'datasets':>14}{'martlet':>14}{'ratio':>8}{'target':>9}", flush=True)

    def add(
        self, name: str, theirs: float, ours: float, target: float | None, unit: str, *, least: bool = True
    ) -> None:
        """A line. `least`: the ratio is to be the target or more; else ours is to be the target or less."""
        self.lines[name] = {"theirs": theirs, "ours": ours, "target": target, "unit": unit, "least": least}
        if self._path is not None:
            self._path.write_text(json.dumps(self.lines, indent=1))
        self.show(name)

    def show(self, name: str) -> None:
        """Prints a line."""
        line = self.lines[name]
        theirs, ours, target, unit = (line[key] for key in ("theirs", "ours", "target", "unit"))
        ratio = theirs / ours if unit in ("s", "MB") else ours / theirs
        shown = [f"{value:,.0f}" if value >= 100 or unit == "MB" else f"{value:.3f}" for value in (theirs, ours)]
        if target is None:
            said = ""
        elif line["least"]:
            said = f"{target:g}x" + ("" if ratio >= target else " missed")
        else:
            said = f"<{target:g}" + ("" if ours < target else " missed")
        print(f"{name:36}{shown[0]:>9} {unit:>4}{shown[1]:>9} {unit:>4}{ratio:>7.2f}x  {said}", flush=True)

    def plot(self, path: str) -> None:
        """The ratios as bars, the targets as marks."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        lines = {name: line for name, line in self.lines.items() if line["least"]}
        ratios = [
            line["theirs"] / line["ours"] if line["unit"] == "s" else line["ours"] / line["theirs"]
            for line in lines.values()
        ]
        figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(lines) + 1.2))
        axes.barh(list(lines), ratios, color="#4477aa")
        marks = [(line["target"], at) for at, line in enumerate(lines.values()) if line["target"]]
        axes.plot(*zip(*marks, strict=True), "|", color="#cc3311", markersize=14, markeredgewidth=2, label="target")
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlabel("martlet.datasets, times datasets' speed")
        axes.invert_yaxis()
        axes.legend()
        figure.savefig(path, bbox_inches="tight", dpi=150)


@contextlib.contextmanager
def libraries(asked: argparse.Namespace, text: str, num_rows: int) -> Iterator[tuple[Library, Library]]:
    """Both, with the rows loaded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "rows.jsonl"
        make_rows(path, text, num_rows)
        tokenizer = asked.tokenizer or make_tokenizer(folder / "tokenizer", text)
        names = {"PATH": str(path), "FOLDER": name, "TOKENIZER": os.path.abspath(tokenizer)}
        theirs = Library(asked.peer_python, "datasets", names, folder)
        try:
            ours = Library(sys.executable, "martlet.datasets", names, folder)
            try:
                yield theirs, ours
            finally:
                ours.close()
        finally:
            theirs.close()


def measure(line: Line, theirs: Library, ours: Library, repeats: int) -> tuple[float, float]:
    """Median seconds of both, in turn."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        found[0].append(theirs.run(line.theirs or line.ours))
        found[1].append(ours.run(line.ours))
    return statistics.median(found[0]), statistics.median(found[1])


def two_processes(theirs: Library, ours: Library, table: Table, repeats: int, num_rows: int) -> None:
    """A map on one process beside two, each library with itself."""
    for library, target in ((ours, 1.0), (theirs, None)):
        one, two = [], []
        for _ in range(repeats):
            one.append(library.run(f"part.map(lambda row: {SLOW})[0]"))
            two.append(library.run(f"part.map(lambda row: {SLOW}, num_proc=2)[0]"))
        name = f"{library.module.split('.')[0]}: map on 1, on 2 processes"
        table.add(name, num_rows // 10 / statistics.median(one), num_rows // 10 / statistics.median(two), target, "/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has datasets and transformers")
    parser.add_argument("--text", default="", help="a text file to cut the rows from")
    parser.add_argument("--tokenizer", default="", help="a folder with a tokenizer.json")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, fewer repeats")
    parser.add_argument("--only", default="", help="lines whose name matches this")
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--json", default="", help="a file to keep the lines in")
    parser.add_argument("--plot", default="", help="a PNG of the ratios")
    asked = parser.parse_args()
    asked.peer_python = os.path.abspath(asked.peer_python)  # runs start elsewhere
    wanted = re.compile(asked.only)
    num_rows = ROWS // 10 if asked.quick else ROWS
    text, table = text_of(asked.text), Table(asked.json)
    table.head(f"{num_rows:,} rows of JSON Lines; medians of runs in turn; rows a second unless a unit is given")
    lines = [line for line in LINES if wanted.search(line.name)]
    is_paired = bool(wanted.search("map on 1, on 2 processes"))
    if lines or is_paired:
        with libraries(asked, text, num_rows) as (theirs, ours):
            for line in lines:
                repeats = asked.repeats or (2 if asked.quick else line.repeats)
                slow, fast = measure(line, theirs, ours, repeats)
                if line.name.startswith("load"):
                    table.add(line.name, slow, fast, line.target, "s")
                else:
                    table.add(line.name, line.share * num_rows / slow, line.share * num_rows / fast, line.target, "/s")
            if is_paired:
                two_processes(theirs, ours, table, asked.repeats or (1 if asked.quick else 3), num_rows)
    if wanted.search("import"):
        slow, fast = (
            statistics.median(start_of(python, module) for _ in range(asked.repeats or 5))
            for python, module in (
                (asked.peer_python, "datasets"),
                (sys.executable, "martlet.datasets"),
            )
        )
        table.add("import", slow, fast, 0.3, "s", least=False)
    if wanted.search("memory"):
        sizes = (17_500, 175_000) if asked.quick else (175_000, 3_500_000)
        small, large = (peaks_of(rows, text) for rows in sizes)
        name = f"own memory, {small['file']} MB, then {large['file']:,}"
        table.add(name, small["RssAnon"], large["RssAnon"], small["RssAnon"] * 1.5, "MB", least=False)
    if asked.json:
        print("\nall lines so far")
        for name in table.lines:
            table.show(name)
    if asked.plot:
        table.plot(asked.plot)


if __name__ == "__main__":
    main()
