"""`AutoConfig`, `AutoModel`, `AutoModelForCausalLM`: from a name to a config or a model. Only models need torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from martlet.checkpoint import HUB_KEYWORDS, open_checkpoint
from martlet.errors import ArgumentError, MissingDependencyError
from martlet.families import Config, load_families


class AutoConfig:
    """Config files by name; not to be made."""

    @staticmethod
    def from_pretrained(
        name_or_path: str | os.PathLike[str],
        *,
        gguf_file: str | None = None,
        trust_remote_code: bool = False,
        return_unused_kwargs: bool = False,
        harmless_config_keys: Sequence[str] = (),
        **keywords: Any,
    ) -> Config:
        """The config of "org/name", a folder or a .gguf file; other keywords override its keys. Reads no weights."""
        hub = {key: keywords.pop(key) for key in HUB_KEYWORDS if key in keywords}
        if return_unused_kwargs:
            raise ArgumentError("return_unused_kwargs", "must be False: keywords of a config are all used or refused")
        opened = open_checkpoint(
            name_or_path,
            gguf_file=gguf_file,
            overrides=keywords,
            trust_remote_code=trust_remote_code,
            harmless_config_keys=harmless_config_keys,
            **hub,
        )
        opened.config.arch  # noqa: B018  # a config that cannot be read is refused here, not later
        return opened.config

    @staticmethod
    def for_model(model_type: str, **values: Any) -> Config:
        """A config made by hand: keys that are left out have the family's defaults."""
        return Config({"model_type": model_type, **values})


class AutoModel:
    """Decoders without a head: calling one gives `last_hidden_state`."""

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike[str], *, config: Any = None, **keywords: Any) -> Any:
        """The base model of "org/name", a folder or a .gguf file. Keywords are those of `AutoModelForCausalLM`."""
        modeling = _modeling()
        return modeling.load_model(modeling.Model, name_or_path, {**keywords, "config": as_config(config)})[1]

    @staticmethod
    def from_config(config: Any, *, dtype: Any = None, torch_dtype: Any = None) -> Any:
        """A base model with fresh random weights."""
        modeling = _modeling()
        return modeling.build_model(modeling.Model, as_config(config), dtype or torch_dtype)


class AutoModelForCausalLM:
    """Causal language models by name."""

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike[str], *, config: Any = None, **keywords: Any) -> Any:
        """The language model of "org/name", a folder or a .gguf file, on the CPU unless `device_map` says otherwise.

        `dtype` (or `torch_dtype`): "auto" (what the checkpoint says), a name or a torch.dtype. `device_map`: "cpu",
        "cuda", "cuda:1", "auto", "meta", or module prefix -> device. Hub: `revision`, `token`, `cache_dir`,
        `local_files_only`, `force_download`, `subfolder`. Any other keyword overrides a key of config.json.
        WeightsError if a tensor is missing, surplus or misshapen; no weight is ever made up.
        """
        from martlet.generation.config import GenerationConfig

        modeling = _modeling()
        opened, model = modeling.load_model(
            modeling.ModelForCausalLM, name_or_path, {**keywords, "config": as_config(config)}
        )
        found = opened.snapshot.file("generation_config.json") if opened.gguf is None else None
        model.generation_config = (
            GenerationConfig.from_pretrained(found.parent)
            if found
            else GenerationConfig.from_model_config(model.config.to_dict())
        )
        return model

    @staticmethod
    def from_config(config: Any, *, dtype: Any = None, torch_dtype: Any = None) -> Any:
        """A language model with fresh random weights."""
        from martlet.generation.config import GenerationConfig

        modeling = _modeling()
        model = modeling.build_model(modeling.ModelForCausalLM, as_config(config), dtype or torch_dtype)
        model.generation_config = GenerationConfig.from_model_config(model.config.to_dict())
        return model


def as_config(config: Any) -> Config | None:
    """A `Config`, a dict of one, or Hugging Face's config object, as a `Config`."""
    if config is None or isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return Config(config)
    if hasattr(config, "to_dict"):
        return Config(config.to_dict())
    raise ArgumentError("config", "must be a Config or a dict", found=type(config).__name__)


def supported_families() -> tuple[str, ...]:
    """Every model_type that loads."""
    return tuple(sorted(load_families()))


def _modeling() -> Any:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependencyError(
            "torch", "is needed for a model", remedy="Install it: pip install 'martlet[torch]'."
        ) from error
    from martlet import modeling

    return modeling
