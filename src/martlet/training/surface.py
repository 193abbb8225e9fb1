"""What scripts ask a trainer beside training: counts, metrics in files, a model card, the names of `accelerate`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from martlet.errors import UnsupportedError
from martlet.formats.files import read_json, write_aside, write_json
from martlet.training.arguments import TrainingArguments
from martlet.training.evaluation import to_device
from martlet.training.optimizers import decay_parameter_names


class Surface:
    """The part of a `Trainer` that reads it and writes about it, under Hugging Face's names."""

    model: Any
    args: TrainingArguments
    state: Any
    world: Any
    objective: Any

    @property
    def model_wrapped(self) -> Any:
        """The model: what DDP and FSDP wrap is the step, not the model."""
        return self.model

    @property
    def accelerator(self) -> Accelerated:
        """What scripts ask of accelerate: which process this is, and steps backward."""
        return Accelerated(self)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels in a batch."""
        return tuple(self.args.label_names or self.objective.names)

    def get_num_trainable_parameters(self) -> int:
        return sum(each.numel() for each in self.model.parameters() if each.requires_grad)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Names of the weights that decay: all but biases and those of norms."""
        return decay_parameter_names(model)

    def get_total_train_batch_size(self, args: Any = None) -> int:
        """Samples of a step, of all processes."""
        given = args if args is not None else self.args
        return int(given.train_batch_size * given.gradient_accumulation_steps * self.world.size)

    def num_examples(self, dataloader: Any) -> int:
        """Samples of a loader's dataset."""
        return len(dataloader.dataset)

    def is_world_process_zero(self) -> bool:
        return bool(self.world.is_first)

    def is_local_process_zero(self) -> bool:
        return bool(self.world.local_rank == 0)

    # of a batch

    def compute_loss_context_manager(self) -> Any:
        """A context for nothing: a run is inside the right one already."""
        return contextlib.nullcontext()

    autocast_smart_context_manager = compute_loss_context_manager

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch on the model's device, with its labels where there are some or can be made."""
        moved = to_device(inputs, self.world.device)
        names = self.objective.names
        has_labels = not self.objective.needs_labels or all(name in moved for name in names)
        return self.objective.prepare(moved) if has_labels else moved

    # files

    def save_state(self) -> None:
        """Writes trainer_state.json into `output_dir`."""
        if self.world.is_first:
            folder = Path(str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            self.state.save_to_json(folder / "trainer_state.json")

    def metrics_format(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics as they are printed: floats of four places."""
        return {name: round(each, 4) if isinstance(each, float) else each for name, each in metrics.items()}

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Prints metrics, one a line."""
        if self.world.is_first:
            print(f"***** {split} metrics *****")
            for name, value in sorted(self.metrics_format(metrics).items()):
                print(f"  {name} = {value}")

    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Writes SPLIT_results.json, and adds to all_results.json."""
        if not self.world.is_first:
            return
        folder = Path(str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{split}_results.json", dict(metrics))
        if combined:
            path = folder / "all_results.json"
            write_json(path, {**(read_json(path) if path.is_file() else {}), **metrics})

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes README.md into `output_dir`: the Hub's metadata, the arguments, the last metrics."""
        if not self.world.is_first:
            return
        base = finetuned_from or getattr(self.model, "name_or_path", "") or None
        told = {"language": language, "license": license, "base_model": base, "tags": _listed(tags, "martlet")}
        told |= {"datasets": _listed(dataset_tags), "pipeline_tag": next(iter(_listed(tasks)), None)}
        folder = Path(str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["---"]
        for name, value in told.items():
            if isinstance(value, list):
                lines += [f"{name}:", *(f"- {each}" for each in value)] if value else []
            elif value is not None:
                lines.append(f"{name}: {value}")
        lines += ["---", "", f"# {model_name or folder.name}", ""]
        source = f"`{base}`" if base else "a model made anew"
        data = ", ".join(_listed(dataset) + _listed(dataset_args))
        lines += [f"Trained from {source}{f' on {data}' if data else ''}, {self.state.global_step} steps.", ""]
        named = ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "seed", "optim",
                 "lr_scheduler_type", "num_train_epochs", "max_steps", "bf16")  # fmt: skip
        lines += ["| argument | value |", "|---|---|", *(f"| {n} | {getattr(self.args, n)} |" for n in named), ""]
        logs = {name: each for entry in self.state.log_history for name, each in entry.items()}
        lines += ["| metric | last value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in sorted(self.metrics_format(logs).items())]
        with write_aside(folder / "README.md") as file:
            file.write(("\n".join(lines) + "\n").encode())

    # what there is not

    def push_to_hub(self, *_: Any, **__: Any) -> NoReturn:
        """Nothing is uploaded here."""
        raise UnsupportedError(
            "push_to_hub", "nothing is uploaded", remedy="save_model(folder), and upload_folder of huggingface_hub."
        )

    def init_hf_repo(self, *_: Any, **__: Any) -> NoReturn:
        """Nothing is uploaded here."""
        raise UnsupportedError("init_hf_repo", "nothing is uploaded", remedy="create_repo of huggingface_hub.")

    def hyperparameter_search(self, *_: Any, **__: Any) -> NoReturn:
        """There is no search here."""
        raise UnsupportedError(
            "hyperparameter_search", "there is no search of hyper-parameters",
            remedy="Make a Trainer for each trial, or use TextClassifier in scikit-learn's GridSearchCV.",
        )  # fmt: skip


def _listed(value: str | list[str] | None, *more: str) -> list[str]:
    return [*([value] if isinstance(value, str) else value or []), *more]


class Accelerated:
    """The part of accelerate's Accelerator that scripts around a Trainer use. Anything else is an error naming it."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedError(f"trainer.accelerator.{name}", "is not there: there is no accelerate inside")

    @property
    def is_main_process(self) -> bool:
        return bool(self._trainer.world.is_first)

    @property
    def is_local_main_process(self) -> bool:
        return bool(self._trainer.world.local_rank == 0)

    @property
    def process_index(self) -> int:
        return int(self._trainer.world.rank)

    @property
    def num_processes(self) -> int:
        return int(self._trainer.world.size)

    @property
    def device(self) -> torch.device:
        found: torch.device = self._trainer.world.device
        return found

    def wait_for_everyone(self) -> None:
        self._trainer.world.wait()

    def print(self, *what: Any, **how: Any) -> None:
        """Prints on the first process."""
        if self.is_main_process:
            print(*what, **how)

    def unwrap_model(self, model: Any, **_: Any) -> Any:
        return model

    def backward(self, loss: Tensor, **_: Any) -> None:
        """Gradients of a loss, in a `training_step` of one's own."""
        torch.autograd.backward(loss)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        with self._trainer.computing():
            yield

    def prepare(self, *given: Any) -> Any:
        """What was given. With several processes a loader would have to be cut, and is refused."""
        if self._trainer.world.size > 1:
            raise UnsupportedError(
                "trainer.accelerator.prepare", "loaders are not cut among processes",
                remedy="Give the loader a DistributedSampler, or leave get_train_dataloader as it is.",
            )  # fmt: skip
        return given[0] if len(given) == 1 else given

    def gather_for_metrics(self, value: Any) -> Any:
        """The value of this process; UnsupportedError with several."""
        if self._trainer.world.size > 1:
            raise UnsupportedError(
                "trainer.accelerator.gather_for_metrics", "evaluate and predict gather by themselves"
            )
        return value

    gather = gather_for_metrics
