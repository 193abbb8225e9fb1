"""The state of a run and the switches callbacks turn, under Hugging Face's names, as trainer_state.json holds them."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from martlet.formats.files import read_json, write_json


@dataclass
class TrainerState:
    """Counters and history. `epoch` is in epochs, `num_input_tokens_seen` counts real tokens, padding never."""

    epoch: float | None = 0.0
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0.0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)

    def save_to_json(self, json_path: str | os.PathLike[str]) -> None:
        write_json(json_path, asdict(self))

    @classmethod
    def load_from_json(cls, json_path: str | os.PathLike[str]) -> TrainerState:
        """From trainer_state.json, ours or Hugging Face's; keys that are not ours are left aside."""
        found = read_json(json_path)
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in known and value is not None})


@dataclass
class TrainerControl:
    """Switches: the trainer acts on them after each event, and turns all but `should_training_stop` back."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def begin_step(self) -> None:
        self.should_save = self.should_evaluate = self.should_log = False
