"""A run as its checkpoints hold it: written whole, found again, and refused where it is not this run's."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from martlet.errors import CheckpointError
from martlet.formats.files import read_json, write_json
from martlet.training.checkpoints import (
    MANIFEST,
    check_checkpoint,
    checkpoint_name,
    list_checkpoints,
    newest_good,
    rotate,
    write_checkpoint,
)
from martlet.training.state import TrainerState
from martlet.training.statefile import load_tree, save_tree
from martlet.training.weights import fingerprint, load_weights

RUN, STATE, SHARDS = "run.json", "trainer_state.json", "shards"


@dataclass
class Progress:
    """What a run knows beside its TrainerState. Losses are float64, which JSON keeps to the bit."""

    epoch: int = 0  # of a stream: the epoch its next sample is in, and the samples taken of it
    taken: int = 0
    skipped: int = 0  # steps of a dataset with a length that a callback left out, by ending an epoch
    ends_epoch: bool = False  # the last step ended an epoch whose end was not yet announced
    loss_sum: float = 0.0  # of all steps, and of those not yet logged
    unlogged: float = 0.0
    logged_step: int = 0
    recent: list[float] = field(default_factory=list)  # losses of the last steps, to tell an explosion


def save_run(trainer: Any, progress: Progress, identity: dict[str, Any]) -> Path:
    """Writes checkpoint-STEP into the output folder: whole, or not there at all. Old ones go, as the limit says."""
    args, world, state = trainer.args, trainer.world, trainer.state
    folder = Path(args.output_dir) / checkpoint_name(state.global_step)
    state.stateful_callbacks = trainer.callback_handler.states()
    weights = trainer.full_weights()
    aside_shards = _save_shards(trainer, folder) if world.shards and not args.save_only_model else None

    config = None if trainer.run_config is None else dict(trainer.run_config)

    def fill(aside: Path) -> None:
        trainer.write_model(aside, weights)
        state.save_to_json(aside / STATE)
        write_json(
            aside / RUN, {"identity": identity, "progress": asdict(progress), "world": world.size, "config": config}
        )
        if args.save_only_model:
            return
        if aside_shards is not None:
            os.replace(aside_shards, aside / SHARDS)
        else:
            save_tree(aside, "optimizer", trainer.optimizer.state_dict())
        save_tree(aside, "scheduler", _schedule_state(trainer.lr_scheduler))

    failed = None
    if world.is_first:
        try:
            write_checkpoint(folder, fill)
            rotate(Path(args.output_dir), args.save_total_limit, _protected(state, folder))
        except Exception as problem:
            failed = problem
            if world.size == 1:
                raise
    failed = world.from_first(failed)
    if failed is not None:
        raise failed
    trainer.event("on_save")  # the checkpoint is there: callbacks put files of their own beside its
    return folder


def _schedule_state(schedule: Any) -> dict[str, Any]:
    """What a schedule counts; its functions are made again from the arguments."""
    plain = (bool, int, float, str, list, tuple, dict, type(None))
    return {name: each for name, each in schedule.state_dict().items() if isinstance(each, plain)}


def _protected(state: TrainerState, newest: Path) -> list[Path]:
    return [newest, *([Path(state.best_model_checkpoint)] if state.best_model_checkpoint else [])]


def _save_shards(trainer: Any, folder: Path) -> Path:
    """Weights and optimizer as every rank holds them, by torch.distributed.checkpoint: any world size reads it."""
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.checkpoint.state_dict_saver import save

    aside = folder.with_name(f".{folder.name}.{'0' * 16}.tmp")
    model, optimizer = get_state_dict(trainer.model, trainer.optimizer)
    save({"model": model, "optimizer": optimizer}, checkpoint_id=aside)
    trainer.world.wait()
    return aside


def _load_shards(trainer: Any, folder: Path) -> None:
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    model, optimizer = get_state_dict(trainer.model, trainer.optimizer)
    state: dict[str, Any] = {"model": model, "optimizer": optimizer}
    load(state, checkpoint_id=folder / SHARDS, no_dist=trainer.world.size == 1)
    set_state_dict(
        trainer.model, trainer.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )


def load_best(trainer: Any, folder: Path) -> None:
    """Gives the trainer the weights of a checkpoint of its own run. Every rank must call it."""
    if not trainer.world.shards:
        load_weights(trainer.model, folder)
        return
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    if not (folder / SHARDS).is_dir():
        raise CheckpointError(
            str(folder), "holds no shards to load the best model from", remedy="Leave save_only_model off with fsdp."
        )
    state: dict[str, Any] = {"model": get_model_state_dict(trainer.model)}
    load(state, checkpoint_id=folder / SHARDS)
    set_model_state_dict(trainer.model, state["model"])


def find_resume(asked: Any, output: Path) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` means, whole and verified; None for a fresh start."""
    if asked in (None, False):
        return None
    if asked is True or asked == "auto":
        found = newest_good(output)
        if found is None and (asked is True or list_checkpoints(output)):
            torn = ", ".join(path.name for path in list_checkpoints(output)) or "none"
            raise CheckpointError(str(output), "must have a whole checkpoint to resume from", found=torn)
        return found
    folder = Path(asked)
    if not folder.is_dir():
        raise CheckpointError(str(folder), "must be the folder of a checkpoint", found="no such folder")
    if not (folder / MANIFEST).is_file() and (folder / STATE).is_file():
        raise CheckpointError(
            str(folder), "was not written by martlet, so the run cannot go on exactly",
            remedy="Load its model with from_pretrained, and start a new run.",
        )  # fmt: skip
    check_checkpoint(folder)
    return folder


def check_identity(folder: Path, identity: dict[str, Any]) -> None:
    """CheckpointError unless the checkpoint is of this model, data and step size."""
    if not (folder / RUN).is_file():
        raise CheckpointError(str(folder), f"must have {RUN}", remedy="Is it the checkpoint of a run?")
    found = read_json(folder / RUN)["identity"]
    for name, rule in (
        ("weights", "must be of the same architecture as the model"),
        ("num_samples", "must be of a run on this dataset: the number of rows differs"),
        ("step_size", "must have been trained with as many samples a step: batch x accumulation x processes"),
        ("seed", "must be of a run with this seed"),
        ("sampling", "must be of a run with this order of samples"),
        ("optimizer", "must be of a run with this optimizer"),
    ):
        if found.get(name) != identity[name]:
            shown = "another's names and shapes" if name == "weights" else f"{found.get(name)} for {identity[name]}"
            raise CheckpointError(str(folder), rule, found=shown)


def load_run(trainer: Any, folder: Path) -> Progress:
    """Gives the trainer its weights, optimizer, schedule and counters back. Needs the optimizer to be there."""
    if not (folder / "scheduler.json").is_file():
        raise CheckpointError(
            str(folder), "holds a model without its optimizer", remedy="Was it saved with save_only_model=True?"
        )
    if (folder / SHARDS).is_dir():
        _load_shards(trainer, folder)
    else:
        if trainer.world.shards:
            raise CheckpointError(
                str(folder),
                "was not saved from shards",
                remedy="Resume it without fsdp, or start with fsdp from the first.",
            )
        load_weights(trainer.model, folder)
        trainer.optimizer.load_state_dict(load_tree(folder, "optimizer"))
    trainer.lr_scheduler.load_state_dict(load_tree(folder, "scheduler"))
    zero = trainer.state.is_local_process_zero, trainer.state.is_world_process_zero
    trainer.state = TrainerState.load_from_json(folder / STATE)
    trainer.state.is_local_process_zero, trainer.state.is_world_process_zero = zero
    trainer.callback_handler.load_states(trainer.state.stateful_callbacks)
    return Progress(**read_json(folder / RUN)["progress"])


def identity_of(trainer: Any, step_size: int) -> dict[str, Any]:
    """What makes a run this run: a checkpoint of another is refused."""
    args, dataset = trainer.args, trainer.train_dataset
    return {
        "weights": fingerprint(trainer.model),
        "num_samples": len(dataset) if hasattr(dataset, "__len__") else None,
        "step_size": step_size,
        "seed": [args.seed, args.data_seed],
        "sampling": args.train_sampling_strategy,
        "optimizer": type(trainer.optimizer).__name__ + f" {args.optim}",
        "torch": torch.__version__,
    }
