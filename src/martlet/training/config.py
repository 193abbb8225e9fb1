"""A run as a YAML file says it: read strictly, made into a Trainer, planned before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from martlet.errors import ArgumentError, UnsupportedError
from martlet.training.arguments import TrainingArguments
from martlet.training.callbacks import TrainerCallback

KEYS = ("model", "dtype", "task", "num_labels", "train_data", "eval_data", "training")
TASKS = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}
LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}

EXAMPLE = """\
# martlet train this-file.yaml            trains; started again, it goes on where it was
# martlet train plan this-file.yaml       parameters, memory, steps and tokens, before anything starts
# martlet train this-file.yaml --set training.learning_rate=1e-4

model: org/name              # a folder, a .gguf file, or a name on the Hub
dtype: float32               # bfloat16 takes half the memory
task: causal-lm              # masked-lm, sequence-classification, token-classification, question-answering
# num_labels: 2              # of the classification tasks

# .jsonl, .json, .csv, .parquet or .txt. Rows have a column text, or messages (a chat: the assistant's words are
# learnt), or input_ids; classification has a column label.
train_data: train.jsonl
# eval_data: eval.jsonl

training:                    # every name of TrainingArguments
  output_dir: runs/first
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 1
  num_train_epochs: 1
  learning_rate: 2.0e-5
  lr_scheduler_type: cosine
  warmup_ratio: 0.03
  logging_steps: 10
  save_steps: 200
  save_total_limit: 2
  gradient_checkpointing: false   # true: about a third slower, much less memory
  resume_from_checkpoint: auto
"""


def read_config(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The run a file describes, `changes` ("training.seed=1") made. ArgumentError for an unknown key."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ArgumentError(str(path), "cannot be read", found=problem.strerror or str(problem)) from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ArgumentError(str(path), "must be YAML", found=" ".join(str(problem).split())) from problem
    if not isinstance(found, dict):
        raise ArgumentError(str(path), "must be keys and values", found=type(found).__name__)
    for change in changes:
        name, is_pair, value = change.partition("=")
        if not is_pair:
            raise ArgumentError("--set", "must be key=value", found=repr(change))
        place, *inner = name.split(".")
        if inner:
            found.setdefault(place, {})[".".join(inner)] = _value(value)
        else:
            found[place] = _value(value)
    return check_config(found, str(path))


def _value(text: str) -> Any:
    read = yaml.safe_load(text)
    if isinstance(read, str):  # YAML 1.1 takes 1e-4 for text
        try:
            return float(read)
        except ValueError:
            return read
    return read


def check_config(found: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """The same keys, all known, with those that must be there."""
    unknown = set(found) - set(KEYS)
    if unknown:
        raise ArgumentError(subject, f"has no key {sorted(unknown)[0]!r}", remedy=f"There are {', '.join(KEYS)}.")
    for name in ("model", "train_data"):
        if not found.get(name):
            raise ArgumentError(subject, f"must say {name}")
    task = found.get("task", "causal-lm")
    if task not in TASKS:
        raise ArgumentError(subject, f"task must be one of {', '.join(TASKS)}", found=repr(task))
    training = found.get("training") or {}
    if not isinstance(training, Mapping):
        raise ArgumentError(subject, "training must be keys and values", found=repr(training))
    numbers = {each.name for each in fields(TrainingArguments) if "float" in str(each.type)}
    settled = {
        name: _value(each) if name in numbers and isinstance(each, str) else each for name, each in training.items()
    }
    return {**found, "task": task, "training": settled}


def load_rows(path: str) -> Any:
    """The dataset in a file."""
    kind = LOADERS.get(Path(path).suffix)
    if kind is None:
        raise ArgumentError(path, f"must be one of {', '.join(LOADERS)}", found=Path(path).suffix or "no ending")
    from martlet.datasets.load import load_dataset

    return load_dataset(kind, data_files=path, split="train")


def build_trainer(config: Mapping[str, Any], callbacks: Sequence[TrainerCallback] = ()) -> Any:
    """The Trainer that a config describes."""
    import martlet
    from martlet.tokenizers.auto import AutoTokenizer
    from martlet.training.trainer import Trainer

    args = TrainingArguments(**config["training"])
    name = TASKS[config["task"]]
    if not hasattr(martlet, name):
        raise UnsupportedError(f"task {config['task']}", f"needs {name}, which is not there")
    options: dict[str, Any] = {"dtype": config.get("dtype") or "float32"}
    if config.get("num_labels"):
        options["num_labels"] = config["num_labels"]
    model = getattr(martlet, name).from_pretrained(config["model"], **options)
    trainer = Trainer(
        model,
        args,
        train_dataset=load_rows(config["train_data"]),
        eval_dataset=load_rows(config["eval_data"]) if config.get("eval_data") else None,
        processing_class=AutoTokenizer.from_pretrained(config["model"]),
        callbacks=list(callbacks),
    )
    trainer.run_config = dict(config)
    return trainer


def plan_run(config: Mapping[str, Any], sample: int = 64) -> dict[str, Any]:
    """What a run will take: from the model's headers and the lengths of `sample` rows; nothing is trained.

    `memory_bytes` counts weights, gradients, optimizer and the activations of one batch; `seconds` comes from this
    machine's matrix-product peak, and is what a run takes at least.
    """
    from martlet.arch import num_parameters, step_flops
    from martlet.auto import AutoConfig
    from martlet.tokenizers.auto import AutoTokenizer
    from martlet.training.order import Order
    from martlet.training.peak import peak_of
    from martlet.training.samples import RowReader

    args, arch = TrainingArguments(**config["training"]), AutoConfig.from_pretrained(config["model"]).arch
    rows = load_rows(config["train_data"])
    reader = RowReader(AutoTokenizer.from_pretrained(config["model"]), None, arch.max_position_embeddings)
    stride = max(1, len(rows) // sample)
    picked = range(0, len(rows), stride)
    lengths = [len(reader.read(rows[number], number)["input_ids"]) for number in picked]
    mean, longest = sum(lengths) / len(lengths), max(lengths)
    order = Order(len(rows), args.train_batch_size, args.gradient_accumulation_steps, 1, args.seed)
    epochs = args.num_train_epochs
    steps = args.max_steps if args.max_steps > 0 else int(-(-epochs * order.steps_per_epoch // 1))
    tokens = round(steps * order.step_size * mean)
    parameters, width = num_parameters(arch), 2 if "bf" in str(config.get("dtype")) else 4
    per_token = arch.hidden_size * 34 + arch.intermediate_size * 12  # bytes kept a layer, float32 between products
    depth = 1 if args.gradient_checkpointing else arch.num_layers
    kept = longest * args.train_batch_size * (per_token * depth + arch.num_layers * arch.hidden_size * 4)
    moments = {"sgd": 0, "adafactor": 0}.get(args.optim, 8) + (4 if width == 2 and args.bf16_update == "master" else 0)
    flops = 3.0 * step_flops(arch, round(mean)) / max(1, round(mean)) * tokens
    return {
        "parameters": parameters,
        "rows": len(rows),
        "tokens_a_row": round(mean, 1),
        "longest_row": longest,
        "steps": steps,
        "samples_a_step": order.step_size,
        "tokens": tokens,
        "memory_bytes": parameters * (2 * width + moments) + kept,
        "flops": flops,
        "seconds": flops / peak_of("cpu"),
    }
