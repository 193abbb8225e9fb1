"""`martlet train CONFIG`: trains as a YAML file says; `init`, `plan` and `verify` around it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from martlet.errors import ArgumentError

EXAMPLES = """\
examples:
  martlet train init run.yaml
  martlet train plan run.yaml
  martlet train run.yaml --set training.learning_rate=1e-4
  martlet train verify runs/first/checkpoint-200
  torchrun --nproc-per-node 2 -m martlet train run.yaml
"""
ACTIONS = ("init", "plan", "verify")


def build(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "martlet train CONFIG [--set KEY=VALUE ...] | init [FILE] | plan CONFIG | verify CHECKPOINT"
    parser.epilog = EXAMPLES
    parser.add_argument("what", help="a config, or init, plan or verify", metavar="CONFIG")
    parser.add_argument("file", nargs="?", type=Path, help="of init, plan and verify")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes a key of the config")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Does it, and returns 0."""
    what, file = arguments.what, arguments.file
    if what not in ACTIONS:
        if file is not None:
            raise ArgumentError("martlet train", "takes one config", found=repr(str(file)))
        return _train(Path(what), arguments)
    if what == "init":
        return _init(file or Path("train.yaml"))
    if file is None:
        raise ArgumentError(f"martlet train {what}", "needs a CONFIG" if what == "plan" else "needs a CHECKPOINT")
    return _plan(file, arguments) if what == "plan" else _verify(file, arguments)


def _train(path: Path, arguments: argparse.Namespace) -> int:
    from martlet.training.config import build_trainer, read_config

    trainer = build_trainer(read_config(path, arguments.set))
    output = trainer.train()
    trainer.save_model()
    if trainer.is_world_process_zero():
        if arguments.json:
            print(json.dumps(output.metrics))
        else:
            loss, folder = output.metrics["train_loss"], trainer.args.output_dir
            print(f"{output.global_step} steps, mean loss {loss:.4f}; the model is in {folder}")
    return 0


def _init(path: Path) -> int:
    from martlet.training.config import EXAMPLE

    if path.exists():
        raise ArgumentError(str(path), "is there already", remedy="Name another file.")
    path.write_text(EXAMPLE, encoding="utf-8")
    print(f"wrote {path}")
    return 0


def _plan(path: Path, arguments: argparse.Namespace) -> int:
    from martlet.cli.tables import bytes_text, count_text, table
    from martlet.training.config import read_config
    from martlet.training.planning import plan_run
    from martlet.training.watch import show_seconds

    plan = plan_run(read_config(path, arguments.set))
    if arguments.json:
        print(json.dumps(plan))
        return 0
    parts = ", ".join(f"{name} {bytes_text(size)}" for name, size in plan["memory"].items() if size)
    rows = [
        ("parameters", f"{count_text(plan['parameters'])}, {count_text(plan['trainable'])} of which learn"),
        ("rows", f"{plan['rows']:,} of {plan['tokens_a_row']} tokens, longest {plan['longest_row']} (sampled)"),
        ("steps", f"{plan['steps']:,} of {plan['samples_a_step']} rows"),
        ("tokens", f"{plan['tokens']:,}"),
        ("memory", f"about {bytes_text(plan['memory_bytes'])}: {parts}"),
        ("time", f"at least {show_seconds(plan['seconds'])} at this machine's peak"),
    ]
    print(table(rows))
    return 0


def _verify(path: Path, arguments: argparse.Namespace) -> int:
    from martlet.training.verify import verify_checkpoint

    found = verify_checkpoint(path)
    if os.environ.get("RANK", "0") != "0":
        return 0
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"{path}: whole; replayed from step {found['from_step']} to {found['to_step']}, "
            f"{found['tensors']} tensors equal bit for bit"
        )
    return 0
