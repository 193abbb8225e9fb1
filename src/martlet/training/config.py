"""A run as a YAML file says it: read strictly, made into a Trainer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from martlet.errors import ArgumentError, UnsupportedError
from martlet.training.arguments import TrainingArguments
from martlet.training.callbacks import TrainerCallback

KEYS = ("model", "dtype", "quantize", "task", "num_labels", "lora", "train_data", "eval_data", "training")
TASKS = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}
LORA_TASKS = {
    "causal-lm": "CAUSAL_LM",
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
}
QUANTIZED = ("int8", "int4")
LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}

EXAMPLE = """\
# martlet train this-file.yaml            trains; started again, it goes on where it was
# martlet train plan this-file.yaml       parameters, memory, steps and tokens, before anything starts
# martlet train this-file.yaml --set training.learning_rate=1e-4

model: org/name              # a folder, a .gguf file, or a name on the Hub
dtype: float32               # bfloat16 takes half the memory
task: causal-lm              # masked-lm, sequence-classification, token-classification, question-answering
# num_labels: 2              # of the classification tasks

# Adapters are trained in place of the weights: every name of LoraConfig. {} is all its defaults.
# lora:
#   r: 16
#   lora_alpha: 32
#   target_modules: all-linear
#   lora_dropout: 0.05
#   use_dora: false            # magnitudes apart from directions; about a third slower
# quantize: int4               # or int8: the frozen matrices in blocks (QLoRA); with lora

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
    quantize, lora = found.get("quantize"), lora_config(found, subject)
    if quantize is not None and lora is None:
        raise ArgumentError(subject, "quantize freezes the matrices, so it needs lora", found=repr(quantize))
    if quantize is not None and quantize not in QUANTIZED:
        raise ArgumentError(subject, f"quantize must be one of {', '.join(QUANTIZED)}", found=repr(quantize))
    training = found.get("training") or {}
    if not isinstance(training, Mapping):
        raise ArgumentError(subject, "training must be keys and values", found=repr(training))
    numbers = {each.name for each in fields(TrainingArguments) if "float" in str(each.type)}
    settled = {
        name: _value(each) if name in numbers and isinstance(each, str) else each for name, each in training.items()
    }
    return {**found, "task": task, "training": settled}


def lora_config(found: Mapping[str, Any], subject: str) -> Any:
    """The LoraConfig of the key `lora`, or None without one."""
    if "lora" not in found:
        return None
    from martlet.adapters import LoraConfig

    given = found["lora"] if found["lora"] is not None else {}
    if not isinstance(given, Mapping):
        raise ArgumentError(subject, "lora must be keys and values", found=repr(given))
    known = [each.name for each in fields(LoraConfig)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1, 0.6)
            raise ArgumentError(
                subject, f"lora has no key {name!r}", remedy=f"Is {near[0]} meant?" if near else f"There are {known}."
            )
    return LoraConfig(**{"task_type": LORA_TASKS.get(found.get("task", "causal-lm")), **given})


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
    from martlet.datasets.collators import DataCollatorForLanguageModeling
    from martlet.tokenizers.auto import AutoTokenizer
    from martlet.training.trainer import Trainer

    args = TrainingArguments(**config["training"])
    name = TASKS[config["task"]]
    if not hasattr(martlet, name):
        raise UnsupportedError(f"task {config['task']}", f"needs {name}, which is not there")
    options: dict[str, Any] = {"dtype": config.get("dtype") or "float32"}
    if config.get("num_labels"):
        options["num_labels"] = config["num_labels"]
    if config.get("quantize"):
        options["quantize"] = config["quantize"]
    model = getattr(martlet, name).from_pretrained(config["model"], **options)
    lora = lora_config(config, "config")
    if lora is not None:
        from martlet.adapters import get_peft_model

        model = get_peft_model(model, lora)
    tokenizer = AutoTokenizer.from_pretrained(config["model"])
    trainer = Trainer(
        model,
        args,
        data_collator=DataCollatorForLanguageModeling(tokenizer) if config["task"] == "masked-lm" else None,
        train_dataset=load_rows(config["train_data"]),
        eval_dataset=load_rows(config["eval_data"]) if config.get("eval_data") else None,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.run_config = dict(config)
    return trainer
