"""`TrainingArguments`: Hugging Face's names and meanings, checked when made. What is not supported is refused here."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.errors import ArgumentError, UnsupportedError
from martlet.kinds import check_kinds
from martlet.training.choices import IntervalStrategy, SaveStrategy, SchedulerType
from martlet.training.grouped import Grouped

INTERVALS = tuple(each.value for each in IntervalStrategy)
SCHEDULES = tuple(each.value for each in SchedulerType)
OPTIMIZERS = (
    "adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop", "adamw_8bit", "adamw_bnb_8bit",
    "lion_8bit", "adamw_torch_8bit", "adamw_torch_4bit",
)  # fmt: skip
REPORTERS = ("tensorboard", "wandb", "mlflow")
SAMPLINGS = ("random", "sequential", "group_by_length")
BF16_UPDATES = ("master", "stochastic", "plain")

# Arguments of Hugging Face's that change what happens and that we do not have: the value that means "off", and why not.
REFUSED: dict[str, tuple[Any, str]] = {
    "fp16": (False, "float16 needs loss scaling, which is not here; use bf16=True"),
    "fp16_full_eval": (False, "evaluation runs in the weights' dtype or bfloat16"),
    "tf32": (None, "set torch.backends.cuda.matmul.allow_tf32 yourself"),
    "optim_target_modules": (None, "freeze parameters with requires_grad_(False) instead"),
    "average_tokens_across_devices": (True, "the loss is a mean over the tokens of all ranks, always"),
    "activation_checkpointing_kwargs": (None, "each block is checkpointed, without options"),
    "gradient_checkpointing_kwargs": (None, "each block is checkpointed, without options"),
    "use_liger_kernel": (False, "the loss is chunked already"),
    "liger_kernel_config": (None, "the loss is chunked already"),
    "use_cache": (False, "training keeps no keys and values"),
    "torch_empty_cache_steps": (None, "memory is left to torch"),
    "auto_find_batch_size": (False, "use gradient_accumulation_steps; `martlet train plan` says what fits"),
    "log_on_each_node": (True, "rank 0 logs"),
    "logging_nan_inf_filter": (False, "a loss that is not finite stops the run"),
    "log_level": ("passive", "set the level of the logger 'martlet' yourself"),
    "log_level_replica": ("warning", "set the level of the logger 'martlet' yourself"),
    "project": ("huggingface", "there is no trackio logger"),
    "trackio_space_id": (None, "there is no trackio logger"),
    "trackio_bucket_id": (None, "there is no trackio logger"),
    "trackio_static_space_id": (None, "there is no trackio logger"),
    "eval_use_gather_object": (False, "predictions are gathered as they are"),
    "eval_accumulation_steps": (None, "predictions move to the CPU after each batch, always"),
    "save_on_each_node": (False, "rank 0 saves"),
    "enable_jit_checkpoint": (False, "a killed run resumes from its last checkpoint"),
    "push_to_hub": (False, "nothing is uploaded; use huggingface_hub"),
    "hub_token": (None, "nothing is uploaded; use huggingface_hub"),
    "hub_private_repo": (None, "nothing is uploaded; use huggingface_hub"),
    "hub_model_id": (None, "nothing is uploaded; use huggingface_hub"),
    "hub_strategy": ("every_save", "nothing is uploaded; use huggingface_hub"),
    "hub_always_push": (False, "nothing is uploaded; use huggingface_hub"),
    "hub_revision": (None, "nothing is uploaded; use huggingface_hub"),
    "ignore_data_skip": (False, "a resumed run goes on with the sample it stopped before"),
    "restore_callback_states_from_checkpoint": (True, "callbacks with a state are always restored"),
    "accelerator_config": (None, "there is no accelerate inside"),
    "parallelism_config": (None, "only data parallelism: DDP, or fsdp=True"),
    "dataloader_pin_memory": (True, "batches are a few integers"),
    "dataloader_persistent_workers": (False, "workers live as long as a run anyway"),
    "dataloader_multiprocessing_context": (None, "the platform's default is used"),
    "dataloader_in_order": (True, "the order of samples is a promise"),
    "ddp_find_unused_parameters": (None, "unused parameters are found, always"),
    "ddp_broadcast_buffers": (None, "models have no buffers that change"),
    "ddp_static_graph": (None, "batches are ragged, so graphs differ"),
    "deepspeed": (None, "use fsdp=True"),
    "debug": ("", "a loss that is not finite stops the run and names its samples"),
    "skip_memory_metrics": (True, "peak memory is in report.html"),
    "local_rank": (-1, "torchrun says it through LOCAL_RANK"),
}
# Their other values that ask for what happens anyway: how batches get to the model, never what is computed.
HELD_ANYWAY: dict[str, Callable[[Any], bool]] = {
    "dataloader_pin_memory": lambda value: value is False,
    "dataloader_persistent_workers": lambda value: value is True,
    "ddp_find_unused_parameters": lambda value: isinstance(value, bool),
    "gradient_checkpointing_kwargs": lambda value: set(value) <= {"use_reentrant"},
    "activation_checkpointing_kwargs": lambda value: set(value) <= {"use_reentrant"},
    "eval_accumulation_steps": lambda value: isinstance(value, int) and value > 0,
}


class ParallelMode(Enum):
    """Whether several processes train together."""

    NOT_PARALLEL = "not_parallel"
    DISTRIBUTED = "distributed"


class _Checked(type):
    """Makes arguments: one that is refused has its own error, in subclasses too."""

    def __call__(cls, *by_place: Any, **given: Any) -> Any:
        return super().__call__(*by_place, **_taken(given, {each.name for each in fields(cls)}))  # type: ignore[arg-type]


@dataclass
class TrainingArguments(Grouped, metaclass=_Checked):
    """Every setting of a run. ArgumentError for an unknown name or a wrong value, UnsupportedError for one we lack.

    Names and defaults are those of Hugging Face's TrainingArguments; steps count updates of the weights. Ours alone:
    `bf16_update` ("master": float32 copies of bfloat16 weights; "stochastic": rounding by chance, no copies; "plain"),
    `max_loss_jump` (a step's loss over this many times the median of the steps before stops the run; 0: never),
    `report_html` (write report.html beside the checkpoints), `progress` ("line": one that is rewritten; "rich": a view
    with a bar and the last logs).
    """

    output_dir: str | None = None
    _: KW_ONLY
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    num_train_epochs: float = 3.0
    max_steps: int = -1
    learning_rate: float = 5e-5
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, Any] | str | None = None
    warmup_steps: float = 0
    warmup_ratio: float | None = None
    optim: str = "adamw_torch_fused"
    optim_args: str | None = None
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = 1.0
    label_smoothing_factor: float = 0.0
    bf16: bool = False
    bf16_full_eval: bool = False
    bf16_update: str = "master"
    activation_checkpointing: bool | None = None
    gradient_checkpointing: bool | None = None
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    neftune_noise_alpha: float | None = None
    logging_strategy: str = "steps"
    logging_steps: float = 500
    logging_first_step: bool = False
    include_num_input_tokens_seen: str | bool = "no"
    disable_tqdm: bool | None = None
    progress: str = "line"
    report_to: str | list[str] | None = "none"
    report_html: bool = True
    run_name: str | None = None
    eval_strategy: str = "no"
    eval_steps: float | None = None
    eval_delay: float = 0
    eval_on_start: bool = False
    prediction_loss_only: bool = False
    eval_do_concat_batches: bool = True
    batch_eval_metrics: bool = False
    include_for_metrics: list[str] = field(default_factory=list)
    save_only_model: bool = False
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    max_loss_jump: float = 100.0
    full_determinism: bool = False
    seed: int = 42
    data_seed: int | None = None
    use_cpu: bool = False
    dataloader_drop_last: bool = False
    dataloader_num_workers: int = 0
    dataloader_prefetch_factor: int | None = None
    remove_unused_columns: bool = True
    label_names: list[str] | None = None
    train_sampling_strategy: str = "random"
    group_by_length: bool = False
    length_column_name: str = "length"
    ddp_backend: str | None = None
    ddp_timeout: int = 1800
    ddp_bucket_cap_mb: int | None = None
    fsdp: bool | str | None = None
    fsdp_config: dict[str, Any] | str | None = None
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    resume_from_checkpoint: str | bool | None = None

    def __post_init__(self) -> None:
        check_kinds(self, TrainingArguments, frozenset({"output_dir", "report_to", "fsdp"}))
        self._check_numbers()
        self._check_choices()
        self._settle()

    def _check_numbers(self) -> None:
        self.max_grad_norm = 0.0 if self.max_grad_norm is None else self.max_grad_norm
        whole = {
            "per_device_train_batch_size": 1,
            "per_device_eval_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "dataloader_num_workers": 0,
            "ddp_timeout": 1,
        }
        for name, least in whole.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ArgumentError(name, f"must be a whole number of at least {least}", found=repr(value))
        for name in (
            "learning_rate",
            "weight_decay",
            "max_grad_norm",
            "max_loss_jump",
            "warmup_steps",
            "eval_delay",
            "adam_epsilon",
        ):
            _check_number(name, getattr(self, name))
        for name in ("adam_beta1", "adam_beta2", "label_smoothing_factor"):
            if _check_number(name, getattr(self, name)) >= 1:
                raise ArgumentError(name, "must be below 1", found=getattr(self, name))
        if type(self.max_steps) is not int or self.max_steps == 0 or self.max_steps < -1:
            raise ArgumentError("max_steps", "must be a whole number above 0, or -1 for epochs", found=self.max_steps)
        if self.max_steps < 0 and _check_number("num_train_epochs", self.num_train_epochs) <= 0:
            raise ArgumentError("num_train_epochs", "must be above 0", found=self.num_train_epochs)
        if self.save_total_limit is not None and self.save_total_limit < 1:
            raise ArgumentError("save_total_limit", "must be at least 1, or None for all", found=self.save_total_limit)
        if self.neftune_noise_alpha is not None:
            _check_number("neftune_noise_alpha", self.neftune_noise_alpha)
        ahead = self.dataloader_prefetch_factor
        if ahead is not None and (type(ahead) is not int or ahead < 1 or not self.dataloader_num_workers):
            raise ArgumentError(
                "dataloader_prefetch_factor", "must be a whole number of at least 1, with workers", found=repr(ahead)
            )
        for name in ("seed", "data_seed"):
            value = getattr(self, name)
            if value is not None and type(value) is not int:
                raise ArgumentError(name, "must be a whole number", found=repr(value))

    def _check_choices(self) -> None:
        if isinstance(self.include_num_input_tokens_seen, bool):
            self.include_num_input_tokens_seen = "all" if self.include_num_input_tokens_seen else "no"
        for name, allowed in (
            ("lr_scheduler_type", SCHEDULES),
            ("logging_strategy", INTERVALS),
            ("eval_strategy", INTERVALS),
            ("save_strategy", tuple(each.value for each in SaveStrategy)),
            ("train_sampling_strategy", SAMPLINGS),
            ("bf16_update", BF16_UPDATES),
            ("progress", ("line", "rich")),
            ("include_num_input_tokens_seen", ("no", "all", "non_padding")),
        ):
            setattr(self, name, _choose(name, getattr(self, name), allowed))
        self.optim = str(getattr(self.optim, "value", self.optim))
        if self.optim not in OPTIMIZERS:
            raise UnsupportedError(
                "optim",
                f"must be one of {', '.join(OPTIMIZERS)}",
                found=repr(self.optim),
                remedy="Pass any torch optimizer through Trainer(optimizers=(optimizer, None)).",
            )
        reporters = _listed("report_to", self.report_to)
        if reporters == ["all"]:
            raise ArgumentError("report_to", "must name its loggers", found="'all'", remedy=f"There are {REPORTERS}.")
        self.report_to = [_choose("report_to", each, REPORTERS) for each in reporters if each != "none"]
        self.include_for_metrics = _listed("include_for_metrics", self.include_for_metrics)
        for each in self.include_for_metrics:
            _choose("include_for_metrics", each, ("inputs", "loss"))

    def _settle(self) -> None:
        if self.output_dir is None:
            self.output_dir = "trainer_output"
        if not isinstance(self.output_dir, str | os.PathLike):
            raise ArgumentError("output_dir", "must be a folder's path", found=repr(self.output_dir))
        self.output_dir = os.path.expanduser(os.fspath(self.output_dir))
        self.label_names = None if self.label_names is None else _listed("label_names", self.label_names)
        if self.warmup_ratio is not None:
            if self.warmup_steps:
                raise ArgumentError("warmup_ratio", "cannot go with warmup_steps", found=self.warmup_ratio)
            if not 0 <= self.warmup_ratio < 1:
                raise ArgumentError("warmup_ratio", "must be at least 0 and below 1", found=self.warmup_ratio)
            self.warmup_steps, self.warmup_ratio = self.warmup_ratio, None
        self.lr_scheduler_kwargs = _read_dict("lr_scheduler_kwargs", self.lr_scheduler_kwargs)
        self.fsdp_config = _read_dict("fsdp_config", self.fsdp_config)
        if isinstance(self.fsdp, str) and set(self.fsdp.split()) <= {"full_shard", "auto_wrap"}:
            self.fsdp = "full_shard" in self.fsdp  # each block is wrapped, always
        if self.fsdp not in (None, False, True):
            raise UnsupportedError("fsdp", "must be True (FSDP2, full shard) or False", found=repr(self.fsdp))
        if unknown := set(self.fsdp_config) - {"version", "reshard_after_forward", "activation_checkpointing"}:
            raise UnsupportedError("fsdp_config", "has a key that is not supported", found=sorted(unknown))
        if self.fsdp_config.get("version", 2) != 2:
            raise UnsupportedError("fsdp_config", "version must be 2", found=self.fsdp_config["version"])
        self.torch_compile = self.torch_compile or bool(self.torch_compile_backend or self.torch_compile_mode)
        if self.group_by_length:
            self.train_sampling_strategy = "group_by_length"
        self._settle_checkpointing()
        self._settle_evaluation()

    def _settle_checkpointing(self) -> None:
        asked = [each for each in (self.activation_checkpointing, self.gradient_checkpointing) if each is not None]
        if len(set(asked)) > 1:
            raise ArgumentError("gradient_checkpointing", "is activation_checkpointing by its old name; they differ")
        on = bool(asked and asked[0]) or bool(self.fsdp_config and self.fsdp_config.get("activation_checkpointing"))  # type: ignore[union-attr]
        self.activation_checkpointing = self.gradient_checkpointing = on

    def _settle_evaluation(self) -> None:
        if self.eval_strategy == "steps" and self.eval_steps is None:
            self.eval_steps = self.logging_steps
        for name in ("logging_steps", "eval_steps", "save_steps"):
            value = getattr(self, name)
            if value is None:
                continue
            if _check_number(name, value) == 0 or (value >= 1 and value != int(value)):
                raise ArgumentError(name, "must be a whole number of steps, or a share of them below 1", found=value)
            if value >= 1:
                setattr(self, name, int(value))
        self.do_eval = self.do_eval or self.eval_strategy != "no"
        if self.lr_scheduler_type == "reduce_lr_on_plateau" and self.eval_strategy == "no":
            raise ArgumentError("lr_scheduler_type", "'reduce_lr_on_plateau' needs an eval_strategy", found="'no'")
        if self.load_best_model_at_end or self.save_strategy == "best":
            if self.eval_strategy == "no":
                raise ArgumentError("load_best_model_at_end", "needs an eval_strategy", found="eval_strategy='no'")
            if self.save_strategy not in ("best", self.eval_strategy):
                raise ArgumentError(
                    "load_best_model_at_end",
                    "needs save_strategy to be eval_strategy, or 'best'",
                    found=f"save {self.save_strategy!r}, eval {self.eval_strategy!r}",
                )
            if self.save_strategy == self.eval_strategy == "steps":
                _check_multiple(self.save_steps, self.eval_steps or 1)
            self.metric_for_best_model = self.metric_for_best_model or "loss"
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")

    @property
    def train_batch_size(self) -> int:
        """Samples a rank takes at once."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        return self.per_device_eval_batch_size

    # what torchrun says of this process

    @property
    def world_size(self) -> int:
        return int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def process_index(self) -> int:
        return int(os.environ.get("RANK", "0"))

    @property
    def local_process_index(self) -> int:
        return int(os.environ.get("LOCAL_RANK", "0"))

    @property
    def should_save(self) -> bool:
        """Whether this process writes files; one of a run does."""
        return self.process_index == 0

    @property
    def should_log(self) -> bool:
        return self.process_index == 0

    @property
    def device(self) -> Any:
        """The torch device a Trainer of these arguments runs on."""
        import torch

        has_cuda = torch.cuda.is_available() and not self.use_cpu
        return torch.device("cuda", self.local_process_index) if has_cuda else torch.device("cpu")

    @property
    def n_gpu(self) -> int:
        """GPUs of this process: one or none."""
        return int(self.device.type == "cuda")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in REFUSED:  # scripts look at them: they are off
                return REFUSED[name][0]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def parallel_mode(self) -> ParallelMode:
        return ParallelMode.DISTRIBUTED if self.world_size > 1 else ParallelMode.NOT_PARALLEL

    def get_process_log_level(self) -> int:
        """The level of martlet's own logger."""
        return logging.getLogger("martlet").getEffectiveLevel()

    @contextlib.contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """Inside, the first process (of this machine, if `local`) goes before the others, for work that is cached."""
        import torch.distributed as dist

        index = self.local_process_index if local else self.process_index
        waits = self.world_size > 1 and dist.is_initialized()
        if waits and index > 0:
            dist.barrier()
        try:
            yield
        finally:
            if waits and index == 0:
                dist.barrier()

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Warm-up in steps: a share below 1 is of all steps."""
        share = self.warmup_steps
        return math.ceil(num_training_steps * share) if share < 1 else int(share)

    def steps_of(self, name: str, max_steps: int) -> int:
        """logging_steps, eval_steps or save_steps in steps."""
        value = getattr(self, name)
        if value is None:
            return 0
        return max(1, math.ceil(max_steps * value)) if value < 1 else int(value)

    def to_dict(self) -> dict[str, Any]:
        """Every argument, as JSON can hold it."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def to_sanitized_dict(self) -> dict[str, Any]:
        """The same with words for what loggers cannot take."""
        plain = (bool, int, float, str)
        return {name: each if isinstance(each, plain) else str(each) for name, each in self.to_dict().items()}

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2, default=str)

    def but(self, **changes: Any) -> TrainingArguments:
        """A copy with some arguments changed, checked as a new one is."""
        return type(self)(**{**self.to_dict(), **changes})


def _taken(given: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """What is ours of `given`. Hugging Face's other arguments pass with the value that means "off", and no other."""
    taken = {}
    for name, value in given.items():
        if name in known:
            taken[name] = value
        elif name not in REFUSED:
            near = difflib.get_close_matches(name, [*known, *REFUSED], 1, 0.6)
            raise ArgumentError("TrainingArguments", f"has no {name!r}", remedy=f"Is {near[0]} meant?" if near else "")
        elif value is not None and value != REFUSED[name][0] and not HELD_ANYWAY.get(name, lambda _: False)(value):
            reason = f"is not supported: {REFUSED[name][1]}"
            raise UnsupportedError(f"TrainingArguments, {name}", reason, found=repr(value))
    return taken


def _check_number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ArgumentError(name, "must be a number of at least 0", found=repr(value))
    return float(value)


def _check_multiple(save_steps: float, eval_steps: float) -> None:
    ratio = save_steps / eval_steps
    if abs(ratio - round(ratio)) > 1e-9:
        raise ArgumentError(
            "load_best_model_at_end",
            "needs save_steps to be a multiple of eval_steps",
            found=f"{save_steps} and {eval_steps}",
        )


def _choose(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    word = getattr(value, "value", value)  # Hugging Face's enumerations
    if word not in allowed:
        near = difflib.get_close_matches(str(word), allowed, 1, 0.6)
        raise ArgumentError(
            name,
            f"must be one of {', '.join(allowed)}",
            found=repr(word),
            remedy=f"Is {near[0]} meant?" if near else "",
        )
    return str(word)


def _listed(name: str, value: Any) -> list[Any]:
    if isinstance(value, str):
        return [value]
    if value is not None and not isinstance(value, Sequence | set):
        raise ArgumentError(name, "must be a list of names", found=repr(value))
    return list(value or [])


def _read_dict(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    try:
        text = Path(value).read_text(encoding="utf-8") if str(value).endswith(".json") else str(value)
        read = json.loads(text)
    except (OSError, ValueError) as problem:
        raise ArgumentError(name, "must be a dict, JSON, or a JSON file", found=str(problem)) from problem
    if not isinstance(read, dict):
        raise ArgumentError(name, "must be a dict", found=type(read).__name__)
    return read
