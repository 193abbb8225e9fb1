"""`AutoConfig`, `AutoModel`, `AutoModelForCausalLM`: from a name to a config or a model. Only models need torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from martlet.checkpoint import HUB_KEYWORDS, Checkpoint, open_checkpoint
from martlet.engine import OPTIONS, is_built, kinds
from martlet.errors import ArgumentError, MissingDependencyError, UnsupportedError
from martlet.families import Config, load_families
from martlet.families.sizes import with_sizes

BACKENDS = ("torch", "native")
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # where there is none of these, "auto" needs no torch to be the CPU


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
        """A config made by hand: what is left out is Hugging Face's default of the family, sizes too."""
        return Config({"model_type": model_type, **with_sizes(model_type, values)})

    @staticmethod
    def register(model_type: str, config: Any, exist_ok: bool = False) -> None:
        """UnsupportedError: a family is a file of its own."""
        refuse_register("AutoConfig", model_type)


class AutoModel:
    """Models without a head: calling one gives `last_hidden_state`, and an encoder's `pooler_output`."""

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike[str], **keywords: Any) -> Any:
        """The base model of "org/name", a folder or a .gguf file. Keywords are those of `AutoModelForCausalLM`.

        `add_pooling_layer=False` leaves an encoder's pooler out, which its checkpoint may then lack.
        """
        modeling = torch_models()
        pooler = keywords.pop("add_pooling_layer", None)
        return _load(modeling, lambda config: modeling.base_model(config, pooler), name_or_path, keywords)[1]

    @staticmethod
    def from_config(config: Any, **keywords: Any) -> Any:
        """A base model with fresh random weights. Keywords are those of `AutoModelForCausalLM.from_config`."""
        modeling = torch_models()
        pooler = keywords.pop("add_pooling_layer", None)
        return modeling.build_model(lambda config: modeling.base_model(config, pooler), as_config(config), keywords)

    @staticmethod
    def register(config_class: Any, model_class: Any, exist_ok: bool = False) -> None:
        """UnsupportedError: a family is a file of its own."""
        refuse_register("AutoModel", model_class)


class AutoModelForCausalLM:
    """Causal language models by name."""

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike[str], **keywords: Any) -> Any:
        """The language model of "org/name", a folder or a .gguf file, on the CPU unless `device_map` says otherwise.

        `dtype` (or `torch_dtype`): "auto" (what the checkpoint says; float32 for packed GGUF blocks), a name or a
        torch.dtype. `device_map`: "cpu", "cuda", "cuda:1", "auto", "meta", or module prefix -> device. `gguf_file`: one
        among several. `use_safetensors`: True or False for one kind of file alone. `config`: in place of the file's.
        Hub: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`. Any other keyword
        overrides a key of config.json. `output_loading_info=True` adds a dict of lists, all empty: a tensor that is
        missing, surplus or misshapen is a WeightsError, and no weight is ever made up.

        The model is a torch module that generates on the native engine where that does the same (docs/backends.md);
        `model.generates_on` tells. `backend="torch"` keeps it on torch. "native", also the default without torch, gives
        a model on the engine alone, which loads no torch; `quantize` packs its matrices ("int8", "int4");
        UnsupportedError names what the engine cannot do. Of the engine: `num_threads`, `isa`, `kv_cache_bytes` (most
        memory for keys and values), `kv_cache_dtype` (what they are kept in: "float16", "bfloat16" or "float32").

        `quantize` "int8" or "int4" on torch keeps the blocks' matrices frozen in blocks, for adapters to be trained on
        (docs/adapters.md). A folder with an adapter_config.json gives its base with that adapter, a `PeftModel`.
        """
        if isinstance(name_or_path, str | os.PathLike) and not os.path.isfile(name_or_path):
            adapter = adapter_of(name_or_path, keywords)
            if adapter is not None:
                return with_adapter(*adapter, keywords, AutoModelForCausalLM.from_pretrained)
        wants_info = keywords.pop("output_loading_info", False)
        backend = _check_backend(keywords.pop("backend", None))
        if backend == "native" or (backend is None and not has_torch() and is_built()):
            from martlet.inference import open_for_engine

            prepared = open_for_engine(name_or_path, {**keywords, "config": as_config(keywords.get("config"))})
            opened, model = prepared.checkpoint, prepared.build()
        else:
            modeling = torch_models()
            options = {name: keywords.pop(name, None) for name in OPTIONS}
            for name, value in options.items():
                if backend and value is not None:
                    raise ArgumentError(name, "is for the native engine", found="backend='torch'")
            how = {"on_torch": bool(backend), "options": options}
            opened, model = _load(modeling, modeling.causal_model, name_or_path, keywords, **how)
        model.generation_config = _generation_config(model, _generation_file(opened))
        lists = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        return (model, {name: [] for name in lists}) if wants_info else model

    @staticmethod
    def from_config(config: Any, **keywords: Any) -> Any:
        """A language model with fresh random weights, in `dtype`; `set_seed` makes them the same again."""
        modeling = torch_models()
        model = modeling.build_model(modeling.causal_model, as_config(config), keywords)
        model.generation_config = _generation_config(model, None)
        return model

    @staticmethod
    def register(config_class: Any, model_class: Any, exist_ok: bool = False) -> None:
        """UnsupportedError: a family is a file of its own."""
        refuse_register("AutoModelForCausalLM", model_class)


def refuse_register(name: str, given: Any) -> NoReturn:
    """UnsupportedError for a class of the caller's."""
    raise UnsupportedError(
        f"{name}.register",
        "classes of your own cannot be registered",
        found=getattr(given, "__name__", repr(given)),
        remedy="A family is data here: docs/add-a-family.md adds one.",
    )


def load_for_generation(
    name_or_path: str | os.PathLike[str],
    *,
    opened: Checkpoint | None = None,
    meanwhile: Callable[[], None] | None = None,
    **keywords: Any,
) -> Any:
    """A model that is only generated with: on the native engine alone, without torch, where that gives the same; else
    what `AutoModelForCausalLM.from_pretrained` gives. Keywords are that one's; `opened` is the checkpoint, if it is.
    `meanwhile` is called before the model is loaded, or while its weights are packed; what it raises ends the loading.
    """
    backend = _check_backend(keywords.get("backend"))
    first = meanwhile or (lambda: None)
    is_adapter = opened is None and adapter_of(name_or_path, keywords) is not None
    if is_adapter or backend is not None or not (has_torch() and is_built()):
        first()
        return AutoModelForCausalLM.from_pretrained(name_or_path, **keywords)
    if _is_on_cpu(keywords.get("device_map")):
        from martlet.inference import open_for_engine

        asked = {key: value for key, value in keywords.items() if key not in ("dtype", "torch_dtype", "backend")}
        asked["config"] = as_config(keywords.get("config"))
        prepared = open_for_engine(name_or_path, asked, opened)
        dtype = next((keywords[key] for key in ("dtype", "torch_dtype") if keywords.get(key) is not None), "auto")
        if keywords.get("quantize") or _is_for_engine(str(dtype).removeprefix("torch."), prepared):
            model = prepared.build(meanwhile)
            model.generation_config = _generation_config(model, _generation_file(prepared.checkpoint))
            return model
    first()
    return AutoModelForCausalLM.from_pretrained(name_or_path, **keywords)


def _is_on_cpu(device_map: Any) -> bool:
    places = set(device_map.values()) if isinstance(device_map, Mapping) else {device_map}
    if "auto" in map(str, places) and any(Path(path).exists() for path in GPUS):
        from martlet.nn.devices import find_device

        places = {find_device("auto")}
    return {str(place) for place in places} <= {"None", "cpu", "auto"}


def _is_for_engine(dtype: str, prepared: Any) -> bool:
    """Whether the engine has kernels for the weights as they are stored, and they are stored as `dtype` wants them: for
    "auto", float32 only where the config does not say that a model is computed in another dtype.
    """
    from martlet.inference import DTYPES

    stored: set[str] = prepared.stored
    if dtype != "auto":
        return stored == {DTYPES.get(dtype)}
    if "F32" in stored and stored <= set(DTYPES.values()):
        config = prepared.checkpoint.config
        return stored == {"F32"} and (config.get("dtype") or config.get("torch_dtype")) in (None, "float32")
    return stored <= set(kinds())


def has_torch() -> bool:
    """Whether torch is installed; does not load it."""
    return "torch" in sys.modules or find_spec("torch") is not None


def _check_backend(backend: Any) -> str | None:
    if backend is not None and backend not in BACKENDS:
        raise ArgumentError("backend", f"must be one of {', '.join(BACKENDS)}", found=repr(backend))
    return backend  # type: ignore[no-any-return]


def _load(modeling: Any, build: Any, name_or_path: Any, keywords: dict[str, Any], **how: Any) -> Any:
    return modeling.load_model(build, name_or_path, {**keywords, "config": as_config(keywords.get("config"))}, **how)


def _generation_file(opened: Checkpoint) -> Path | None:
    return opened.snapshot.file("generation_config.json") if opened.gguf is None else None


def adapter_of(name_or_path: Any, keywords: Mapping[str, Any]) -> tuple[Path, str] | None:
    """The folder of an adapter and its base's name, where a name or folder is an adapter's."""
    from martlet.adapters.config import find_adapter

    return find_adapter(name_or_path, {key: keywords[key] for key in HUB_KEYWORDS if key in keywords})


def with_adapter(folder: Path, base: str, keywords: Mapping[str, Any], load: Callable[..., Any]) -> Any:
    """The base model an adapter names, loaded by `load`, and the adapter in it."""
    if keywords.get("backend") == "native":
        raise UnsupportedError(
            str(folder), "an adapter runs on torch", remedy="Save merge_and_unload() of it, and load that."
        )
    if not has_torch():
        raise UnsupportedError(str(folder), "an adapter runs on torch", remedy="Install martlet[torch].")
    kept = {key: value for key, value in keywords.items() if key not in ("revision", "subfolder")}
    loaded = load(base, **kept)
    from martlet.adapters import PeftModel

    model, *info = loaded if isinstance(loaded, tuple) else (loaded,)
    model = PeftModel.from_pretrained(model, folder)
    return (model, *info) if info else model


def _generation_config(model: Any, found: Path | None) -> Any:
    from martlet.generation.config import GenerationConfig

    if found is not None:
        return GenerationConfig.from_pretrained(found.parent)
    return GenerationConfig.from_model_config(model.config.to_dict())


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


def torch_models() -> Any:
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
