"""A user's script, as a process of its own: OUTPUT, then name=value arguments of the run.

Writes the losses and the final weights beside the checkpoints. Extra names: model, dropout, die_at (kill -9 at an
event), stream, dtype, rows, dump, lora.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
from tiny import make_rows, tiny_model
from torch import nn

from martlet.nn.draws import SampleDropout
from martlet.training import LoraConfig, Trainer, TrainerCallback, TrainingArguments, get_peft_model

torch.set_num_threads(1)
output = Path(sys.argv[1])
given = {name: json.loads(value) for name, value in (each.split("=", 1) for each in sys.argv[2:])}
own = {
    name: given.pop(name, None) for name in ("model", "dropout", "die_at", "stream", "dtype", "rows", "dump", "lora")
}
DEFAULTS = {
    "per_device_train_batch_size": 2, "num_train_epochs": 2, "learning_rate": 5e-3, "logging_steps": 3,
    "save_steps": 2, "save_strategy": "steps", "report_html": False, "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip


class Losses(TrainerCallback):
    """Dies where it is told to, as a power cut would."""

    def on_step_end(self, args, state, control, **more):
        if own["die_at"] == f"step {state.global_step}":
            os.kill(os.getpid(), signal.SIGKILL)

    def on_save(self, args, state, control, **more):
        if own["die_at"] == f"save {state.global_step}":
            os.kill(os.getpid(), signal.SIGKILL)


if str(own["die_at"]).startswith("within save") and os.environ.get("RANK", "0") == "0":
    replace = os.replace

    def replace_or_die(source, target, **more):
        if str(target).endswith(f"checkpoint-{own['die_at'].split()[-1]}"):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **more)

    os.replace = replace_or_die


class Stream:
    def __init__(self, rows):
        self.rows, self.epoch = rows, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        rows = list(self.rows)
        random.Random(self.epoch).shuffle(rows)
        return iter(rows)


model = tiny_model(own["model"] or "llama", getattr(torch, own["dtype"] or "float32"))
if own["dropout"]:
    model.model.layers[0].mlp = nn.Sequential(model.model.layers[0].mlp, SampleDropout(0.2), nn.Dropout(0.1))
if own["lora"]:
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1))
rows = make_rows(own["rows"] or 23)
trainer = Trainer(
    model, TrainingArguments(output, **{**DEFAULTS, **given}), train_dataset=Stream(rows) if own["stream"] else rows,
    eval_dataset=make_rows(4, seed=9), callbacks=[Losses],
)  # fmt: skip
trainer.train()
final = trainer.full_weights() or model.state_dict()
if trainer.is_world_process_zero():
    name = own["dump"] or "end"
    torch.save({key: value.clone() for key, value in final.items()}, output / f"{name}.pt")
    timed = ("train_runtime", "eval_runtime")
    history = [each for each in trainer.state.log_history if not any(name in each for name in timed)]
    evaluated = [each["eval_loss"] for each in trainer.state.log_history if "eval_loss" in each]
    (output / f"{name}.json").write_text(json.dumps([history, evaluated]))
