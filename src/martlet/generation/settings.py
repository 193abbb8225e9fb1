"""The settings of one call of `generate`: from model, config and keywords to one config, checked against each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from martlet.errors import ArgumentError, UnsupportedError
from martlet.generation.config import OUTPUT_FLAGS, GenerationConfig

DEFAULT_NEW_TOKENS = 20  # Hugging Face's, when neither max_new_tokens nor max_length is given
SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
UNSUPPORTED = {
    "inputs_embeds": "Pass input_ids.",
    "position_ids": "They follow from attention_mask.",
    "cache_position": "It follows from attention_mask.",
    "past_key_values": "Pass the whole sequence as input_ids.",
    "token_type_ids": "Decoders have none: leave it out.",
    "encoder_outputs": "Only decoder-only models are supported.",
    "decoder_input_ids": "Only decoder-only models are supported.",
    "pixel_values": "Only text is supported.",
    "input_features": "Only text is supported.",
    "assistant_tokenizer": "The assistant must share the model's tokenizer.",
    "custom_generate": "No code is run from a repository; call your function with the model instead.",
}
logger = logging.getLogger("martlet")
_said: set[str] = set()


def resolve_config(model: Any, generation_config: Any, fields: Mapping[str, Any]) -> GenerationConfig:
    """The model's generation config, then what `generation_config` sets, then `fields`: the later win.

    `generation_config` may be ours, Hugging Face's, or a mapping. ArgumentError for an unknown field.
    """
    for name, value in fields.items():
        if name in UNSUPPORTED and value is not None:
            raise UnsupportedError("generate", f"{name} is not supported", remedy=UNSUPPORTED[name])
    config = getattr(model, "generation_config", None) or GenerationConfig()
    if generation_config is not None:
        config = config.but("generation_config", **_set_fields(generation_config))
    given = {name: value for name, value in fields.items() if name not in UNSUPPORTED}
    if given:
        config = config.but("generate", **given)
    idle = [name for name in SAMPLING_FIELDS if given.get(name) is not None]
    if idle and not config.do_sample:
        say_once(f"generate: {', '.join(idle)} given, but do_sample is False, so the likeliest token is always chosen")
    unseen = [name for name in OUTPUT_FLAGS if given.get(name)]
    if unseen and not config.return_dict_in_generate:
        say_once(f"generate: {', '.join(unseen)} given, but only return_dict_in_generate=True returns them")
    return config


def eos_ids(config: GenerationConfig) -> list[int]:
    """The ids that end a sequence, none or more; of all rows, for a config that has them row by row."""
    ids = config.eos_token_id
    flat = [ids] if not isinstance(ids, list | tuple) else ids
    nested = [each if isinstance(each, list | tuple) else [each] for each in flat]
    return [int(each) for row in nested for each in row if each is not None and each >= 0]


def say_once(message: str, subject: str = "") -> None:
    """Logs a message the first time it, or one of its `subject`, is said in this process."""
    if (subject or message) not in _said:
        _said.add(subject or message)
        logger.warning(message)


def _set_fields(config: Any) -> dict[str, Any]:
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise ArgumentError("generation_config", "must be a GenerationConfig or a dict", found=type(config).__name__)
    fields = dict(config) if isinstance(config, Mapping) else config.to_dict()
    return {name: value for name, value in fields.items() if value is not None}


def with_length(row: GenerationConfig, num_prompt: int, place: int) -> GenerationConfig:
    """The row's config with `max_new_tokens` settled."""
    if row.max_new_tokens is not None:
        _check_least(row, num_prompt, row.max_new_tokens)
        return row
    num_new = DEFAULT_NEW_TOKENS if row.max_length is None else row.max_length - num_prompt
    if num_new < 1:
        raise ArgumentError(
            f"prompt row {place}",
            f"max_length ({row.max_length}) counts the prompt and must be greater than its {num_prompt} tokens",
            remedy="Raise it, or set max_new_tokens.",
        )
    _check_least(row, num_prompt, num_new)
    return row.but("max_length", max_new_tokens=num_new, max_length=None)


def _check_least(row: GenerationConfig, num_prompt: int, num_new: int) -> None:
    """ArgumentError if one call asks for more tokens than it allows; a log line if one of the two was a default."""
    name = "min_length" if row.min_new_tokens is None else "min_new_tokens"
    least = (row.min_length or 0) - num_prompt if row.min_new_tokens is None else row.min_new_tokens
    if least <= num_new:
        return
    rule = f"asks for {least} new tokens, and at most {num_new} are allowed"
    if row.origin(name) == "generate" == row.origin("max_new_tokens"):
        raise ArgumentError(name, rule, remedy="Raise max_new_tokens.")
    say_once(f"{name} {rule}", subject=name)


def check_modes(config: GenerationConfig, assistant: Any, on_token: Any, negative: Any) -> None:
    beams, returned = config.num_beams, config.num_return_sequences
    drafts = assistant is not None or config.prompt_lookup_num_tokens is not None
    if negative is not None and config.guidance_scale in (None, 1.0):
        say_once("generate: negative_prompt_ids given, but without a guidance_scale other than 1 they change nothing")
    if beams > 1 and returned > beams:
        raise ArgumentError("num_return_sequences", f"must be at most num_beams ({beams})", found=returned)
    if beams == 1 and returned > 1 and not config.do_sample:
        raise ArgumentError(
            "num_return_sequences",
            "must be 1 for greedy decoding, which has one result",
            found=returned,
            remedy="Set do_sample=True or num_beams.",
        )
    if beams > 1 and drafts:
        raise ArgumentError("num_beams", "must be 1 with an assistant or prompt lookup", found=beams)
    if beams > 1 and on_token is not None:
        raise ArgumentError("num_beams", "must be 1 to stream: beams change until the end", found=beams)
    if assistant is not None and config.prompt_lookup_num_tokens is not None:
        raise ArgumentError("generate", "takes assistant_model or prompt_lookup_num_tokens, not both")
