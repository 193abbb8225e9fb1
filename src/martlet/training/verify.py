"""A checkpoint verified: every file's hash, and its steps replayed from the checkpoint before it, bit for bit."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from martlet.errors import CheckpointError
from martlet.formats.files import read_json
from martlet.training.callbacks import TrainerCallback
from martlet.training.checkpoints import check_checkpoint, list_checkpoints
from martlet.training.config import build_trainer
from martlet.training.runs import RUN, load_run
from martlet.training.state import TrainerState


class _StopsAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if args.lr_scheduler_type != "reduce_lr_on_plateau":  # whose steps hang on what evaluations found
            control.should_evaluate = False
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
    size, here = int(found["world"]), int(os.environ.get("WORLD_SIZE", "1"))
    if size != here:
        raise CheckpointError(
            str(folder), "is whole; its steps are replayed by as many processes as trained it",
            found=f"{here} for {size}",
            remedy=f"torchrun --nproc-per-node {size} -m martlet train verify {folder}"
            if size > 1 else "Start it without torchrun.",
        )  # fmt: skip
    step = TrainerState.load_from_json(folder / "trainer_state.json").global_step
    before = _newest_before(folder, step)
    with tempfile.TemporaryDirectory() as aside:
        config = found["config"]
        changed = {"output_dir": aside, "report_to": "none", "report_html": False, "load_best_model_at_end": False}
        training = {**config["training"], **changed, "save_strategy": "no", "resume_from_checkpoint": None}
        trainer = build_trainer({**config, "training": training}, [_StopsAt(step)])
        trainer.train(resume_from_checkpoint=None if before is None else str(before))
    replayed = {name: each.clone() for name, each in _tensors(trainer).items()}
    load_run(trainer, folder)
    saved = _tensors(trainer)
    differing = sorted(saved.keys() ^ replayed.keys())
    differing += [name for name in saved.keys() & replayed.keys() if not torch.equal(saved[name], replayed[name])]
    differing = sorted({name for each in trainer.world.gather(differing) for name in each})
    if differing:
        raise CheckpointError(
            str(folder), f"replayed from step {_step_of(before)}, must give the same weights",
            found=f"{len(differing)} tensors that differ, first {differing[0]}",
            remedy="Is it the machine, torch and number of threads that it was trained with?",
        )  # fmt: skip
    return {"from_step": _step_of(before), "to_step": step, "tensors": len(saved)}


def _newest_before(folder: Path, step: int) -> Path | None:
    """The newest whole checkpoint of the run that is older, and holds what a run goes on from."""
    for each in reversed(list_checkpoints(folder.parent)):
        if _step_of(each) < step and (each / "scheduler.json").is_file():
            with contextlib.suppress(CheckpointError):
                check_checkpoint(each)
                return each
    return None


def _tensors(trainer: Any) -> dict[str, torch.Tensor]:
    """What this process holds of the weights and of the optimizer's state: of shards, its own."""
    found = {**trainer.model.state_dict(), **_flat(trainer.optimizer.state_dict(), "optimizer")}
    return {name: each.to_local() if hasattr(each, "to_local") else each for name, each in found.items()}


def _step_of(folder: Path | None) -> int:
    return 0 if folder is None else int(folder.name.rpartition("-")[2])


def _flat(tree: Any, path: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a nested state, by where they are."""
    if isinstance(tree, torch.Tensor):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return {name: each for key, item in items for name, each in _flat(item, f"{path}.{key}").items()}
