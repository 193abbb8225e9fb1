"""`AutoModelForSequenceClassification` and its kin: from a name to a model with a head. Only models need torch."""

from __future__ import annotations

import os
from typing import Any

from martlet.arch import Task
from martlet.auto import adapter_of, as_config, torch_models, with_adapter
from martlet.errors import ArgumentError
from martlet.families import Config

LABELS = ("num_labels", "id2label", "label2id")


class _AutoHead:
    task: Task

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **keywords: Any) -> Any:
        """The model of "org/name", a folder or a .gguf file. Keywords are those of `AutoModelForCausalLM`, and these.

        `num_labels`, `id2label`, `label2id` name the labels; with one of them a head the checkpoint does not have is
        made, its weights a function of `set_seed`'s seed and their names, and said in the log. `problem_type`:
        "regression", "single_label_classification" or "multi_label_classification". `allow_new`: a part, or several,
        that may be new besides: "head" or "pooler". Any other tensor that is missing is a WeightsError.
        """
        heads = _heads()
        build, has_labels = _builder(heads, cls.task), any(keywords.get(key) is not None for key in LABELS)
        find_new = heads.NewParts(keywords.pop("allow_new", None), has_labels)
        return _load(build, name_or_path, keywords, find_new)

    @classmethod
    def from_config(cls, config: Any, **keywords: Any) -> Any:
        """A model with fresh random weights, in `dtype`. Other keywords override keys of the config."""
        from martlet.modeling import build_model

        return build_model(_builder(_heads(), cls.task), _config(config), keywords)


class AutoModelForSequenceClassification(_AutoHead):
    """Classifiers of texts, and regressors: calling one gives `logits` `(rows, labels)`."""

    task = Task.SEQUENCE


class AutoModelForTokenClassification(_AutoHead):
    """Classifiers of tokens: calling one gives `logits` `(rows, tokens, labels)`."""

    task = Task.TOKEN


class AutoModelForQuestionAnswering(_AutoHead):
    """Finders of answers in a text: calling one gives `start_logits` and `end_logits` `(rows, tokens)`.

    The head has two outputs, whatever the labels: `allow_new="head"` makes one that the checkpoint does not have.
    """

    task = Task.QUESTION


class AutoModelForMultipleChoice(_AutoHead):
    """Choosers among texts: calling one on `(rows, choices, tokens)` gives `logits` `(rows, choices)`.

    `allow_new="head"` makes a head that the checkpoint does not have.
    """

    task = Task.CHOICE


class AutoModelForMaskedLM:
    """Encoders that fill in masked tokens: calling one gives `logits` `(rows, tokens, vocabulary)`."""

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike[str], **keywords: Any) -> Any:
        """The model of "org/name" or a folder. Keywords are those of `AutoModelForCausalLM`; `allow_new="lm_head"`
        makes a head that the checkpoint does not have."""
        heads = _heads()
        return _load(heads.masked_model, name_or_path, keywords, heads.NewParts(keywords.pop("allow_new", None), False))

    @staticmethod
    def from_config(config: Any, **keywords: Any) -> Any:
        """A model with fresh random weights, in `dtype`. Other keywords override keys of the config."""
        from martlet.modeling import build_model

        return build_model(_heads().masked_model, _config(config), keywords)


def _heads() -> Any:
    torch_models()  # says how to get torch
    from martlet import modeling_heads

    return modeling_heads


def _config(config: Any) -> Config:
    found = as_config(config)
    if found is None:
        raise ArgumentError("config", "must be a Config or a dict", found="None")
    return found


def _builder(heads: Any, task: Task) -> Any:
    return heads.MODELS[task]


def _load(build: Any, name_or_path: Any, keywords: dict[str, Any], find_new: Any) -> Any:
    from martlet.modeling import load_model

    adapter = adapter_of(name_or_path, keywords)
    if adapter is not None:
        return with_adapter(*adapter, keywords, lambda base, **kept: _load(build, base, kept, find_new))
    wants_info = keywords.pop("output_loading_info", False)
    keywords = {**keywords, "config": as_config(keywords.get("config"))}
    model = load_model(build, name_or_path, keywords, find_new)[1]
    lists = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    return (model, {name: [] for name in lists}) if wants_info else model
