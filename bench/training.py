"""Training against Hugging Face's Trainer: the same model and rows, each run in a process of its own, alternating.

    python bench/training.py MODEL [--rounds 3] [--steps 4] [--length 512] [--only full,mixed]

MODEL is a folder or GGUF file. Prints tokens/s (real tokens, medians over the rounds, the first step left out) and peak
memory of the process, and their ratios. "full": 4 rows of 512 tokens; "mixed": 16 rows of up to 512 tokens, long-tailed
as chat data is, with only the last third supervised.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

CASES = ("full", "mixed")


def make_rows(case: str, vocab: int, count: int, longest: int) -> list[dict[str, list[int]]]:
    """Random ids: speed does not read them."""
    chance = random.Random(1)
    rows = []
    for _ in range(count):
        length = longest if case == "full" else min(longest, max(8, int(longest * chance.lognormvariate(-1.8, 0.9))))
        ids = [chance.randrange(5, vocab) for _ in range(length)]
        unsupervised = 0 if case == "full" else length * 2 // 3
        rows.append({"input_ids": ids, "labels": [-100] * unsupervised + ids[unsupervised:]})
    return rows


class Clock:
    """Times of the steps; a callback of either Trainer, without a parent class of either."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_, **__: None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())


def run_ours(model_path: str, case: str, steps: int, batch: int, longest: int) -> dict[str, float]:
    import torch

    from martlet import AutoModelForCausalLM
    from martlet.training import Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
    rows, clock = make_rows(case, model.config.vocab_size, steps * batch, longest), Clock()
    args = TrainingArguments(
        f"/tmp/martlet-bench-{case}", per_device_train_batch_size=batch, max_steps=steps, learning_rate=1e-5,
        save_strategy="no", bf16_update="stochastic", report_html=False, train_sampling_strategy="sequential",
        disable_tqdm=True, gradient_checkpointing=True,
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows, callbacks=[clock])
    trainer.train()
    return figures(clock, rows, batch)


def run_theirs(model_path: str, case: str, steps: int, batch: int, longest: int) -> dict[str, float]:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
    rows, clock = make_rows(case, model.config.vocab_size, steps * batch, longest), Clock()

    def collate(features: list[dict[str, list[int]]]) -> dict[str, Any]:
        width = max(len(each["input_ids"]) for each in features)
        out: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
        for each in features:
            gap = width - len(each["input_ids"])
            out["input_ids"].append(each["input_ids"] + [0] * gap)
            out["labels"].append(each["labels"] + [-100] * gap)
            out["attention_mask"].append([1] * len(each["input_ids"]) + [0] * gap)
        return {name: torch.tensor(value) for name, value in out.items()}

    args = transformers.TrainingArguments(
        f"/tmp/hf-bench-{case}", per_device_train_batch_size=batch, max_steps=steps, learning_rate=1e-5,
        save_strategy="no", report_to="none", train_sampling_strategy="sequential", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model, args, data_collator=collate, train_dataset=rows, callbacks=[clock])
    trainer.train()
    return figures(clock, rows, batch)


def figures(clock: Clock, rows: list[dict[str, list[int]]], batch: int) -> dict[str, float]:
    """Tokens/s from the end of the first step on, and the peak of resident memory in MB."""
    tokens = sum(len(row["input_ids"]) for row in rows[batch : batch * len(clock.times)])
    seconds = clock.times[-1] - clock.times[0]
    return {"tokens_s": tokens / seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--peer-model", help="the same model where transformers loads it, if MODEL is a GGUF file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest row")
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        case = given.only
        run = run_ours if given.side == "ours" else run_theirs
        print(json.dumps(run(given.model, case, given.steps, 4 if case == "full" else 16, given.length)))
        return
    print(f"{'case':8} {'side':8} {'tokens/s':>10} {'peak MB':>10}")
    for case in given.only.split(","):
        found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
        for _ in range(given.rounds):
            for side, runs in found.items():
                model = given.peer_model if side == "theirs" and given.peer_model else given.model
                words = [sys.executable, __file__, model, "--side", side, "--only", case, "--steps", str(given.steps)]
                words += ["--length", str(given.length)]
                done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
        middle = {
            side: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            for side, runs in found.items()
        }
        for side, each in middle.items():
            print(f"{case:8} {side:8} {each['tokens_s']:10.1f} {each['peak_mb']:10.0f}")
        ours, theirs = middle["ours"], middle["theirs"]
        speed, memory = ours["tokens_s"] / theirs["tokens_s"], ours["peak_mb"] / theirs["peak_mb"]
        print(f"{case:8} {'ratio':8} {speed:10.2f} {memory:10.2f}", flush=True)


if __name__ == "__main__":
    main()
