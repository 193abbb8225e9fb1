"""`LlamaForCausalLM`, `BertTokenizer`, `Qwen2Config`: the auto classes under a family's names, held to that family."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, NoReturn

from martlet.auto import AutoConfig, as_config
from martlet.checkpoint import HUB_KEYWORDS
from martlet.errors import ArgumentError, UnsupportedError
from martlet.families import Config
from martlet.tokenizers.made import NAMED, named_tokenizer

# What Hugging Face puts before a class's purpose, and the model_type it stands for.
FAMILIES = {
    "Bert": "bert",
    "DistilBert": "distilbert",
    "GPT2": "gpt2",
    "GPTNeoX": "gpt_neox",
    "Gemma": "gemma",
    "Gemma2": "gemma2",
    "Gemma3": "gemma3_text",
    "Gemma3Text": "gemma3_text",
    "Granite": "granite",
    "Llama": "llama",
    "Mistral": "mistral",
    "OPT": "opt",
    "Olmo2": "olmo2",
    "Phi": "phi",
    "Phi3": "phi3",
    "Qwen2": "qwen2",
    "Qwen3": "qwen3",
    "Roberta": "roberta",
    "SmolLM3": "smollm3",
    "XLMRoberta": "xlm-roberta",
}
ENCODERS = ("bert", "distilbert", "roberta", "xlm-roberta")
# Purposes: the auto class of each, and the classes its models are of.
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ForCausalLM": ("auto.AutoModelForCausalLM", ("modeling.ModelForCausalLM", "inference.InferenceModel")),
    "LMHeadModel": ("auto.AutoModelForCausalLM", ("modeling.ModelForCausalLM", "inference.InferenceModel")),
    "ForMaskedLM": ("auto_heads.AutoModelForMaskedLM", ("modeling_heads.ModelForMaskedLM",)),
    "ForMultipleChoice": ("auto_heads.AutoModelForMultipleChoice", ("modeling_heads.ModelForMultipleChoice",)),
    "ForQuestionAnswering": ("auto_heads.AutoModelForQuestionAnswering", ("modeling_heads.ModelForQuestionAnswering",)),
    "ForSequenceClassification": (
        "auto_heads.AutoModelForSequenceClassification",
        ("modeling_heads.ModelForSequenceClassification",),
    ),
    "ForTokenClassification": (
        "auto_heads.AutoModelForTokenClassification",
        ("modeling_heads.ModelForTokenClassification",),
    ),
    "Model": ("auto.AutoModel", ("modeling.Model", "modeling.EncoderModel")),
}


def find(name: str) -> Any:
    """The class of that name, made; None if it is nobody's."""
    for purpose in ("TokenizerFast", "Tokenizer"):
        if name.endswith(purpose) and (stem := name.removesuffix(purpose)) in NAMED:
            return named_tokenizer(name, stem)
    for purpose in ("Config", *MODELS):
        prefix = name.removesuffix(purpose)
        model_type = FAMILIES.get(prefix)
        if prefix == name or model_type is None or not _exists(prefix, model_type, purpose):
            continue
        values = {"model_type": model_type, "purpose": purpose, "__module__": "martlet"}
        if purpose == "Config":
            return _OfConfigs(name, (NamedConfig,), values)
        values["__doc__"] = f"`{MODELS[purpose][0].split('.')[1]}` for checkpoints of {model_type!r}."
        return _OfModels(name, (NamedModel,), values)
    return None


def names() -> list[str]:
    """All of them."""
    made = [
        f"{prefix}{purpose}" for prefix in FAMILIES for purpose in ("Config", "Tokenizer", "TokenizerFast", *MODELS)
    ]
    return sorted(name for name in made if find(name) is not None)


def _exists(prefix: str, model_type: str, purpose: str) -> bool:
    if prefix.startswith("Gemma3") and (prefix == "Gemma3") != (purpose == "ForCausalLM"):
        return False  # Gemma3Config and its models see pictures too, all but one
    if purpose == "LMHeadModel":
        return model_type == "gpt2"
    if purpose == "ForCausalLM":
        return model_type not in (*ENCODERS, "gpt2")
    return purpose not in ("ForMaskedLM", "ForMultipleChoice") or model_type in ENCODERS


def _attribute(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"martlet.{module}"), name)


def _check(name: str, model_type: str, config: Config) -> Config:
    if config.model_type != model_type:
        remedy = "The Auto classes read every family there is."
        found = f"a checkpoint of {config.model_type!r}"
        raise ArgumentError(name, f"is for the family {model_type!r}", found=found, remedy=remedy)
    return config


class _OfConfigs(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Config) and instance.model_type == cls.model_type  # type: ignore[attr-defined]


class NamedConfig(metaclass=_OfConfigs):
    """Configs of one family: calling the class with sizes makes one."""

    model_type: ClassVar[str] = ""

    def __new__(cls, **values: Any) -> Config:  # type: ignore[misc]
        return AutoConfig.for_model(cls.model_type, **values)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **keywords: Any) -> Config:
        """`AutoConfig.from_pretrained`; ArgumentError for another family's checkpoint."""
        return _check(cls.__name__, cls.model_type, AutoConfig.from_pretrained(name_or_path, **keywords))


def _refuse_subclass(name: str, of: str) -> NoReturn:
    remedy = "A family is data here: docs/add-a-family.md adds one; a head or a loss goes around a model."
    raise UnsupportedError(name, f"classes of your own are not built on {of}", remedy=remedy)


class _AnyConfig(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Config)


class PreTrainedConfig(metaclass=_AnyConfig):
    """Every config is one. Calling it with a `model_type` and sizes makes one; it cannot be subclassed."""

    def __new__(cls, **values: Any) -> Config:  # type: ignore[misc]
        return AutoConfig.for_model(values.pop("model_type", ""), **values)

    def __init_subclass__(cls, **_: Any) -> None:
        _refuse_subclass(cls.__name__, "PreTrainedConfig")

    from_pretrained = staticmethod(AutoConfig.from_pretrained)

    @staticmethod
    def from_dict(config_dict: Mapping[str, Any], **values: Any) -> Config:
        """The config that a config.json with these keys is; `values` win over them."""
        return Config({**config_dict, **values})


PretrainedConfig = PreTrainedConfig  # its older name


class _AnyModel(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        names = {f"{each.__module__}.{each.__qualname__}" for each in type(instance).__mro__}
        return not names.isdisjoint(("martlet.modeling.Saved", "martlet.inference.InferenceModel"))


class PreTrainedModel(metaclass=_AnyModel):
    """Every model is one. It makes none: the Auto classes do; it cannot be subclassed."""

    def __new__(cls, *_: Any, **__: Any) -> PreTrainedModel:
        raise ArgumentError("PreTrainedModel", "is not made itself", remedy="Use AutoModel or AutoModelForCausalLM.")

    def __init_subclass__(cls, **_: Any) -> None:
        _refuse_subclass(cls.__name__, "PreTrainedModel")

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike[str], **_: Any) -> NoReturn:
        """ArgumentError: a class that says what the model is for is needed."""
        raise ArgumentError("PreTrainedModel", "says not what for", remedy="Use AutoModel or AutoModelForCausalLM.")


class _OfModels(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        kinds = MODELS[cls.purpose][1]  # type: ignore[attr-defined]
        its_own = {f"{each.__module__.removeprefix('martlet.')}.{each.__qualname__}" for each in type(instance).__mro__}
        return not its_own.isdisjoint(kinds) and instance.config.model_type == cls.model_type  # type: ignore[attr-defined]


class NamedModel(metaclass=_OfModels):
    """Models of one family and purpose: calling the class with a config makes one with random weights."""

    model_type: ClassVar[str] = ""
    purpose: ClassVar[str] = ""

    def __new__(cls, config: Any, **keywords: Any) -> Any:
        return cls.from_config(config, **keywords)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **keywords: Any) -> Any:
        """What the auto class gives; ArgumentError for another family's checkpoint, before its weights are read."""
        known = {key: keywords[key] for key in (*HUB_KEYWORDS, "gguf_file") if key in keywords}
        given = as_config(keywords.get("config"))
        _check(cls.__name__, cls.model_type, given or AutoConfig.from_pretrained(name_or_path, **known))
        return _attribute(MODELS[cls.purpose][0]).from_pretrained(name_or_path, **keywords)

    @classmethod
    def from_config(cls, config: Any, **keywords: Any) -> Any:
        """A model with random weights."""
        given = as_config(config)
        if given is None:
            raise ArgumentError(cls.__name__, "needs a config", found="None")
        _check(cls.__name__, cls.model_type, given)
        return _attribute(MODELS[cls.purpose][0]).from_config(given, **keywords)
