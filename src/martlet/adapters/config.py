"""`LoraConfig`: what an adapter is, in PEFT's names, and adapter_config.json both ways."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from numbers import Real
from pathlib import Path
from typing import Any

from martlet.errors import ArgumentError, ConfigError, UnsupportedError
from martlet.formats.files import read_json, write_json
from martlet.hub import open_snapshot
from martlet.kinds import check_kinds

# How A and B begin (inits.py).
NITER = re.compile(r"pissa_niter_(\d+)")
RANDOM_INITS = (True, False, "gaussian", "orthogonal")
TAKEN_INITS = ("pissa", "olora")  # and pissa_niter_N


def is_known(init: bool | str) -> bool:
    return init in RANDOM_INITS or is_taken(init)


def is_taken(init: bool | str) -> bool:
    """Whether A and B come out of the base's matrix, which then loses s B A."""
    return isinstance(init, str) and (init in TAKEN_INITS or NITER.fullmatch(init) is not None)


CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"
BIASES = ("none", "all", "lora_only")
# Keys of PEFT's that say nothing, or what we know without them.
IDLE = frozenset({"peft_type", "auto_mapping", "peft_version", "megatron_core", "qalora_group_size", "fan_in_fan_out"})
# Fields of PEFT's LoraConfig that we do not have, each with why not; all are off at None, False and what is empty.
REFUSED = {
    "megatron_config": "there is no Megatron inside",
    "eva_config": "init_lora_weights 'eva' needs a pass over data that is not here",
    "corda_config": "init_lora_weights 'corda' needs a pass over data that is not here",
    "lora_ga_config": "init_lora_weights 'lora_ga' needs gradients taken before",
    "velora_config": "compressed activations are not here",
    "alora_invocation_tokens": "an adapter acts on all tokens of a row",
    "use_qalora": "a quantised base is trained as QLoRA, by from_pretrained(quantize=)",
    "monteclora_config": "weights are not sampled",
    "layer_replication": "layers are not repeated",
    "runtime_config": "there is nothing to offload",
    "lora_bias": "B has no bias",
    "target_parameters": "there are no mixtures of experts",
    "use_bdlora": "B is one matrix",
    "arrow_config": "rows are routed by adapter_names",
    "kasa_config": "singular values are not trained apart",
    "ensure_weight_tying": "a tied head is trained by trainable_token_indices, or saved apart in modules_to_save",
    "loftq_config": "load the base with quantize='int4', put the adapter on it, and call replace_lora_weights_loftq",
}


class TaskType(StrEnum):
    """PEFT's names of what a model is for; a classifier's head is trained whole beside the adapter."""

    SEQ_CLS = "SEQ_CLS"
    CAUSAL_LM = "CAUSAL_LM"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


# what PEFT saves whole for a task, whatever the head is called
HEADS = {
    TaskType.SEQ_CLS: ("classifier", "score"),
    TaskType.TOKEN_CLS: ("classifier", "score"),
    TaskType.QUESTION_ANS: ("qa_outputs",),
}


class _Checked(type):
    """Makes configs: a field of PEFT's that is not here has its own error."""

    def __call__(cls, *by_place: Any, **given: Any) -> Any:
        known = {each.name for each in fields(cls)}  # type: ignore[arg-type]
        taken = {name: value for name, value in given.items() if name in known}
        for name, value in given.items():
            if name in known or name in IDLE:
                continue
            if name in REFUSED:
                if not _is_off(value):
                    raise UnsupportedError(
                        f"LoraConfig, {name}", f"is not supported: {REFUSED[name]}", found=repr(value)[:80]
                    )
                continue
            near = difflib.get_close_matches(name, [*known, *REFUSED], 1, 0.6)
            raise ArgumentError("LoraConfig", f"has no {name!r}", remedy=f"Is {near[0]} meant?" if near else "")
        return super().__call__(*by_place, **taken)


def _is_off(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, dict | list | str) and not value)


@dataclass(kw_only=True)
class LoraConfig(metaclass=_Checked):
    """A low-rank adapter (Hu et al. 2021): W x + s B A x, s = lora_alpha / r, of the matrices `target_modules` names.

    Targets: names of modules, ours ("q_proj", "up_proj") or the checkpoint's ("query", "c_attn"), a regular expression
    for whole paths, or "all-linear": every matrix but the output's; q_proj and v_proj unless given. `use_rslora`: s =
    lora_alpha / sqrt(r) (Kalajdzievski 2023). `use_dora`: magnitudes apart from directions (Liu et al. 2024).
    `modules_to_save` are trained whole; a classifier's head is among them by `task_type`. `bias`: which biases are
    trained with it: "none", "all", "lora_only". `init_lora_weights`: True (B zero), "gaussian", "orthogonal" (B A = 0),
    False (both random); "pissa", "pissa_niter_N" and "olora" begin with a part of the matrix, which then lacks it.
    `trainable_token_indices`: ids whose rows of the embeddings are trained whole, and of a tied head with them.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: str | Sequence[str] | None = None
    exclude_modules: str | Sequence[str] | None = None
    modules_to_save: Sequence[str] | None = None
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    layers_to_transform: int | Sequence[int] | None = None
    layers_pattern: str | Sequence[str] | None = None
    trainable_token_indices: Sequence[int] | Mapping[str, Sequence[int]] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    task_type: str | None = None
    inference_mode: bool = False
    base_model_name_or_path: str | None = None
    revision: str | None = None
    fan_in_fan_out: bool = False  # of no effect: which matrices lie transposed in a checkpoint the family knows

    def __post_init__(self) -> None:
        check_kinds(self, LoraConfig, frozenset({"r", "init_lora_weights", "task_type"}))
        self._check_patterns()
        for rank in (self.r, *self.rank_pattern.values()):
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ArgumentError("r", "must be a whole number of at least 1", found=repr(rank))
        if not 0 <= self.lora_dropout < 1:
            raise ArgumentError("lora_dropout", "must be at least 0 and below 1", found=self.lora_dropout)
        if self.bias not in BIASES:
            raise ArgumentError("bias", f"must be one of {', '.join(BIASES)}", found=repr(self.bias))
        if not is_known(self.init_lora_weights):
            raise UnsupportedError(
                "init_lora_weights",
                f"must be one of {', '.join(map(repr, (*RANDOM_INITS, *TAKEN_INITS)))}, 'pissa_niter_N'",
                found=repr(self.init_lora_weights),
                remedy=f"For LoftQ {REFUSED['loftq_config']}." if self.init_lora_weights == "loftq" else "",
            )
        if is_taken(self.init_lora_weights) and self.use_rslora and self.rank_pattern:
            raise UnsupportedError("rank_pattern", f"cannot go with use_rslora and {self.init_lora_weights!r}")
        if self.task_type is not None:
            if self.task_type not in list(TaskType):
                raise ArgumentError("task_type", f"must be one of {', '.join(TaskType)}", found=repr(self.task_type))
            self.task_type = str(self.task_type)
        self.target_modules = _names("target_modules", self.target_modules)
        self.exclude_modules = _names("exclude_modules", self.exclude_modules)
        self.modules_to_save = _names("modules_to_save", self.modules_to_save)

    def _check_patterns(self) -> None:
        self.rank_pattern, self.alpha_pattern = self.rank_pattern or {}, self.alpha_pattern or {}
        for name in ("rank_pattern", "alpha_pattern"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(each, Real) for each in value.values()):
                raise ArgumentError(name, "must be a dict of numbers by module", found=repr(value)[:80])
        self.layers_pattern = _names("layers_pattern", self.layers_pattern)
        for name in ("layers_to_transform", "trainable_token_indices"):
            value = getattr(self, name)
            by_module = value.values() if isinstance(value, Mapping) and name == "trainable_token_indices" else (value,)
            for each in by_module:
                listed = [each] if isinstance(each, int | None) and name == "layers_to_transform" else each
                is_listed = isinstance(listed, Sequence | set | range) and not isinstance(listed, str | bytes)
                if each is not None and not (is_listed and all(type(one) is int for one in listed)):
                    raise ArgumentError(name, "must be whole numbers in a list", found=repr(value)[:80])

    def targets(self, paths: Sequence[str]) -> bool:
        """Whether a module known under these paths is one the adapter changes."""
        wanted = ("q_proj", "v_proj") if self.target_modules is None else self.target_modules
        if self.exclude_modules is not None and any(matches(self.exclude_modules, path) for path in paths):
            return False
        if self.layers_to_transform is not None:
            kept = self.layers_to_transform
            lists = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
            word = "|".join(map(re.escape, lists)) if lists else "layers?|h"
            layers = {int(found[1]) for path in paths if (found := re.search(rf"\.(?:{word})\.(\d+)\.", f".{path}"))}
            if not layers & ({kept} if isinstance(kept, int) else set(kept)):
                return False
        return wanted == ALL_LINEAR or any(matches(wanted, path) for path in paths)

    def rank(self, paths: Sequence[str]) -> int:
        return int(_of_pattern(self.rank_pattern, paths, self.r))

    def alpha(self, paths: Sequence[str]) -> float:
        return _of_pattern(self.alpha_pattern, paths, self.lora_alpha)

    def scaling(self, paths: Sequence[str]) -> float:
        """What B A is multiplied by."""
        rank = self.rank(paths)
        return self.alpha(paths) / (math.sqrt(rank) if self.use_rslora else rank)

    peft_type = "LORA"
    is_prompt_learning = False

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike[str], subfolder: str | None = None, **hub: Any) -> LoraConfig:
        """The config of an adapter, "org/name" or a folder; UnsupportedError for another kind than LoRA."""
        hub = {**hub, **({"subfolder": subfolder} if subfolder else {})}
        return LoraConfig.from_file(open_snapshot(name_or_path, **hub).require(CONFIG))

    def save_pretrained(self, folder: str | Path, **changes: Any) -> None:
        """Writes adapter_config.json as PEFT reads it."""
        values: dict[str, Any] = self.to_dict()
        values |= {"peft_type": "LORA", "inference_mode": True, **changes}
        for name, value in values.items():
            if isinstance(value, Mapping):
                values[name] = dict(value)
            elif isinstance(value, Sequence) and not isinstance(value, str):
                values[name] = list(value)
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / "adapter_config.json", values)

    @staticmethod
    def from_file(path: Path) -> LoraConfig:
        """The config of an adapter_config.json; a key that is set and not understood is an UnsupportedError."""
        values = read_json(path)
        if values.get("peft_type") != "LORA":
            raise UnsupportedError(
                str(path), "adapters are supported where peft_type is LORA", found=values.get("peft_type")
            )
        known = {each.name for each in fields(LoraConfig)}
        for key, value in values.items():
            if key not in known and key not in IDLE and value not in (None, False, {}, [], ""):
                raise UnsupportedError(str(path), f"key {key!r} is not supported", found=repr(value)[:80])
        if values.get("task_type") not in (None, *TaskType):
            values["task_type"] = None
        given = {key: value for key, value in values.items() if key in known and value is not None}
        return LoraConfig(**given)


class PeftConfig:
    """PEFT's name for reading an adapter's config, whatever its kind; here the only kind is LoRA."""

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike[str], **hub: Any) -> LoraConfig:
        """The LoraConfig of an adapter, "org/name" or a folder; UnsupportedError for another kind."""
        return LoraConfig.from_pretrained(name_or_path, **hub)


def matches(wanted: str | Sequence[str], path: str) -> bool:
    """PEFT's rule: a string is a regular expression for the whole path, a list names paths or their last parts."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in wanted)


def _names(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    listed = sorted(value) if isinstance(value, set) else list(value) if isinstance(value, Sequence) else None
    if listed is None or not all(isinstance(each, str) for each in listed):
        raise ArgumentError(name, "must be a string or a list of strings", found=repr(value))
    return listed


def _of_pattern(pattern: Mapping[str, float], paths: Sequence[str], otherwise: float) -> float:
    for key, value in pattern.items():
        if any(re.fullmatch(rf"(.*\.)?({key})", path) for path in paths):
            return value
    return otherwise


def find_adapter(name_or_path: Any, hub: Mapping[str, Any]) -> tuple[Path, str] | None:
    """The folder of an adapter and its base model's name, where a name or folder is an adapter's; else None.

    ConfigError where the adapter does not name its base.
    """
    path = Path(name_or_path) if isinstance(name_or_path, str | os.PathLike) else None
    if path is None or path.is_file():
        return None
    if path.is_dir():
        found: Path | None = path / str(hub.get("subfolder") or "") / CONFIG
        found = found if found is not None and found.is_file() else None
    else:
        snapshot = open_snapshot(name_or_path, **hub)
        found = None if snapshot.file("config.json") is not None else snapshot.file(CONFIG)
    if found is None:
        return None
    base = read_json(found).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ConfigError(str(found), "base_model_name_or_path must name the base model", found=repr(base))
    return found.parent, base
