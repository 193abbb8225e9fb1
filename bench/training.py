"""Training against Hugging Face's Trainer (+ peft): the same model and rows, each run a process of its own, in turn.

    python bench/training.py --model SMOLLM2 --encoder MINILM --news ag_news_test.csv --sst2 sst2_train.tsv \\
        [--peers PYTHON] [--cases full,mixed,lora,sst2] [--steps 3] [--rounds 1] [--dtypes float32,bfloat16] \\
        [--clock wall|cpu]

Prints tokens/s (sst2: samples/s) of the steps after the first, the process's peak memory, the share of this machine's
float32 matrix-product peak that the work needs (padding and recomputation are not work), and ratios beside the targets.

full: 4 rows of 512 tokens, every weight learns. mixed: 16 news texts a step, as long as they are. lora: rank 16 on all
linear layers, 4 rows of 512. sst2: 32 sentences a step, a classifier on a BERT.
Theirs has no checkpointing (it is faster), the fused AdamW, no logging. Ours computes blocks twice where its line says
so. The first step, which is not measured, has short rows. `--clock cpu` counts processor seconds: with
OMP_NUM_THREADS=1 that is a measure on a machine that others use too.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    batch: int
    unit: str
    speed: float  # times theirs: the target
    memory: float  # of theirs; 0: no target


CASES = {
    "full": Case(4, "tokens", 1.8, 0.6),
    "mixed": Case(16, "tokens", 3.0, 0.6),
    "lora": Case(4, "tokens", 1.8, 0.0),
    "sst2": Case(32, "samples", 2.0, 0.0),
}
# ours: what a line is called, and its arguments beside the defaults
WAYS = {
    ("full", "float32"): {"ours": {}},
    ("full", "bfloat16"): {
        "ours": {"bf16_update": "stochastic"},
        "ours, blocks twice": {"bf16_update": "stochastic", "gradient_checkpointing": True},
    },
    ("mixed", "bfloat16"): {"ours": {"bf16_update": "stochastic", "gradient_checkpointing": True}},
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Clock:
    """Times of the steps; a callback of either Trainer, without a parent class of either."""

    def __init__(self, clock: str = "wall") -> None:
        self.now = CLOCKS[clock]
        self.times: list[float] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_, **__: None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(self.now())


def make_rows(given: argparse.Namespace, case: str, tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """Random ids where length is all that counts; else texts of the files, the first step's among them."""
    chance = random.Random(1)
    if case in ("full", "lora"):
        return [{"input_ids": [chance.randrange(5, 40000) for _ in range(given.length)]} for _ in range(count)]
    path = given.news if case == "mixed" else given.sst2
    with open(path, encoding="utf-8", newline="") as file:
        if case == "mixed":
            texts = [(" ".join(row[1:]), 0) for row in csv.reader(file)]
        else:
            texts = [(line.split("\t")[0].strip(), int(line.split("\t")[1])) for line in file.readlines()[1:]]
    chosen = chance.sample(texts, count)
    encoded = tokenizer([text for text, _ in chosen], truncation=True, max_length=given.length)["input_ids"]
    if case == "mixed":
        return [{"input_ids": list(ids)} for ids in encoded]
    return [{"input_ids": list(ids), "labels": label} for ids, (_, label) in zip(encoded, chosen, strict=True)]


def pad(features: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch as Hugging Face's models take it."""
    import torch

    width = max(len(each["input_ids"]) for each in features)
    gaps = [width - len(each["input_ids"]) for each in features]
    out: dict[str, Any] = {
        "input_ids": [each["input_ids"] + [0] * gap for each, gap in zip(features, gaps, strict=True)],
        "attention_mask": [[1] * (width - gap) + [0] * gap for gap in gaps],
    }
    if "labels" in features[0]:
        out["labels"] = [each["labels"] for each in features]
    else:
        out["labels"] = [each["input_ids"] + [-100] * gap for each, gap in zip(features, gaps, strict=True)]
    return {name: torch.tensor(value) for name, value in out.items()}


def run(given: argparse.Namespace, case: str) -> dict[str, float]:
    """One side's figures, in this process."""
    import torch

    options = json.loads(given.options)
    shape = CASES[case]
    name = given.encoder if case == "sst2" else given.model
    if given.side == "ours":
        import martlet as library
        from martlet.training import LoraConfig, Trainer, TrainingArguments, get_peft_model
    else:
        import transformers as library
        from peft import LoraConfig, get_peft_model
        from transformers import Trainer, TrainingArguments

        options |= {"use_cpu": True, "report_to": "none"}
    kind = library.AutoModelForSequenceClassification if case == "sst2" else library.AutoModelForCausalLM
    labels = {"num_labels": 2} if case == "sst2" else {}
    model: Any = kind.from_pretrained(name, dtype=getattr(torch, given.dtype), **labels)
    if case == "lora":
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    if given.side == "ours":
        options |= {"report_html": False}
    rows = make_rows(given, case, library.AutoTokenizer.from_pretrained(name), (given.steps + 1) * shape.batch)
    rows[: shape.batch] = [{**row, "input_ids": row["input_ids"][:32]} for row in rows[: shape.batch]]
    clock = Clock(given.clock)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, per_device_train_batch_size=shape.batch, max_steps=given.steps + 1, learning_rate=1e-5,
            save_strategy="no", train_sampling_strategy="sequential", disable_tqdm=True, optim="adamw_torch_fused",
            **options,
        )  # fmt: skip
        collate = {} if given.side == "ours" else {"data_collator": pad}
        Trainer(model=model, args=args, train_dataset=rows, callbacks=[clock], **collate).train()
    seconds = clock.times[-1] - clock.times[0]
    measured = rows[shape.batch :]
    tokens = sum(len(row["input_ids"]) for row in measured)
    return {
        "rate": (tokens if shape.unit == "tokens" else len(measured)) / seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "flops": flops_per_token(model, case) * tokens / seconds,
        "padding": padding(measured, shape.batch),
    }


def flops_per_token(model: Any, case: str) -> float:
    """2 a weight forward, 2 back through it, 2 for its own gradient if it learns; tables are looked up."""
    total = 0
    for name, each in model.named_parameters():
        if each.ndim == 2 and (case != "sst2" or "embed" not in name):
            total += each.numel() * (6 if each.requires_grad else 4)
    return float(total)


def padding(rows: list[dict[str, Any]], batch: int) -> float:
    """The share of a padded batch's tokens that are padding."""
    groups = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    padded = sum(len(group) * max(len(row["input_ids"]) for row in group) for group in groups)
    return 1 - sum(len(row["input_ids"]) for row in rows) / padded


def peak_flops(clock: str) -> float:
    """FLOP/s of a float32 product of the size that such a model has, the best of ten."""
    import torch

    one, two = torch.ones(2048, 576), torch.ones(1536, 576)
    best, now = 0.0, CLOCKS[clock]
    for _ in range(10):
        began = now()
        torch.nn.functional.linear(one, two)
        best = max(best, 2.0 * one.numel() * len(two) / (now() - began))
    return best


def measure(given: argparse.Namespace, case: str, dtype: str, side: str, options: dict[str, Any]) -> dict[str, float]:
    """One run in a process of its own."""
    words = [given.peers if side == "theirs" else sys.executable, __file__, "--side", side, "--cases", case]
    steps = given.bf16_steps if side == "theirs" and dtype == "bfloat16" else given.steps
    words += ["--dtypes", dtype, "--options", json.dumps(options), "--steps", str(steps), "--length", str(given.length)]
    words += ["--clock", given.clock]
    for name in ("model", "encoder", "news", "sst2"):
        if getattr(given, name):
            words += [f"--{name}", str(getattr(given, name))]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(given: argparse.Namespace, case: str, dtype: str) -> None:
    """Runs both sides in turn and prints their lines and ratios."""
    shape = CASES[case]
    ways = {"theirs": {}, **WAYS.get((case, dtype), {"ours": {}})}
    found: dict[str, list[dict[str, float]]] = {side: [] for side in ways}
    peak = peak_flops(given.clock)
    for _ in range(given.rounds):
        for side, options in ways.items():
            found[side].append(measure(given, case, dtype, "theirs" if side == "theirs" else "ours", options))
    peak = max(peak, peak_flops(given.clock))  # neighbours come and go
    middle = {
        side: {name: statistics.median(each[name] for each in runs) for name in runs[0]} for side, runs in found.items()
    }
    theirs = middle["theirs"]
    for side, each in middle.items():
        line = f"{case:6} {dtype:9} {side:20} {each['rate']:9.1f} {shape.unit + '/s':10} {each['peak_mb']:7.0f}"
        line += f" {each['flops'] / peak:5.0%} of {peak / 1e9:3.0f}"
        if side != "theirs":
            memory = f"{shape.memory:g}" if shape.memory else "-"
            line += f" {each['rate'] / theirs['rate']:7.2f} ({shape.speed:g})"
            line += f" {each['peak_mb'] / theirs['peak_mb']:7.2f} ({memory})"
        elif each["padding"]:
            line += f"   {each['padding']:.0%} of its tokens are padding"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a causal LM of Hugging Face's layout")
    parser.add_argument("--encoder", help="a BERT of Hugging Face's layout, for sst2")
    parser.add_argument("--news", help="a CSV whose columns after the first are text, for mixed")
    parser.add_argument("--sst2", help="a TSV of sentence and label, for sst2")
    parser.add_argument("--peers", default=sys.executable, help="a Python with transformers and peft")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="measured ones, after one more")
    parser.add_argument("--bf16-steps", type=int, default=3, help="theirs in bfloat16, which some machines emulate")
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest row")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor seconds")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--options", default="{}", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        sys.path.pop(0)  # this folder, whose datasets.py would be taken for the library
        given.dtype = given.dtypes
        print(json.dumps(run(given, given.cases)))
        return
    print(f"a rate is per second of the {given.clock} clock; a target stands in brackets behind its ratio")
    heads = f"{'case':6} {'dtype':9} {'side':20} {'rate':>9} {'':10} {'peak MB':>7} {'of GEMM':>11}"
    print(f"{heads} {'speed':>7} {'memory':>13}")
    for case in given.cases.split(","):
        for dtype in given.dtypes.split(","):
            compare(given, case, dtype)


if __name__ == "__main__":
    main()
