"""Adapters under the names people import with a trainer. They live in martlet.adapters; models are loaded here."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from martlet.adapters import (
    LoraConfig,
    LoraModel,
    PeftConfig,
    PeftModel,
    PeftModelForCausalLM,
    PeftModelForFeatureExtraction,
    PeftModelForQuestionAnswering,
    PeftModelForSequenceClassification,
    PeftModelForTokenClassification,
    TaskType,
    cast_mixed_precision_params,
    get_layer_status,
    get_model_status,
    get_peft_model,
    get_peft_model_state_dict,
    hotswap_adapter,
    load_peft_weights,
    prepare_model_for_kbit_training,
    replace_lora_weights_loftq,
    rescale_adapter_scale,
    set_peft_model_state_dict,
)
from martlet.errors import ArgumentError, ConfigError

HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


class _AutoPeft:
    """The base model that an adapter names, with the adapter on it."""

    door = ""
    task: TaskType | None = None

    def __init__(self) -> NoReturn:
        raise ArgumentError(type(self).__name__, "is made by from_pretrained")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: LoraConfig | None = None,
        **keywords: Any,
    ) -> PeftModel:
        """The adapter of "org/name" or a folder on its base. Other keywords are those of the base's from_pretrained."""
        import martlet

        hub = {name: keywords[name] for name in HUB if name in keywords}
        config = config or LoraConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        if not config.base_model_name_or_path:
            raise ConfigError(str(pretrained_model_name_or_path), "base_model_name_or_path must name the base model")
        door = cls._door_for(config, str(pretrained_model_name_or_path))
        given = {**keywords, "revision": config.revision} if config.revision else dict(keywords)
        given.pop("subfolder", None)
        base = getattr(martlet, door).from_pretrained(config.base_model_name_or_path, **given)
        return PeftModel.from_pretrained(
            base, pretrained_model_name_or_path, adapter_name, is_trainable, config=config, **hub
        )

    @classmethod
    def _door_for(cls, config: LoraConfig, name: str) -> str:
        """The class of ours that loads the base."""
        if config.task_type is not None and config.task_type != cls.task:
            raise ArgumentError(
                cls.__name__, f"is for adapters of {cls.task}", found=config.task_type,
                remedy="Is another of the AutoPeftModel classes meant?",
            )  # fmt: skip
        return cls.door


class AutoPeftModelForCausalLM(_AutoPeft):
    """Language models with adapters."""

    door, task = "AutoModelForCausalLM", TaskType.CAUSAL_LM


class AutoPeftModelForSequenceClassification(_AutoPeft):
    """Classifiers of texts with adapters."""

    door, task = "AutoModelForSequenceClassification", TaskType.SEQ_CLS


class AutoPeftModelForTokenClassification(_AutoPeft):
    """Classifiers of tokens with adapters."""

    door, task = "AutoModelForTokenClassification", TaskType.TOKEN_CLS


class AutoPeftModelForQuestionAnswering(_AutoPeft):
    """Finders of answers with adapters."""

    door, task = "AutoModelForQuestionAnswering", TaskType.QUESTION_ANS


class AutoPeftModelForFeatureExtraction(_AutoPeft):
    """Models without a head, with adapters."""

    door, task = "AutoModel", TaskType.FEATURE_EXTRACTION


_BY_TASK: tuple[Any, ...] = (
    AutoPeftModelForCausalLM,
    AutoPeftModelForSequenceClassification,
    AutoPeftModelForTokenClassification,
    AutoPeftModelForQuestionAnswering,
    AutoPeftModelForFeatureExtraction,
)


class AutoPeftModel(_AutoPeft):
    """Models with adapters whose config says what they are for: as the class of its `task_type`.

    ConfigError for an adapter that names none.
    """

    @classmethod
    def _door_for(cls, config: LoraConfig, name: str) -> str:
        for each in _BY_TASK:
            if each.task == config.task_type:
                return str(each.door)
        raise ConfigError(
            name, "task_type must say what the base is for", found=config.task_type,
            remedy="Use the class that names the task, as AutoPeftModelForCausalLM.",
        )  # fmt: skip


__all__ = [
    "AutoPeftModel",
    "AutoPeftModelForCausalLM",
    "AutoPeftModelForFeatureExtraction",
    "AutoPeftModelForQuestionAnswering",
    "AutoPeftModelForSequenceClassification",
    "AutoPeftModelForTokenClassification",
    "LoraConfig",
    "LoraModel",
    "PeftConfig",
    "PeftModel",
    "PeftModelForCausalLM",
    "PeftModelForFeatureExtraction",
    "PeftModelForQuestionAnswering",
    "PeftModelForSequenceClassification",
    "PeftModelForTokenClassification",
    "TaskType",
    "cast_mixed_precision_params",
    "get_layer_status",
    "get_model_status",
    "get_peft_model",
    "get_peft_model_state_dict",
    "hotswap_adapter",
    "load_peft_weights",
    "prepare_model_for_kbit_training",
    "replace_lora_weights_loftq",
    "rescale_adapter_scale",
    "set_peft_model_state_dict",
]
