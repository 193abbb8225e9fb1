"""The table of generation's speed: ours beside llama.cpp and Hugging Face, on the same files, in turn.

    python bench/generation.py FOLDER [--peer-python PATH] [--quick] [--out generation.json] [--only SECTIONS] [--huge]

FOLDER holds SmolLM2-135M-Instruct.Q4_1.gguf; the other files are made beside it. Sections: formats, requests, start,
hugging-face, others (CTranslate2 and OpenVINO), lengths, batches, context, huge. Every number is a median of runs that
alternate between the engines, and peers count with their better settings. What is measured is kept in --out and not
measured again, so a run that was stopped goes on; --fresh forgets it. A section that its share of --minutes does not
reach has fewer runs, at least one. --pieces N measures N comparisons that are not there yet and ends, for a machine
that is quiet for minutes only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from variants import SMOLLM2, half_variant, seven_variant, smollm2_folder, smollm2_variant

from martlet.bench.limits import find_work
from martlet.bench.machine import Limits, Machine, find_machine, measure_limits
from martlet.bench.peers import PEERS, start_peer, why_absent
from martlet.bench.run import Engine, Load, Series, Worker, best_of, ratio, run_in_turn
from martlet.checkpoint import open_checkpoint
from martlet.formats.files import write_json

SECTIONS = ("formats", "requests", "start", "hugging-face", "others", "lengths", "batches", "context")
# Sixteen prompts of 16 to 256 tokens, 2,176 together.
MIXED = (16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256)
TARGETS = {  # decode and prefill, times llama.cpp
    "SmolLM2 Q4_1": (2.4, 6), "SmolLM2 Q4_0": (1.8, 3), "SmolLM2 Q8_0": (1.6, 3), "SmolLM2 BF16": (1.2, 1.8),
    "0.5B mixture": (1.8, None), "0.5B Q8_0": (1.4, None), "0.5B F16": (1.0, None),
}  # fmt: skip
START_OURS = """
import sys
from martlet.cli import main
main(["generate", sys.argv[1], "Hello", "--greedy", "--max-new-tokens", "1"])
"""
START_LLAMA = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, n_threads=int(sys.argv[2]), n_threads_batch=int(sys.argv[2]), verbose=False)
print(model.create_chat_completion([{"role": "user", "content": "Hello"}], max_tokens=1, temperature=0))
"""


@dataclass
class Bench:
    """What every section needs."""

    arguments: argparse.Namespace
    machine: Machine
    results: dict[str, Any]
    began_s: float = field(default_factory=time.monotonic)
    kept: int = 0

    @property
    def left_s(self) -> float:
        return self.arguments.minutes * 60 - (time.monotonic() - self.began_s)

    def keep(self, key: str, found: Any) -> Any:
        self.results[key] = found
        write_json(self.arguments.out, self.results)
        self.kept += 1
        if self.kept == self.arguments.pieces:
            raise SystemExit(f"{key} is measured. Run it again to go on.")
        return found

    @contextmanager
    def engines(self, path: Path, names: tuple[str, ...], context: int, rows: int) -> Iterator[tuple[dict, dict]]:
        """Ours and the peers that are there, each in a process of its own, the model loaded; and ours' facts.

        A peer that cannot read `path` has the same model's folder, which CTranslate2 converts once.
        """
        ours = Worker("martlet")
        started: dict[str, Engine] = {"martlet": ours}
        threads = self.machine.num_threads
        try:
            facts = ours.ask(do="load", model=str(path), threads=threads, context=context, rows=rows, options={})[
                "loaded"
            ]
            for name in names:
                python = self.arguments.peer_python
                if problem := why_absent(PEERS[name], python):
                    say(problem)
                    continue
                model, options = path, {}
                if PEERS[name].needs_folder:
                    model = smollm2_folder(self.arguments.folder / SMOLLM2, self.arguments.folder)
                    options = {"converted": str(self.arguments.folder / f"{model.name}.{name}")}
                more, problems = start_peer(
                    PEERS[name], str(model), python, threads=threads, context=context, rows=rows, **options
                )
                started |= more
                for problem in problems:
                    say(problem)
            yield started, facts
        finally:
            for engine in started.values():
                engine.close()

    def compare(self, key: str, path: Path, load: Load, repeats: int, peers: tuple[str, ...], share: float) -> dict:
        """One load on one file, every engine in turn; kept under `key`."""
        if key in self.results:
            return self.results[key]
        say(f"{key} ...")
        arch = open_checkpoint(path).config.arch
        deadline = time.monotonic() + max(self.left_s, 0) * share
        with self.engines(path, peers, load.longest, len(load.lengths)) as (engines, facts):
            limits = measure_limits(self.machine, facts["packed_bytes"])
            series: dict[str, Series] = {}
            for repeat in range(repeats):
                more = run_in_turn(engines, load, arch.vocab_size, 1, warm=not repeat, first_seed=repeat)
                for name, each in more.items():
                    series.setdefault(name, Series(name)).runs.extend(each.runs)
                if time.monotonic() > deadline:
                    break
            limits = limits.better(measure_limits(self.machine, facts["packed_bytes"]))
        return self.keep(key, found(arch, facts, load, series, limits))


def found(arch: Any, facts: dict, load: Load, series: dict[str, Series], limits: Limits) -> dict[str, Any]:
    """The numbers of a comparison: ours, each peer's better setting, ratios, shares of the machine."""
    ours = series["martlet"]
    work = find_work(arch, facts["kinds"], facts["packed_bytes"], load, limits)
    result: dict[str, Any] = {
        "runs": len(ours.runs),
        "martlet": {of: ours.median(of) for of in ("prefill", "decode", "job", "first_token_s")},
        "share_of_read": ours.median("decode") / work.decode_limit(limits) if load.new_tokens > 1 else None,
        "share_of_peak": work.prefill_s(limits) / ours.median("first_token_s"),
        "bytes_per_step": work.step_bytes,
        "read_gb_s": limits.model_read.best / 1e9,
        "each": {name: {of: one.median(of) for of in ("prefill", "decode", "job")} for name, one in series.items()},
    }
    for peer in PEERS:
        settings = [each for name, each in series.items() if name.startswith(peer)]
        for of in ("prefill", "decode", "job") if settings else ():
            best = best_of(settings, of)
            result.setdefault(peer, {})[of] = best.median(of)
            result.setdefault(f"times {peer}", {})[of] = ratio(ours, best, of)
    return result


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def files(bench: Bench) -> dict[str, Path]:
    """Every file of the formats section, made if it is not there."""
    folder, quick = bench.arguments.folder, bench.arguments.quick
    made = {}
    for kind in ("Q4_0", "Q8_0") if quick else ("Q4_1", "Q4_0", "Q8_0", "BF16"):
        say(f"SmolLM2 {kind}: the file")
        made[f"SmolLM2 {kind}"] = smollm2_variant(folder / SMOLLM2, folder, kind)
    for kind in ("mixture",) if quick else ("mixture", "Q8_0", "F16"):
        say(f"0.5B {kind}: the file")
        made[f"0.5B {kind}"] = half_variant(folder, kind)
    return made


def formats(bench: Bench) -> str:
    quick = bench.arguments.quick
    load = Load((256,), 32) if quick else Load((512,), 128)
    lines = [
        f"### One request: {load.lengths[0]} prompt tokens, {load.new_tokens} new\n",
        "| file | decode tok/s: ours / llama.cpp | times (asked) | of read bandwidth "
        "| prefill tok/s: ours / llama.cpp | times (asked) | of multiply peak |",
        "|---|---|---|---|---|---|---|",
    ]
    made = files(bench)
    for place, (name, path) in enumerate(made.items()):
        share = 0.5 / (len(made) - place)
        each = bench.compare(f"formats {name}", path, load, 2 if quick else 3, ("llama.cpp",), share)
        decode, prefill = TARGETS[name]
        lines.append(
            f"| {name} | {pair(each, 'decode')} | {times(each, 'decode')} ({decode}) "
            f"| {percent(each['share_of_read'])} | {pair(each, 'prefill')} "
            f"| {times(each, 'prefill')} ({prefill or '-'}) | {percent(each['share_of_peak'])} |"
        )
    return "\n".join(lines)


def requests(bench: Bench) -> str:
    path = smollm2_variant(bench.arguments.folder / SMOLLM2, bench.arguments.folder, "Q8_0")
    load = Load(MIXED, 16 if bench.arguments.quick else 64)
    repeats = 1 if bench.arguments.quick else 2
    each = bench.compare("requests Q8_0", path, load, repeats, ("llama.cpp",), 0.3)
    return (
        f"### 16 requests of 16 to 256 tokens, {load.new_tokens} new each, SmolLM2 Q8_0\n\n"
        f"New tokens a second over the whole job: {pair(each, 'job')}, {times(each, 'job')} times (asked: 4)"
    )


def start(bench: Bench) -> str:
    """Whole processes, from the interpreter's start to the first token printed."""
    path, key = str(bench.arguments.folder / SMOLLM2), "start"
    if key not in bench.results:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        commands = {"martlet": [sys.executable, "-c", START_OURS, path]}
        if not why_absent(PEERS["llama.cpp"], bench.arguments.peer_python):
            threads = str(bench.machine.num_threads)
            commands["llama.cpp"] = [bench.arguments.peer_python, "-c", START_LLAMA, path, threads]
        took: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(4 if bench.arguments.quick else 8):
            for name, command in commands.items():
                began = time.monotonic()
                with subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
                ) as process:
                    assert process.stdout is not None
                    os.read(process.stdout.fileno(), 1)  # both write nothing before the token
                    took[name].append(time.monotonic() - began)
                    process.stdout.read()
                if process.returncode:
                    raise SystemExit(f"{name}: the process ended with {process.returncode}")
        # the first run warms files and compiles Python's sources, as installing does
        bench.keep(key, {name: statistics.median(each[1:]) for name, each in took.items()})
    each = bench.results[key]
    text = f"### Process start to the first token, SmolLM2 Q4_1\n\nOurs {each['martlet']:.2f} s (asked: under 0.5)"
    if "llama.cpp" in each:
        text += f"; llama.cpp {each['llama.cpp']:.2f} s, {each['llama.cpp'] / each['martlet']:.2f} times (asked: 1.5)"
    return text


def hugging_face(bench: Bench) -> str:
    path = smollm2_variant(bench.arguments.folder / SMOLLM2, bench.arguments.folder, "BF16")
    quick = bench.arguments.quick
    one = Load((256,), 16) if quick else Load((512,), 64)
    batch = Load(MIXED, 8 if quick else 64)
    single = bench.compare("hugging-face one", path, one, 1 if quick else 3, ("transformers",), 0.3)
    several = bench.compare("hugging-face batch", path, batch, 1 if quick else 2, ("transformers",), 0.4)
    peer = "transformers"
    return "\n".join(
        [
            "### Hugging Face bfloat16, SmolLM2 BF16\n",
            "| | ours / Hugging Face | times (asked) |",
            "|---|---|---|",
            f"| decode, batch 1 | {pair(single, 'decode', peer)} | {times(single, 'decode', peer)} (12) |",
            f"| prefill | {pair(single, 'prefill', peer)} | {times(single, 'prefill', peer)} (1.5) |",
            f"| 16 mixed, whole job | {pair(several, 'job', peer)} | {times(several, 'job', peer)} (10) |",
        ]
    )


def others(bench: Bench) -> str:
    """CTranslate2 has the weights from the folder, in float32 and in its own int8; OpenVINO reads the file itself."""
    path = smollm2_variant(bench.arguments.folder / SMOLLM2, bench.arguments.folder, "Q8_0")
    quick, peers = bench.arguments.quick, ("CTranslate2", "OpenVINO")
    one = bench.compare("others one", path, Load((256,), 16) if quick else Load((512,), 64), 2, peers, 0.3)
    batch = bench.compare("others batch", path, Load(MIXED, 8 if quick else 64), 1, peers, 0.4)
    lines = [
        "### CTranslate2 and OpenVINO, SmolLM2, ours in Q8_0\n",
        "| tokens/s; ours is, times | decode | prefill | 16 mixed requests, whole job |",
        "|---|---|---|---|",
    ]
    for name in one["each"]:
        cells = []
        for where, of in ((one, "decode"), (one, "prefill"), (batch, "job")):
            found = where["each"].get(name, {}).get(of)
            cells.append(f"{found:,.1f}, {quotient(where['martlet'][of], found)}" if found else "-")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def lengths(bench: Bench) -> str:
    path = smollm2_variant(bench.arguments.folder / SMOLLM2, bench.arguments.folder, "Q8_0")
    sizes = (128, 512, 2048) if bench.arguments.quick else (128, 512, 2048, 8160)
    lines = [
        "### Prompt length, ours, SmolLM2 Q8_0\n",
        "| tokens | prefill tok/s | ms a token | of multiply peak | decode tok/s there |",
        "|---|---|---|---|---|",
    ]
    for size in sizes:
        each = bench.compare(f"lengths {size}", path, Load((size,), 32), 3, (), 0.2)
        prefill, decode = each["martlet"]["prefill"], each["martlet"]["decode"]
        share = percent(each["share_of_peak"])
        lines.append(f"| {size:,} | {prefill:,.0f} | {1e3 / prefill:.3f} | {share} | {decode:,.1f} |")
    return "\n".join(lines)


def batches(bench: Bench) -> str:
    path = smollm2_variant(bench.arguments.folder / SMOLLM2, bench.arguments.folder, "Q8_0")
    sizes = (1, 4, 16) if bench.arguments.quick else (1, 2, 4, 8, 16, 32, 64)
    lines = [
        "### Batch, ours, SmolLM2 Q8_0, 64 prompt tokens each\n",
        "| rows | decode tok/s | ms a step |",
        "|---|---|---|",
    ]
    for size in sizes:
        each = bench.compare(f"batches {size}", path, Load((64,) * size, 64), 3, (), 0.2)
        decode = each["martlet"]["decode"]
        lines.append(f"| {size} | {decode:,.1f} | {quotient(1e3 * size, decode)} |")
    return "\n".join(lines)


def context(bench: Bench) -> str:
    """Decode at 4,000 tokens of context loses what reading the keys and values costs, and no more."""
    path = smollm2_variant(bench.arguments.folder / SMOLLM2, bench.arguments.folder, "Q8_0")
    new = 16 if bench.arguments.quick else 64
    near = bench.compare("context 64", path, Load((64,), new), 2, ("llama.cpp",), 0.2)
    far = bench.compare("context 4000", path, Load((4000,), new), 1, ("llama.cpp",), 0.4)
    costs = far["bytes_per_step"] / near["bytes_per_step"]
    took = quotient(near["martlet"]["decode"], far["martlet"]["decode"])
    text = (
        "### Decode at 4,000 tokens of context, SmolLM2 Q8_0\n\n"
        f"{costs:.2f} times the bytes of a step at 64 tokens; it takes {took} times as long"
    )
    if "llama.cpp" in far:
        text += f" (llama.cpp {quotient(near['llama.cpp']['decode'], far['llama.cpp']['decode'])})"
    return text


def huge(bench: Bench) -> str:
    path = seven_variant(bench.arguments.folder)
    each = bench.compare("huge", path, Load((64,), 8), 1, ("llama.cpp",), 0.8)
    return (
        "### A random 7B in Q4_0\n\n"
        f"Decode {pair(each, 'decode')}, {times(each, 'decode')} times; {percent(each['share_of_read'])} of the read "
        f"bandwidth (asked: 90 %); prefill {pair(each, 'prefill')}"
    )


def pair(each: dict, of: str, peer: str = "llama.cpp") -> str:
    theirs = f"{each[peer][of]:,.1f}" if peer in each else "-"
    return f"{each['martlet'][of]:,.1f} / {theirs}"


def times(each: dict, of: str, peer: str = "llama.cpp") -> str:
    found = each.get(f"times {peer}")
    return f"{found[of]:.2f}" if found else "-"


def quotient(one: float, other: float) -> str:
    """A rate is 0 where noise hid it."""
    return f"{one / other:.2f}" if other else "-"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def describe(bench: Bench) -> str:
    machine = bench.machine
    limits = bench.results.get("limits") or bench.keep("limits", measure_limits(machine, 0).as_json())
    peaks = ", ".join(f"{name} {each['operations']['best'] / 1e9:.0f}" for name, each in limits["peaks"].items())
    return (
        f"{machine.processor}, {machine.num_processors} processors, {machine.memory_bytes / 1e9:.0f} GB, "
        f"{machine.system}; {machine.isa} ({machine.reason}), {machine.num_threads} threads. Memory reads "
        f"{limits['memory_read']['best'] / 1e9:.1f} GB/s; multiplies, Gop/s: {peaks}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--quick", action="store_true", help="fewer files, shorter loads")
    parser.add_argument("--pieces", type=int, default=0, help="end after so many comparisons (default: all)")
    parser.add_argument("--minutes", type=float, help="about how long it may take (default: 25, quick 6)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("generation.json"))
    parser.add_argument("--only", help=f"sections, of {', '.join(SECTIONS)}, huge")
    parser.add_argument("--fresh", action="store_true", help="forget what is in --out")
    parser.add_argument("--huge", action="store_true", help="a random 7B too: a file of 4.4 GB, made once")
    arguments = parser.parse_args()
    arguments.minutes = arguments.minutes or (5.5 if arguments.quick else 24)
    results: dict[str, Any] = {}
    if arguments.out.is_file() and not arguments.fresh:
        results = json.loads(arguments.out.read_text())
    machine = find_machine(arguments.threads)
    loads = {"quick": arguments.quick, "isa": machine.isa, "num_threads": machine.num_threads}
    if results.setdefault("settings", loads) != loads:
        raise SystemExit(f"{arguments.out} is of {results['settings']}, not {loads}: pass --fresh or another --out")
    bench = Bench(arguments, machine, results)
    sections = {
        "formats": formats, "requests": requests, "start": start, "hugging-face": hugging_face, "others": others,
        "lengths": lengths, "batches": batches, "context": context, "huge": huge,
    }  # fmt: skip
    wanted = arguments.only.split(",") if arguments.only else [*SECTIONS, *(["huge"] if arguments.huge else [])]
    print(describe(bench), flush=True)
    for name in wanted:
        if bench.left_s <= 0 and not any(key.startswith(name) for key in results):
            print(
                f"\n### {name}\n\nLeft out: {arguments.minutes:g} minutes were over. Run it again to go on.", flush=True
            )
            continue
        print(f"\n{sections[name](bench)}", flush=True)


if __name__ == "__main__":
    main()
