"""The keywords of a text-generation pipeline: what each may be, and which layer's value applies. Generation's own
fields and their rules are generation/fields.py's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from martlet.errors import ArgumentError
from martlet.generation.config import GenerationConfig
from martlet.generation.fields import COUNT, FIELDS, FLAG, GENERATE_ARGUMENTS, SIZE, UNSUPPORTED, Rule, one_of
from martlet.generation.settings import SAMPLING_FIELDS, say_once
from martlet.generation.settings import UNSUPPORTED as UNSUPPORTED_ARGUMENTS

CALL, KEYWORD = "call", "pipeline keyword"
PIPELINE_DEFAULT, LIBRARY_DEFAULT = "pipeline default", "Hugging Face default"
# Of Hugging Face's text-generation pipeline, for what neither the caller nor the model's files set.
GENERATION_DEFAULTS: Mapping[str, Any] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}


class ReturnType(Enum):
    """What an answer holds."""

    TENSORS = 0  # ids of prompt and answer, as `generated_token_ids`
    NEW_TEXT = 1
    FULL_TEXT = 2


@dataclass(frozen=True, slots=True)
class Option:
    """A keyword of the pipeline itself; None leaves it unset."""

    rule: Rule
    default: Any = None


def _is_tokenizer_keywords(value: Any) -> bool:
    return isinstance(value, Mapping) and not {"return_tensors", "return_dict", "tokenize"} & set(value)


_TEXT = Rule("a string", lambda value: isinstance(value, str))
_ITEMS = Rule("a list", lambda value: isinstance(value, list | tuple))
_WORDS = Rule(
    "a string or a list of strings",
    lambda value: isinstance(value, str) or (_ITEMS.holds(value) and all(isinstance(word, str) for word in value)),
)

OPTIONS: dict[str, Option] = {
    "batch_size": Option(COUNT, 1),
    "return_type": Option(Rule("a ReturnType", lambda value: isinstance(value, ReturnType)), ReturnType.FULL_TEXT),
    "clean_up_tokenization_spaces": Option(FLAG),
    "skip_special_tokens": Option(FLAG, True),
    "add_special_tokens": Option(FLAG),
    "prefix": Option(_TEXT),
    "handle_long_generation": Option(one_of("hole")),
    "continue_final_message": Option(FLAG),
    "truncation": Option(FLAG.or_(one_of("longest_first", "only_first", "only_second", "do_not_truncate"))),
    "tokenizer_encode_kwargs": Option(
        Rule("a dict of the tokenizer's keywords, without return_tensors and return_dict", _is_tokenizer_keywords)
    ),
    "tools": Option(_ITEMS),
    "documents": Option(_ITEMS),
    # These change no answer: rows are never padded, and nothing is loaded by other processes.
    "padding": Option(FLAG.or_(one_of("longest", "max_length", "do_not_pad"))),
    "num_workers": Option(SIZE, 0),
}
RETURNS = ("return_full_text", "return_text", "return_tensors", "return_type")
# Keywords of `generate` that are no fields of a GenerationConfig; None leaves one unset.
ARGUMENTS = GENERATE_ARGUMENTS | {"stop", "truncate_prompt", "generator"} | set(UNSUPPORTED_ARGUMENTS)
ALIASES = ("stop_sequence", "generate_kwargs", "generation_config")
KNOWN = (*OPTIONS, *RETURNS, *ALIASES, *FIELDS, *UNSUPPORTED, *ARGUMENTS)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one layer of keywords, the pipeline's or a call's, says."""

    options: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)  # of a GenerationConfig; None turns one off
    arguments: dict[str, Any] = field(default_factory=dict)  # of `generate`
    generation_config: Any = None
    stop_words: list[str] | None = None  # of `stop_sequence`, which a call's `generation_config` does not replace


def read_keywords(keywords: Mapping[str, Any], subject: str = "text-generation pipeline") -> Asked:
    """Sorts the keywords by what they are for. ArgumentError for an unknown one, and for a value against its rule."""
    keywords = _merged(keywords, subject)
    asked = Asked(generation_config=keywords.pop("generation_config", None), stop_words=_stop_words(keywords, subject))
    if (found := _return_type(keywords)) is not None:
        asked.options["return_type"] = found
    for name, value in keywords.items():
        if name in OPTIONS:
            if value is not None:
                asked.options[name] = _checked(name, value)
        elif name in ARGUMENTS:
            if value is not None:
                asked.arguments[name] = value
        elif name in FIELDS or name in UNSUPPORTED:
            asked.fields[name] = value
        else:
            raise unknown_keyword(subject, name, KNOWN)
    return asked


def unknown_keyword(subject: str, name: str, known: Iterable[str]) -> ArgumentError:
    """The error for a keyword that nobody reads, with the nearest that somebody does."""
    near = difflib.get_close_matches(name, list(known), 1)
    return ArgumentError(
        subject, f"does not take the keyword {name!r}", remedy=f"Is {near[0]!r} meant?" if near else ""
    )


def resolve_options(init: Asked, call: Asked, of_model: Mapping[str, Any]) -> dict[str, Any]:
    """Every option's value: the call's, else the pipeline's, else the model's config's, else the default."""
    defaults = {name: option.default for name, option in OPTIONS.items()}
    return {**defaults, **of_model, **init.options, **call.options}


def resolve_generation(base: GenerationConfig, init: Asked, call: Asked, pad_id: int | None) -> GenerationConfig:
    """The generation config of a call; `origin` tells where each value is from.

    The model's own config, then a `generation_config`, then keywords of the pipeline, then those of the call: the later
    win. A call's `generation_config` takes the place of all generation keywords of the pipeline. Then the pipeline's
    defaults for what is still unset: a temperature only to sample with, a length only without `max_length`.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    if call.generation_config is not None:
        layers.append((CALL, _set_fields(call.generation_config)))
    else:
        if init.generation_config is not None:
            layers.append((KEYWORD, _set_fields(init.generation_config)))
        layers.append((KEYWORD, init.fields))
    layers += [(KEYWORD, _stops(init)), (CALL, {**call.fields, **_stops(call)})]
    config = base
    is_set = {name for name, value, _ in base.describe() if value is not None}
    for origin, fields in layers:
        is_set |= fields.keys()
        config = config.but(origin, **fields)
    defaults = {**GENERATION_DEFAULTS, **({} if pad_id is None else {"pad_token_id": pad_id})}
    added = {name: value for name, value in defaults.items() if name not in is_set}
    if "max_length" in is_set:
        added.pop("max_new_tokens", None)
    if not (config.do_sample or added.get("do_sample")):
        added.pop("temperature", None)
    config = config.but(PIPELINE_DEFAULT, **added)
    idle = [name for name in SAMPLING_FIELDS if any(fields.get(name) is not None for _, fields in layers)]
    if idle and not config.do_sample:
        say_once(f"pipeline: {', '.join(idle)} given, but do_sample is False, so the likeliest token is always chosen")
    return config


def _merged(keywords: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """The keywords and those in `generate_kwargs`."""
    merged = dict(keywords)
    inner = merged.pop("generate_kwargs", None)
    if inner is None:
        return merged
    if not isinstance(inner, Mapping):
        raise ArgumentError("generate_kwargs", "must be a dict of generation keywords", found=type(inner).__name__)
    for name, value in inner.items():
        if name in OPTIONS or name in RETURNS:
            raise ArgumentError("generate_kwargs", f"{name} is the pipeline's own", remedy="Pass it beside the dict.")
        if name in merged:
            raise ArgumentError(subject, f"{name} must not come both by itself and in generate_kwargs")
        merged[name] = value
    return merged


def _stop_words(keywords: dict[str, Any], subject: str) -> list[str] | None:
    words = keywords.pop("stop_sequence", None)
    if words is None:
        return None
    if keywords.get("stop_strings") is not None:
        raise ArgumentError(subject, "takes stop_sequence or stop_strings, not both")
    if not _WORDS.holds(words):
        raise ArgumentError("stop_sequence", f"must be {_WORDS.text}", found=repr(words))
    return [words] if isinstance(words, str) else list(words)


def _stops(asked: Asked) -> dict[str, Any]:
    return {} if asked.stop_words is None else {"stop_strings": asked.stop_words}


def _return_type(keywords: dict[str, Any]) -> ReturnType | None:
    """What the return keywords, taken out of `keywords`, ask for together; None where they ask for nothing."""
    asked = {name: keywords.pop(name, None) for name in RETURNS}
    given = {name: value for name, value in asked.items() if value is not None}
    kind = given.pop("return_type", None)
    for name, value in given.items():
        if not FLAG.holds(value):
            raise ArgumentError(name, f"must be {FLAG.text}", found=repr(value))
    if len(given) + (kind is not None) > 1:
        names = ", ".join(name for name in RETURNS if asked[name] is not None)
        raise ArgumentError("text-generation pipeline", "takes one keyword for what to return", found=names)
    if kind is not None:
        found = next((each for each in ReturnType if each is kind or each.name == getattr(kind, "name", kind)), None)
        if found is None:
            raise ArgumentError("return_type", "must be a ReturnType", found=repr(kind))
        return found
    if "return_full_text" in given:
        return ReturnType.FULL_TEXT if given["return_full_text"] else ReturnType.NEW_TEXT
    if given.get("return_text") is False:
        raise ArgumentError(
            "return_text", "cannot be False alone", remedy="Pass return_tensors=True for token ids in place of text."
        )
    return ReturnType.TENSORS if given.get("return_tensors") else None


def _checked(name: str, value: Any) -> Any:
    rule = OPTIONS[name].rule
    if not rule.holds(value):
        raise ArgumentError(name, f"must be {rule.text}", found=repr(value))
    return value


def _set_fields(config: Any) -> dict[str, Any]:
    """The fields that a GenerationConfig, ours or Hugging Face's, or a dict of one sets."""
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ArgumentError("generation_config", "must be a GenerationConfig or a dict", found=type(config).__name__)
    fields = dict(config) if isinstance(config, Mapping) else config.to_dict()
    return {name: value for name, value in fields.items() if value is not None}
