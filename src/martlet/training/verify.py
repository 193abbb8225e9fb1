"""A checkpoint verified: every file's hash, and its steps replayed from the checkpoint before it, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from martlet.errors import CheckpointError
from martlet.formats.files import read_json
from martlet.training.callbacks import TrainerCallback
from martlet.training.checkpoints import check_checkpoint, list_checkpoints
from martlet.training.config import build_trainer
from martlet.training.runs import RUN
from martlet.training.state import TrainerState
from martlet.training.statefile import load_tree
from martlet.training.weights import load_weights


class _StopsAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        control.should_save = control.should_evaluate = False
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step
        return control


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Says what was compared: `from_step`, `to_step`, `tensors`. CheckpointError for the first that differs.

    Only a run that a config describes (`martlet train`) can be replayed.
    """
    check_checkpoint(folder)
    found = read_json(folder / RUN)
    if not found.get("config"):
        raise CheckpointError(
            str(folder), "is whole, but how to replay its run is not known: no config was given",
            remedy="Runs started by `martlet train config.yaml` can be replayed.",
        )  # fmt: skip
    step = TrainerState.load_from_json(folder / "trainer_state.json").global_step
    earlier = [each for each in list_checkpoints(folder.parent) if int(each.name.rpartition("-")[2]) < step]
    with tempfile.TemporaryDirectory() as aside:
        config = found["config"]
        changed = {"output_dir": aside, "report_to": "none", "report_html": False, "load_best_model_at_end": False}
        training = {**config["training"], **changed, "resume_from_checkpoint": None}
        trainer = build_trainer({**config, "training": training}, [_StopsAt(step)])
        trainer.train(resume_from_checkpoint=str(earlier[-1]) if earlier else None)
        replayed = {name: each.clone() for name, each in trainer.model.state_dict().items()}
        load_weights(trainer.model, folder)
    differing = [name for name, each in trainer.model.state_dict().items() if not torch.equal(each, replayed[name])]
    saved, stepped = _flat(load_tree(folder, "optimizer")), _flat(trainer.optimizer.state_dict())
    differing += [f"optimizer{name}" for name, each in saved.items() if not torch.equal(each, stepped[name])]
    if differing:
        raise CheckpointError(
            str(folder), f"replayed from step {_step_of(earlier)}, must give the same weights",
            found=f"{len(differing)} tensors that differ, first {differing[0]}",
            remedy="Is it the machine, torch and number of threads that it was trained with?",
        )  # fmt: skip
    return {"from_step": _step_of(earlier), "to_step": step, "tensors": len(replayed) + len(saved)}


def _step_of(earlier: list[Path]) -> int:
    return int(earlier[-1].name.rpartition("-")[2]) if earlier else 0


def _flat(tree: Any, path: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a nested state, by where they are."""
    if isinstance(tree, torch.Tensor):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return {name: each for key, item in items for name, each in _flat(item, f"{path}.{key}").items()}
