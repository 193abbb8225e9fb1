"""Does a model learn the same from our Trainer and from Hugging Face's? SST-2, each run a process of its own, in turn.

    python bench/learning.py --encoder MINILM --train sst2_train.tsv --dev sst2_dev.tsv \\
        [--peers PYTHON] [--steps 200] [--seeds 1,2,3] [--batch 32]

Both start from the same weights, head included, and take the same sentences in the same order at the same rates.
Without dropout nothing is left to chance: the losses of the two must agree to rounding, which Adam makes larger as
steps go by. With dropout (the model's own, 0.1) they agree within the noise of the seeds. Prints the training loss of
the last quarter of the steps, loss and accuracy on the dev set, for each seed, and the means' difference at last.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def read(path: str) -> list[tuple[str, int]]:
    """Sentences and classes of a TSV with a line of names."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(row["sentence"].strip(), int(row["label"])) for row in rows]


def write_start(encoder: str, folder: Path, seed: int, drops: bool) -> None:
    """A classifier with a new head, which both sides load."""
    from martlet import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    set_seed(seed)
    AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    if not drops:
        config = json.loads((folder / "config.json").read_text())
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (folder / "config.json").write_text(json.dumps(config))


def pad(features: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch as both sides' models take it."""
    import torch

    width = max(len(each["input_ids"]) for each in features)
    gaps = [width - len(each["input_ids"]) for each in features]
    return {
        "input_ids": torch.tensor([each["input_ids"] + [0] * gap for each, gap in zip(features, gaps, strict=True)]),
        "attention_mask": torch.tensor([[1] * (width - gap) + [0] * gap for gap in gaps]),
        "labels": torch.tensor([each["labels"] for each in features]),
    }


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def run(given: argparse.Namespace) -> dict[str, Any]:
    """One side's losses and accuracy, in this process."""
    more: dict[str, Any] = {}
    if given.side == "ours":
        import martlet as library
        from martlet.training import Trainer, TrainingArguments

        more = {"report_html": False}
    else:
        import transformers as library
        from transformers import Trainer, TrainingArguments

        more = {"use_cpu": True, "report_to": "none"}
    tokenizer = library.AutoTokenizer.from_pretrained(given.start)
    model: Any = library.AutoModelForSequenceClassification.from_pretrained(given.start)

    def encode(rows: list[tuple[str, int]]) -> list[dict[str, Any]]:
        ids = tokenizer([text for text, _ in rows], truncation=True, max_length=128)["input_ids"]
        return [{"input_ids": list(each), "labels": label} for each, (_, label) in zip(ids, rows, strict=True)]

    seed = int(given.seeds)
    chosen = random.Random(seed).sample(read(given.train), given.steps * given.batch)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, per_device_train_batch_size=given.batch, per_device_eval_batch_size=64, max_steps=given.steps,
            learning_rate=1e-4, lr_scheduler_type="linear", warmup_steps=max(1, given.steps // 20), weight_decay=0.01,
            logging_steps=1, save_strategy="no", train_sampling_strategy="sequential", disable_tqdm=True, seed=seed,
            **more,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=args, train_dataset=encode(chosen), eval_dataset=encode(read(given.dev)),
            data_collator=pad, compute_metrics=accuracy,
        )  # fmt: skip
        trainer.train()
        found = trainer.evaluate()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    return {"losses": losses, "loss": found["eval_loss"], "accuracy": found["eval_accuracy"]}


def measure(given: argparse.Namespace, side: str, seed: int, start: Path) -> dict[str, Any]:
    """One run in a process of its own."""
    words = [given.peers if side == "theirs" else sys.executable, __file__, "--side", side, "--start", str(start)]
    words += ["--encoder", given.encoder, "--train", given.train, "--dev", given.dev]
    words += ["--steps", str(given.steps), "--seeds", str(seed), "--batch", str(given.batch)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(given: argparse.Namespace, seed: int, drops: bool) -> dict[str, dict[str, Any]]:
    """Both sides with one seed; prints their lines."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_start(given.encoder, Path(folder), seed, drops)
        for side in ("ours", "theirs"):
            found[side] = each = measure(given, side, seed, Path(folder))
            late = statistics.mean(each["losses"][-max(1, given.steps // 4) :])
            name = f"{'dropout' if drops else 'no dropout':10} {seed:4} {side:6}"
            print(f"{name} {late:10.4f} {each['loss']:8.4f} {each['accuracy']:8.4f}", flush=True)
    gaps = [abs(a - b) for a, b in zip(found["ours"]["losses"], found["theirs"]["losses"], strict=True)]
    if not drops:
        first = max(gaps[: min(10, len(gaps))])
        print(f"  a step's loss differs by at most {first:.4f} in the first 10 steps, {max(gaps):.4f} in all")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="a BERT of Hugging Face's layout")
    parser.add_argument("--train", required=True, help="a TSV with the columns sentence and label")
    parser.add_argument("--dev", required=True, help="another one")
    parser.add_argument("--peers", default=sys.executable, help="a Python with transformers")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--cases", default="same,dropout", help="same: without dropout, the first seed alone")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        sys.path.pop(0)  # this folder, whose datasets.py would be taken for the library
        print(json.dumps(run(given)))
        return
    print(f"{'':10} {'seed':>4} {'side':6} {'train loss':>10} {'dev loss':>8} {'accuracy':>8}")
    seeds = [int(each) for each in given.seeds.split(",")]
    if "same" in given.cases:
        compare(given, seeds[0], False)
    if "dropout" not in given.cases:
        return
    runs = [compare(given, seed, True) for seed in seeds]
    for name in ("loss", "accuracy"):
        ours, theirs = ([each[side][name] for each in runs] for side in ("ours", "theirs"))
        gap = statistics.mean(ours) - statistics.mean(theirs)
        # two independent runs of one side differ by this much: the noise that a difference is held against
        noise = f"{statistics.stdev(theirs):.4f}" if len(theirs) > 1 else "unknown: one seed"
        print(f"dev {name}: ours - theirs {gap:+.4f}; standard deviation of theirs over seeds {noise}")


if __name__ == "__main__":
    main()
