"""Perplexity, and divergence from float32, of each format on real texts: ours and llama.cpp's on the same files.

    python bench/exactness.py FOLDER TEXT... [--peer-python PATH] [--tokens 8000] [--out results.json]

FOLDER holds the files that bench/variants.py makes. Divergence is from torch in float32 on the same file, so it is what
the engine's arithmetic costs; what the format itself costs, float32 on the file from float32 on its source, stands
beside it, of a quarter of the text. Results are kept in --out; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from variants import SMOLLM2, smollm2_variant

from martlet.bench.peers import PEERS, start_peer, why_absent
from martlet.bench.run import Here
from martlet.bench.text import Score, TorchReference, add_window, read_windows, score_text
from martlet.engine.extension import count_threads
from martlet.formats.files import write_json
from martlet.tokenizers.auto import AutoTokenizer

KINDS = ("F32", "BF16", "F16", "Q8_0", "Q4_1", "Q4_0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--window", type=int, default=1000)
    parser.add_argument("--threads", type=int, help="of every engine (default: all; fewer where others work too)")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out", type=Path, default=Path("exactness.json"))
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    problem = why_absent(PEERS["llama.cpp"], arguments.peer_python)
    if problem:
        print(problem)
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder / SMOLLM2)
    for kind in arguments.kinds.split(","):
        for text in arguments.texts:
            key = f"{kind} {text.name}"
            if key not in results or (not problem and "llama.cpp" not in results[key]):
                began = time.monotonic()
                windows = read_windows(tokenizer, text, arguments.tokens, arguments.window)
                results[key] = measure(arguments, kind, windows, has_peer=not problem)
                results[key]["seconds"] = time.monotonic() - began
                write_json(arguments.out, results)
            print(key, json.dumps(results[key]), flush=True)
    print(table(results))


def measure(arguments: argparse.Namespace, kind: str, windows: list[list[int]], *, has_peer: bool) -> dict:
    source = arguments.folder / SMOLLM2
    path = str(smollm2_variant(source, arguments.folder, kind))
    threads, ours = count_threads(arguments.threads), Here()
    ours.ask(do="load", model=path, threads=threads, context=arguments.window, rows=1, options={})
    engines = {"martlet": ours}
    if has_peer:
        peers, problems = start_peer(
            PEERS["llama.cpp"], path, arguments.peer_python, threads=threads, context=arguments.window, rows=1
        )
        if problems:
            raise SystemExit("\n".join(problems))
        engines |= peers
    try:
        same = TorchReference(path)
        scores = score_text(engines, windows, same.logits)
        found = {name: score.as_json(has_reference=True) for name, score in scores.items()}
        if path != str(source):  # what the format itself costs: torch on the file against torch on its source
            origin, score = TorchReference(str(source)), Score()
            for ids in windows[: max(1, len(windows) // 4)]:
                add_window(score, same.logits(ids), ids, origin.logits(ids))
            found["format"] = score.as_json(has_reference=True)
    finally:
        for engine in engines.values():
            engine.close()
    return found


def table(results: dict) -> str:
    """As Markdown, in thousandths of a nat; llama.cpp's better setting counts."""
    lines = [
        "| file, text | perplexity: float32 / ours / llama.cpp "
        "| divergence, mnat: ours / llama.cpp | ratio | the format's own |",
        "|---|---|---|---|---|",
    ]
    for key, each in results.items():
        peers = [value for name, value in each.items() if name.startswith("llama.cpp")]
        best = min(peers, key=lambda value: value["mean_divergence"], default=None)
        ours, true = each["martlet"], each["reference"]
        own = f"{each['format']['mean_divergence'] * 1e3:.3f}" if "format" in each else "0"
        theirs = f"{best['perplexity']:.4f}" if best else "-"
        apart = f"{best['mean_divergence'] * 1e3:.4f}" if best else "-"
        ratio = f"{ours['mean_divergence'] / best['mean_divergence']:.2f}" if best else "-"
        lines.append(
            f"| {key} | {true['perplexity']:.4f} / {ours['perplexity']:.4f} / {theirs} "
            f"| {ours['mean_divergence'] * 1e3:.4f} / {apart} | {ratio} | {own} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
