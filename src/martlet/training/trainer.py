"""`Trainer`: what a user calls and overrides, under Hugging Face's names. The loop itself is in `loop`."""

from __future__ import annotations

import contextlib
import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from martlet.errors import ArgumentError, TrainingDataError, UnsupportedError
from martlet.nn.compute import computing_in_float32, has_bfloat16_products
from martlet.nn.draws import number_places
from martlet.nn.heads import MultipleChoice
from martlet.training.arguments import TrainingArguments
from martlet.training.batches import Batches
from martlet.training.callbacks import Callbacks, DefaultFlowCallback, TrainerCallback
from martlet.training.collators import pad_batch, pad_id
from martlet.training.evaluation import EvalLoopOutput, evaluation_loop
from martlet.training.feed import Fetcher, MapFeed, StreamFeed, has_length, lengths_of
from martlet.training.items import ItemCount, takes_item_count
from martlet.training.loop import Loop
from martlet.training.objectives import CausalObjective, Objective, find_objective, loss_of, unwrapped
from martlet.training.optimizers import build_optimizer, builder, parameter_groups
from martlet.training.order import Order
from martlet.training.outputs import PredictionOutput, TrainOutput
from martlet.training.samples import LABELS, RowReader, taken_columns
from martlet.training.schedules import build_schedule
from martlet.training.sources import LoaderFeed, sampled_order
from martlet.training.state import TrainerControl, TrainerState
from martlet.training.surface import Surface
from martlet.training.watch import watchers
from martlet.training.weights import save_weights
from martlet.training.world import World

# Methods of Hugging Face's Trainer that people override and that have no place here: an override would be ignored.
NOT_OVERRIDDEN = (
    "compute_loss_context_manager", "autocast_smart_context_manager", "get_optimizer_cls_and_kwargs",
    "hyperparameter_search", "_get_eval_sampler", "_save_checkpoint", "_inner_training_loop",
    "_maybe_log_save_evaluate", "_prepare_inputs", "floating_point_ops", "get_batch_samples", "prediction_loop",
    "get_decay_parameter_names", "push_to_hub", "num_examples",
)  # fmt: skip


class Trainer(Surface):
    """Trains `model` on `train_dataset` as `args` say: `train()`, or `fit(dataset)`.

    A dataset is a list of dicts, a torch Dataset, a `datasets` one (ours or Hugging Face's), or an iterable without a
    length (then `max_steps`). Rows have the model's columns, or `text` or `messages` for `processing_class` to
    tokenize. The loss of a step is the mean over the supervised tokens (rows, for one label a row) of its whole
    effective batch. Override `compute_loss`, `training_step`, `prediction_step`, `evaluation_loop`, `log`, the
    `get_..._dataloader`s, `_get_train_sampler`, `create_optimizer`, `create_scheduler`; an override of a method that is
    not used here is an UnsupportedError.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[[], Any] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[[Any], Mapping[str, Any]] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.args = args if args is not None else TrainingArguments()
        if not isinstance(self.args, TrainingArguments):
            raise ArgumentError("args", "must be martlet.training.TrainingArguments", found=type(args).__name__)
        if (model is None) == (model_init is None):
            raise ArgumentError("Trainer", "needs exactly one of model and model_init")
        self.model_init = model_init
        self.world = World(self.args)
        self._refuse_overrides()
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.processing_class, self._collator = processing_class, data_collator
        self.compute_loss_func, self.compute_metrics = compute_loss_func, compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.optimizer, self.lr_scheduler = optimizers
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        if optimizer_cls_and_kwargs is not None and self.optimizer is not None:
            raise ArgumentError("optimizer_cls_and_kwargs", "cannot go with optimizers")
        if model_init is not None and self.optimizer is not None:
            raise ArgumentError("optimizers", "cannot go with model_init: they would step another model's weights")
        self.state = TrainerState(
            is_local_process_zero=self.world.local_rank == 0, is_world_process_zero=self.world.is_first
        )
        self.control = TrainerControl()
        self.model: Any = None
        self.objective: Objective
        self._hold(model if model is not None else self.call_model_init())
        self.callback_handler = Callbacks([DefaultFlowCallback(), *watchers(self.args, self.world), *(callbacks or [])])
        self.is_in_train = False
        self.event("on_init_end")

    def _refuse_overrides(self) -> None:
        for name in NOT_OVERRIDDEN:
            if getattr(type(self), name, None) is not getattr(Trainer, name, None):
                raise UnsupportedError(
                    type(self).__name__, f"overrides {name}, which is not used here",
                    remedy="Override compute_loss, training_step, prediction_step, evaluation_loop, log, "
                    "create_optimizer or create_scheduler.",
                )  # fmt: skip
        if self.world.size > 1 and self._overrides("training_step"):
            raise UnsupportedError(
                type(self).__name__, "overrides training_step, which several processes cannot use",
                remedy="Override compute_loss.",
            )  # fmt: skip

    def _overrides(self, name: str) -> bool:
        """Whether a method is the user's own."""
        return name in vars(self) or getattr(type(self), name) is not getattr(Trainer, name)

    @property
    def data_collator(self) -> Callable[[list[Any]], Any]:
        """What makes a batch of samples: the one given, or one that pads them."""
        return self._collator if self._collator is not None else _Padding(pad_id(self.processing_class))

    @data_collator.setter
    def data_collator(self, collator: Callable[[list[Any]], Any] | None) -> None:
        self._collator = collator

    def _hold(self, model: Any) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError("model", "must be a torch module", found=type(model).__name__)
        self.model = model if self.world.device.type == "cpu" else model.to(self.world.device)
        self.objective = find_objective(model)
        number_places(model)

    # what a run calls, and a user may too

    def call_model_init(self) -> Any:
        """A model of `model_init`, which may take a trial; there is none."""
        init: Any = self.model_init
        wanted = [each for each in inspect.signature(init).parameters.values() if each.default is each.empty]
        return init(None) if any(each.kind < each.VAR_POSITIONAL for each in wanted) else init()

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike[str] | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Trains to the end of `max_steps` or `num_train_epochs`.

        `resume_from_checkpoint`: a checkpoint folder; True for the newest whole one in `output_dir` (CheckpointError
        if there is none); "auto" for that, or a fresh start. The resumed run gives the bits of one never interrupted.
        `ignore_keys_for_eval`: outputs of the model that are no predictions in the run's evaluations.
        """
        if trial is not None:
            raise UnsupportedError("trial", "must be None: there is no search of hyper-parameters", found=repr(trial))
        self.ignored_keys = ignore_keys_for_eval
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        if self.train_dataset is None and not self._overrides("get_train_dataloader"):
            raise ArgumentError("Trainer", "needs a train_dataset to train")
        has_rows = self.eval_dataset is not None or any(map(self._overrides, ("get_eval_dataloader", "evaluate")))
        if self.args.eval_strategy != "no" and not has_rows:
            raise ArgumentError("Trainer", f"needs an eval_dataset for eval_strategy={self.args.eval_strategy!r}")
        if self.model_init is not None and self.is_trained:
            self._hold(self.call_model_init())
            self.optimizer = self.lr_scheduler = None
        self.is_in_train = True
        try:
            with self.world.told_to_end(), self.world.watching():
                output: TrainOutput = Loop(self).run(resume_from_checkpoint)
                return output
        finally:
            self.is_in_train, self.step_module = False, None
            self.callback_handler.close()

    is_trained = False
    ignored_keys: list[str] | None = None  # of the model's outputs, in the evaluations of a run
    run_config: Mapping[str, Any] | None = None  # how `martlet train` made this trainer: checkpoints keep it

    def fit(self, train_dataset: Any = None, eval_dataset: Any = None) -> Trainer:
        """As `train`, on the datasets given here; returns the trainer."""
        self.train_dataset = train_dataset if train_dataset is not None else self.train_dataset
        self.eval_dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        self.train()
        return self

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics over a dataset, each with `metric_key_prefix` before it; of a dict of datasets, its name too."""
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        if isinstance(dataset, str):
            dataset = {dataset: self.eval_dataset[dataset]}
        if dataset is None and not self._overrides("get_eval_dataloader"):
            raise ArgumentError("evaluate", "needs an eval_dataset")
        if isinstance(dataset, Mapping):
            metrics: dict[str, float] = {}
            for name, each in dataset.items():
                metrics |= self.evaluate(each, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        output = self.evaluation_loop(
            self.get_eval_dataloader(dataset), "Evaluation", self.args.prediction_loss_only or None, ignore_keys,
            metric_key_prefix,
        )  # fmt: skip
        self.log(output.metrics)
        self.event("on_evaluate", metrics=output.metrics)
        return output.metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predictions, labels and metrics over a dataset; metrics of labels only where rows have them."""
        output = self.evaluation_loop(
            self.get_test_dataloader(test_dataset), "Prediction", self.args.prediction_loss_only, ignore_keys,
            metric_key_prefix,
        )  # fmt: skip
        self.event("on_predict", metrics=output.metrics)
        return PredictionOutput(output.predictions, output.label_ids, output.metrics)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str = "",
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Runs the model over batches: predictions, labels, metrics with their prefix, and how many samples.

        `prediction_loss_only` None: unless there is a compute_metrics. `description` is said nowhere.
        """
        return evaluation_loop(self, dataloader, metric_key_prefix, ignore_keys, prediction_loss_only)

    def save_model(self, output_dir: str | os.PathLike[str] | None = None) -> None:
        """Writes the model, and the tokenizer if there is one, where `from_pretrained` finds them."""
        folder = Path(output_dir if output_dir is not None else str(self.args.output_dir))
        state = self.full_weights()
        if self.world.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            self.write_model(folder, state)
        self.world.wait()

    def write_model(self, folder: Path, state: Mapping[str, Tensor] | None) -> None:
        """Model and tokenizer into a folder; one rank's work."""
        save_weights(self.model, folder, state)
        if hasattr(self.processing_class, "save_pretrained"):
            self.processing_class.save_pretrained(folder)

    def full_weights(self) -> Mapping[str, Tensor] | None:
        """All weights gathered from the shards, on rank 0; None where nothing is sharded. Every rank must call it."""
        if not self.world.shards:
            return None
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        found = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        return dict(found)  # type: ignore[arg-type]

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Adds to the history, and tells the callbacks."""
        if self.state.epoch is not None:
            logs["epoch"] = self.state.epoch
        if self.args.include_num_input_tokens_seen != "no":
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
            if start_time is not None:
                logs["train_tokens_per_second"] = self.state.num_input_tokens_seen / (time.time() - start_time)
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.event("on_log", logs=logs)

    # what a user overrides

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one batch: its sum over `num_items_in_batch`, or the mean over its own supervised items.

        An override that does not use `num_items_in_batch` gives a mean over its batch, and is weighted as such.
        """
        if self.compute_loss_func is not None:
            labels = inputs.pop("labels", None)
            outputs = model(**inputs)
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        else:
            total, outputs = self.objective.loss_sum(model, inputs, self.args.label_smoothing_factor, return_outputs)
            loss = total / (
                num_items_in_batch if num_items_in_batch is not None else max(1, self.objective.count(inputs))
            )
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The share of one batch in its step's loss, with its gradients added to the weights'.

        `num_items_in_batch` is of the whole step. An override calls this, or `accelerator.backward` by itself.
        """
        total = num_items_in_batch if num_items_in_batch is not None else max(1, self.objective.count(inputs))
        loss: Tensor = self.step_module(inputs, total) if self.step_module else self.batch_loss(inputs, total)
        if not loss.requires_grad:
            raise ArgumentError("compute_loss", "must depend on weights that learn", found="a loss without a gradient")
        # the ranks' gradients are averaged, and the loss is a sum over them
        (loss * self.world.size if self.world.size > 1 else loss).backward()
        return loss.detach()

    step_module: Any = None  # the model with its loss as DDP and FSDP wrapped it, in a run

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Loss (None without labels), logits and labels of one batch."""
        names = self.label_names
        has_labels = all(name in inputs for name in names)
        labels: Any = tuple(inputs[name] for name in names) if has_labels else None
        labels = labels[0] if labels is not None and len(labels) == 1 else labels
        with torch.no_grad():
            if prediction_loss_only:
                return (self.compute_loss(model, dict(inputs)).detach() if has_labels else None), None, None
            if has_labels:
                loss, outputs = self.compute_loss(model, dict(inputs), return_outputs=True)
                return loss.detach(), _predictions(outputs, ignore_keys or ()), labels
            return None, _predictions(model(**inputs), ignore_keys or ()), None

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Sets `self.optimizer` if there is none: weights in two groups, the second without decay."""
        if self.optimizer is None:
            groups = parameter_groups(self.model, self.args.weight_decay)
            if self.optimizer_cls_and_kwargs is not None:
                kind, options = self.optimizer_cls_and_kwargs
                self.optimizer = build_optimizer(self.args, groups, lambda made: kind(made, **options))
            else:
                self.optimizer = build_optimizer(self.args, groups, builder(self.args))
        return self.optimizer  # type: ignore[no-any-return]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Sets `self.lr_scheduler` if there is none."""
        if self.lr_scheduler is None:
            self.lr_scheduler = build_schedule(
                self.args.lr_scheduler_type,
                optimizer if optimizer is not None else self.optimizer,
                self.args.get_warmup_steps(num_training_steps),
                num_training_steps,
                dict(self.args.lr_scheduler_kwargs),  # type: ignore[arg-type]
            )
        return self.lr_scheduler

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        self.create_optimizer()
        self.create_scheduler(num_training_steps, self.optimizer)

    # callbacks

    def add_callback(self, callback: Any) -> None:
        self.callback_handler.add(callback)

    def remove_callback(self, callback: Any) -> None:
        self.callback_handler.remove(callback)

    def pop_callback(self, callback: Any) -> TrainerCallback | None:
        removed: TrainerCallback | None = self.callback_handler.remove(callback)
        return removed

    def event(self, name: str, **more: Any) -> None:
        """Calls one event of all callbacks; their switches are in `control` afterwards."""
        self.control = self.callback_handler.call(
            name, self.args, self.state, self.control, model=self.model, processing_class=self.processing_class,
            optimizer=self.optimizer, lr_scheduler=self.lr_scheduler, **self._dataloaders(), **more,
        )  # fmt: skip

    def _dataloaders(self) -> dict[str, Any]:
        train, evaluated = self.train_dataset, self.eval_dataset
        return {
            "train_dataloader": None if train is None else Batches(self, train, is_training=True),
            "eval_dataloader": None if evaluated is None or isinstance(evaluated, Mapping)
            else Batches(self, evaluated, is_training=False),
        }  # fmt: skip

    # batches

    def reader(self, is_training: bool) -> RowReader:
        """How rows become samples of this model."""
        names = tuple(self.args.label_names or LABELS) + (
            self.objective.names if self.objective.names != ("labels",) else ()
        )
        config = getattr(self.model, "config", None)
        arch = getattr(config, "arch", None)
        columns = taken_columns(self.model, names) if self.args.remove_unused_columns else None
        keeps = columns if self._collator is None or columns is None else columns | {"special_tokens_mask"}
        return RowReader(
            tokenizer=self.processing_class,
            columns=keeps,
            context=arch.max_position_embeddings if arch is not None else 0,
            vocab_size=arch.vocab_size if arch is not None else 0,
            needs_labels=is_training and self.objective.needs_labels and self._collator is None,
            label_names=names,
            learns_text=isinstance(self.objective, CausalObjective) and self._collator is None,
            has_choices=isinstance(unwrapped(self.model), MultipleChoice),
        )

    def fetcher(self, dataset: Any, is_training: bool) -> Fetcher:
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return Fetcher(
            dataset, self.reader(is_training), self.data_collator, seed, self.args.dataloader_prefetch_factor
        )

    def feed(self) -> MapFeed | StreamFeed:
        """The training batches, step by step: those of a loader of the user's own, or of the dataset."""
        if self._overrides("get_train_dataloader"):
            loader: Any = self.get_train_dataloader()
            if not isinstance(loader, Batches):
                seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
                return LoaderFeed(loader, self.args.gradient_accumulation_steps, seed)
        return self.own_feed()

    def own_feed(self) -> MapFeed | StreamFeed:
        """The training dataset, step by step."""
        if isinstance(self.train_dataset, Mapping):
            raise TrainingDataError(
                "train_dataset", "must be one dataset", found=f"splits {', '.join(map(str, self.train_dataset))}",
                remedy="Pass one of them, as in splits['train'].",
            )  # fmt: skip
        args, world, fetcher = self.args, self.world, self.fetcher(self.train_dataset, True)
        if not has_length(self.train_dataset):
            return StreamFeed(
                self.train_dataset, fetcher, batch_size=args.train_batch_size,
                accumulation=args.gradient_accumulation_steps, world=world.size, rank=world.rank,
                drop_last=args.dataloader_drop_last, workers=args.dataloader_num_workers,
            )  # fmt: skip
        if not len(self.train_dataset):
            raise TrainingDataError("train_dataset", "must have rows", found="none")
        grouped = args.train_sampling_strategy == "group_by_length"
        order = Order(
            len(self.train_dataset), args.train_batch_size, args.gradient_accumulation_steps, world.size, fetcher.seed,
            args.train_sampling_strategy, args.dataloader_drop_last,
            lengths_of(fetcher, args.length_column_name) if grouped else None,
        )  # fmt: skip
        if self._overrides("_get_train_sampler"):
            sampler = self._get_train_sampler(*self._sampler_arguments())
            order = order if sampler is None else sampled_order(sampler, order)
        if not order.steps_per_epoch:
            raise TrainingDataError(
                "train_dataset", f"must have {order.step_size} rows for a step with dataloader_drop_last",
                found=order.num_samples,
            )  # fmt: skip
        return MapFeed(fetcher, order, world.rank, args.dataloader_num_workers)

    def get_train_dataloader(self) -> Batches:
        """The batches of an epoch of training, as a run takes them."""
        if self.train_dataset is None:
            raise ArgumentError("Trainer", "needs a train_dataset")
        return Batches(self, self.train_dataset, is_training=True)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """A sampler for the training dataset; None for the order that `train_sampling_strategy` says."""

    def _sampler_arguments(self) -> tuple[Any, ...]:
        takes = len(inspect.signature(self._get_train_sampler).parameters) > 0
        return (self.train_dataset,) if takes else ()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Batches:
        """The batches of an evaluation; a text names one of several datasets."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        if dataset is None:
            raise ArgumentError("Trainer", "needs an eval_dataset")
        return Batches(self, dataset, is_training=False)

    def get_test_dataloader(self, test_dataset: Any) -> Batches:
        return Batches(self, test_dataset, is_training=False)

    def batch_loss(self, inputs: dict[str, Any], total: int) -> Tensor:
        """A batch's share of the loss of a step with `total` supervised items, with its gradient."""
        own = self.objective.count(inputs)
        count = ItemCount(total)
        more: dict[str, Any] = {"num_items_in_batch": count} if takes_item_count(self.compute_loss) else {}
        loss = self.compute_loss(self.model, dict(inputs), **more)
        if not isinstance(loss, Tensor) or loss.ndim:
            raise ArgumentError("compute_loss", "must return one number as a tensor", found=str(loss)[:80])
        return loss if count.was_used else loss * (own / total)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, the model computes in the dtype that is right for the machine: `bf16` asks for bfloat16 products,
        which are used where they are not emulated; bfloat16 weights are widened for each product where they are."""
        device = self.world.device.type
        if has_bfloat16_products(device):
            asked = self.args.bf16 if self.is_in_train else self.args.bf16_full_eval
            with torch.autocast(device, torch.bfloat16) if asked else contextlib.nullcontext():
                yield
        else:
            with computing_in_float32(self.model):
                yield

    # small things under Hugging Face's names

    def get_optimizer_group(self, param: Any = None) -> Any:
        """The optimizer's groups, or the one a weight is in."""
        groups = self.create_optimizer().param_groups
        if param is None:
            return [group["params"] for group in groups]
        return next((group for group in groups if any(each is param for each in group["params"])), None)

    def get_learning_rates(self) -> list[float]:
        return [group["lr"] for group in self.create_optimizer().param_groups]


class _Padding:
    """Pads a batch with an id; a class, so that worker processes can be given it."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        return pad_batch(samples, self.pad_token_id)


def _predictions(outputs: Any, ignored: Any) -> Any:
    """What a model predicts: everything it returned but the loss and what is to be ignored."""
    if hasattr(outputs, "items"):
        skip = {"loss", "past_key_values", *ignored}
        found = tuple(value for name, value in outputs.items() if name not in skip and value is not None)
    elif isinstance(outputs, tuple | list):
        found = tuple(outputs[0 if loss_of(outputs) is None else 1 :])
    else:
        found = (outputs,)
    return found[0] if len(found) == 1 else found
