"""`pipeline`: the door. From a task and a model's name, file or object to something to call; loading is auto.py's."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from martlet.errors import ArgumentError, UnsupportedError
from martlet.pipelines.options import KNOWN, unknown_keyword

# task -> its file, its class there, the class its model is loaded with
FORWARD = {
    "text-classification": ("text_classification", "TextClassificationPipeline", "AutoModelForSequenceClassification"),
    "token-classification": ("token_classification", "TokenClassificationPipeline", "AutoModelForTokenClassification"),
    "fill-mask": ("fill_mask", "FillMaskPipeline", "AutoModelForMaskedLM"),
    "feature-extraction": ("feature_extraction", "FeatureExtractionPipeline", "AutoModel"),
    "question-answering": ("question_answering", "QuestionAnsweringPipeline", "AutoModelForQuestionAnswering"),
    "zero-shot-classification": (
        "zero_shot_classification",
        "ZeroShotClassificationPipeline",
        "AutoModelForSequenceClassification",
    ),
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}
TASKS = ("text-generation", *FORWARD)
# Hugging Face has these, or had them: what to use instead.
ELSEWHERE = {
    "conversational": "Use text-generation, and call it with a list of messages.",
    "text2text-generation": "Use text-generation with a chat model.",
    "summarization": "Use text-generation with a chat model.",
    "translation": "Use text-generation with a chat model.",
}
HUB = ("cache_dir", "local_files_only", "force_download", "subfolder")
LOADING = (
    "gguf_file",
    "use_safetensors",
    "attn_implementation",
    "backend",
    "quantize",
    "num_threads",
)  # as `model_kwargs` may hold them too
OTHER_PARTS = ("feature_extractor", "image_processor", "video_processor", "processor")


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    trust_remote_code: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    pipeline_class: Any = None,
    use_fast: bool = True,
    framework: str | None = None,
    **keywords: Any,
) -> Any:
    """A pipeline for `task` (one of `TASKS`; "text-generation" where it is None) around `model`: "org/name", a folder,
    a .gguf file, or a loaded model.

    `tokenizer` is a name or a tokenizer, by default the model's own. `device` ("cpu", "cuda:1", an index, -1 for the
    CPU) or `device_map` place the model; without them a named model goes to the GPU if there is one. `dtype` (old name
    `torch_dtype`), `config`, `model_kwargs` and the Hub's `revision`, `token`, `cache_dir`, `local_files_only`,
    `force_download`, `subfolder` are for loading: a loaded model is used as it is, which the log says once.
    `trust_remote_code` runs nothing. Further keywords are the pipeline's (see `TextGenerationPipeline`): an unknown
    one is an ArgumentError, as is an unknown task.
    """
    from martlet.pipelines.text_generation import TextGenerationPipeline

    task = _check_task(task)
    if model is None:
        found = None if tokenizer is None else "a tokenizer alone"
        raise ArgumentError("pipeline", "needs a model", found=found, remedy='Pass model="org/name", a folder or file.')
    for name in OTHER_PARTS:
        if keywords.pop(name, None) is not None:
            raise UnsupportedError("pipeline", f"{name} is not supported", remedy="Only text is.")
    if framework not in (None, "pt"):
        raise ArgumentError("framework", 'must be "pt"', found=repr(framework))
    if device is not None and device_map is not None:
        raise ArgumentError("pipeline", "takes device or device_map, not both", found=f"{device!r}, {device_map!r}")
    loading = {name: keywords.pop(name) for name in (*HUB, *LOADING) if name in keywords}
    loading |= {"revision": revision, "token": token, "trust_remote_code": trust_remote_code, "config": config}
    loading |= {"device_map": device_map, "dtype": dtype, "torch_dtype": torch_dtype}
    loading = _with_model_kwargs(loading, model_kwargs or {})
    if task in FORWARD:
        return _forward_pipeline(task, model, tokenizer, device, loading, pipeline_class, keywords)
    for name in keywords:
        if name not in KNOWN:
            raise unknown_keyword("pipeline", name, [*KNOWN, *_own_keywords()])
    if isinstance(model, str | os.PathLike):
        tokenizer = _load_tokenizer(_with_tokenizer(model, loading) if tokenizer is None else tokenizer, loading)
        model = _load_model(model, device, loading)
    else:
        tokenizer = _load_tokenizer(_name_of(model) if tokenizer is None else tokenizer, loading)
        _say_idle(loading)
        keywords["device"] = device
    if isinstance(keywords.get("assistant_model"), str | os.PathLike):
        keywords["assistant_model"] = _load_model(keywords["assistant_model"], device, {"device_map": device_map})
    return (pipeline_class or TextGenerationPipeline)(model, tokenizer, task=task, **keywords)


def _check_task(task: str | None) -> str:
    if task is None:
        return TASKS[0]
    if not isinstance(task, str):
        raise ArgumentError("task", "must be a string", found=type(task).__name__)
    task = ALIASES.get(task, task)
    if task in TASKS:
        return task
    near = difflib.get_close_matches(task, [*TASKS, *ALIASES, *ELSEWHERE], 1)
    remedy = ELSEWHERE.get(task, "")
    if not remedy and near:
        remedy = f"Is {near[0]!r} meant?" if near[0] not in ELSEWHERE else ELSEWHERE[near[0]]
    raise ArgumentError("task", f"must be one of {', '.join(TASKS)}", found=repr(task), remedy=remedy)


def _forward_pipeline(
    task: str, model: Any, tokenizer: Any, device: Any, loading: dict[str, Any], kind: Any, keywords: dict[str, Any]
) -> Any:
    """A pipeline of one forward pass an input; a name is loaded with the task's class."""
    file, class_name, door_name = FORWARD[task]
    kind = kind or getattr(import_module(f"martlet.pipelines.{file}"), class_name)
    if isinstance(model, str | os.PathLike):
        tokenizer = _load_tokenizer(_with_tokenizer(model, loading) if tokenizer is None else tokenizer, loading)
        if isinstance(loading.get("config"), str | os.PathLike):
            from martlet.auto import AutoConfig

            loading["config"] = AutoConfig.from_pretrained(loading["config"], **_of_hub(loading))
        if "device_map" not in loading:
            loading["device_map"] = "auto" if device is None else _device_name(device)
        room = import_module("martlet.auto" if door_name == "AutoModel" else "martlet.auto_heads")
        model, device = getattr(room, door_name).from_pretrained(model, **loading), None
    else:
        tokenizer = _load_tokenizer(_name_of(model) if tokenizer is None else tokenizer, loading)
        _say_idle(loading)
    return kind(model, tokenizer, device=device, **keywords)


def _own_keywords() -> list[str]:
    names = [*pipeline.__annotations__, *HUB, *LOADING]
    return [name for name in names if name not in ("return", "keywords")]


def _with_model_kwargs(loading: dict[str, Any], model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords for loading that are set, from both places; ArgumentError for one that comes from both."""
    given = {name: value for name, value in loading.items() if value is not None}
    for name in given:
        if name in model_kwargs:
            raise ArgumentError("pipeline", f"{name} must not come both by itself and in model_kwargs")
    return {**given, **model_kwargs}


def _load_model(name: Any, device: Any, loading: Mapping[str, Any]) -> Any:
    from martlet.auto import AutoConfig, load_for_generation

    loading = dict(loading)
    if isinstance(loading.get("config"), str | os.PathLike):
        loading["config"] = AutoConfig.from_pretrained(loading["config"], **_of_hub(loading))
    if "device_map" not in loading:
        loading["device_map"] = "auto" if device is None else _device_name(device)
    return load_for_generation(name, **loading)


def _load_tokenizer(tokenizer: Any, loading: Mapping[str, Any]) -> Any:
    from martlet.tokenizers import AutoTokenizer

    own: dict[str, Any] = {}
    if isinstance(tokenizer, tuple) and len(tokenizer) == 2:  # a name, and keywords for it
        tokenizer, own = tokenizer
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    shared = {**_of_hub(loading), **{name: loading[name] for name in ("gguf_file",) if name in loading}}
    return AutoTokenizer.from_pretrained(tokenizer, **{**shared, **own})


def _with_tokenizer(name: Any, loading: Mapping[str, Any]) -> Any:
    """Where a model's tokenizer lies: an adapter's with its base, unless one was saved beside the adapter."""
    from martlet.auto import adapter_of

    adapter = adapter_of(name, loading)
    if adapter is None or any((adapter[0] / each).is_file() for each in ("tokenizer.json", "tokenizer_config.json")):
        return name
    return adapter[1]


def _of_hub(loading: Mapping[str, Any]) -> dict[str, Any]:
    names = ("revision", "token", "trust_remote_code", *HUB)
    return {name: loading[name] for name in names if name in loading}


def _name_of(model: Any) -> Any:
    """Where a loaded model came from; its tokenizer is there too."""
    name = getattr(model, "name_or_path", "")
    if not name:
        raise ArgumentError(
            "pipeline", "needs a tokenizer: the model was not loaded from a name or path", remedy="Pass tokenizer=."
        )
    return name


def _device_name(device: Any) -> Any:
    return "cpu" if device == -1 and isinstance(device, int) else device


def _say_idle(loading: Mapping[str, Any]) -> None:
    """Logs, once, what was asked of the loading of a model that is loaded already."""
    from martlet.generation.settings import say_once

    idle = [name for name in loading if name not in ("trust_remote_code", *HUB, "revision", "token", "gguf_file")]
    if idle:
        say_once(f"pipeline: {', '.join(sorted(idle))} given, but the model is loaded already and is used as it is")
