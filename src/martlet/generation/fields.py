"""What a generation config can say: each field, its rule and its default; and what Hugging Face has that we do not.

The object that holds the values is config.py's."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from martlet.errors import ArgumentError, UnsupportedError


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must be, in words and as a test."""

    text: str
    holds: Callable[[Any], bool]

    def or_(self, other: Rule) -> Rule:
        return Rule(f"{self.text} or {other.text}", lambda value: self.holds(value) or other.holds(value))


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(least: int) -> Rule:
    return Rule(f"an integer of at least {least}", lambda value: _is_integer(value) and value >= least)


def number(text: str, holds: Callable[[float], bool] = lambda value: True) -> Rule:
    """A finite number; `text` and `holds` narrow it."""

    def test(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        return math.isfinite(value) and holds(float(value))

    return Rule(text, test)


def each(rule: Rule, text: str, *, may_be_empty: bool = False) -> Rule:
    """A list whose members all hold to `rule`."""

    def test(value: Any) -> bool:
        return isinstance(value, list | tuple) and bool(value or may_be_empty) and all(map(rule.holds, value))

    return Rule(text, test)


def one_of(*values: Any) -> Rule:
    names = ", ".join(map(repr, values))
    return Rule(f"one of {names}", lambda value: any(type(value) is type(other) and value == other for other in values))


def _is_decay(value: Any) -> bool:
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    return is_pair and whole(0).holds(value[0]) and POSITIVE.holds(value[1])


def _is_bias(value: Any) -> bool:
    pairs: Iterable[Any]
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        pairs = value
    else:
        return False
    real = number("a number")
    return bool(value) and all(IDS.holds(ids) and real.holds(bias) for ids, bias in pairs)


FLAG = Rule("True or False", lambda value: isinstance(value, bool))
COUNT, SIZE = whole(1), whole(0)
NUMBER = number("a finite number")
POSITIVE = number("a number greater than 0", lambda value: value > 0)
NOT_NEGATIVE = number("a number of at least 0", lambda value: value >= 0)
UNIT = number("a number from 0 to 1", lambda value: 0 <= value <= 1)
SHARE = number("a number greater than 0 and at most 1", lambda value: 0 < value <= 1)
CUTOFF = number("a number of at least 0 and less than 1", lambda value: 0 <= value < 1)
ID = Rule("a token id", lambda value: _is_integer(value) and value >= 0)
END_ID = Rule("a token id (or -1 for none)", lambda value: _is_integer(value) and value >= -1)
IDS = each(ID, "a list of token ids")
ANY_IDS = each(ID, "a list of token ids", may_be_empty=True)
END_IDS = each(END_ID, "a list of token ids", may_be_empty=True)
WORDS = each(IDS, "a list of lists of token ids")
STRING = Rule("a string of at least one character", lambda value: isinstance(value, str) and bool(value))
STRINGS = each(STRING, "a list of them", may_be_empty=True)
DECAY = Rule("a pair (start, factor): an integer of at least 0 and a number greater than 0", _is_decay)
BIAS = Rule("a dict {(ids): bias}, or a list of pairs [ids, bias]", _is_bias)
ANYTHING = Rule("anything", lambda value: True)

CACHES = ("dynamic", "static", "hybrid", "hybrid_chunked", "sliding_window")  # where keys lie changes no result
OTHER_CACHES = ("offloaded", "offloaded_static", "quantized", "offloaded_hybrid", "offloaded_hybrid_chunked", "paged")


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `rows` says how it takes one value a prompt: a list of values; for a field whose own values may be
    lists, a list of lists ("nested"); or not at all. `may_be_none`: None is a value, "off", not the default."""

    rule: Rule
    default: Any = None
    rows: Literal["list", "nested", "no"] = "list"
    may_be_none: bool = True

    def is_per_row(self, value: Any) -> bool:
        """Whether `value` is one value a prompt."""
        if self.rows == "no" or not isinstance(value, list | tuple):
            return False
        if self.rows == "list":
            return True
        if self.rule.holds(value):
            return False
        return any(row is None or (isinstance(row, list | tuple | dict) and self.rule.holds(row)) for row in value)


def _flag(rows: Literal["list", "no"] = "no") -> Field:
    return Field(FLAG, False, rows, may_be_none=False)


FIELDS: dict[str, Field] = {
    # length and stopping
    "max_length": Field(COUNT),  # prompt included; 20 new tokens when neither this nor max_new_tokens is set
    "max_new_tokens": Field(COUNT),
    "min_length": Field(SIZE, 0),
    "min_new_tokens": Field(SIZE),
    "early_stopping": Field(FLAG.or_(one_of("never")), False, "no", may_be_none=False),
    "max_time": Field(NOT_NEGATIVE),  # seconds
    "stop_strings": Field(STRING.or_(STRINGS), rows="nested"),
    # strategy
    "do_sample": _flag("list"),
    "num_beams": Field(COUNT, 1, "no", may_be_none=False),
    "seed": Field(SIZE),  # ours: the same seed, the same tokens; None draws one
    # cache
    "use_cache": Field(FLAG, True, "no", may_be_none=False),
    "cache_implementation": Field(one_of(*CACHES), rows="no"),
    "max_cache_len": Field(COUNT, rows="no"),
    "prefill_chunk_size": Field(COUNT, rows="no"),
    # scores
    "temperature": Field(NOT_NEGATIVE, 1.0),  # 0 is refused when sampling
    "top_k": Field(SIZE, 50),
    "top_p": Field(UNIT, 1.0),  # 0 is refused when sampling
    "min_p": Field(UNIT),
    "top_h": Field(SHARE),
    "typical_p": Field(SHARE, 1.0),
    "epsilon_cutoff": Field(CUTOFF, 0.0),
    "eta_cutoff": Field(CUTOFF, 0.0),
    "repetition_penalty": Field(POSITIVE, 1.0),
    "encoder_repetition_penalty": Field(POSITIVE, 1.0),
    "length_penalty": Field(NUMBER, 1.0, "no", may_be_none=False),
    "no_repeat_ngram_size": Field(SIZE, 0),
    "encoder_no_repeat_ngram_size": Field(SIZE, 0),
    "bad_words_ids": Field(WORDS, rows="nested"),
    "renormalize_logits": _flag("list"),
    "forced_bos_token_id": Field(ID),
    "forced_eos_token_id": Field(ID.or_(IDS), rows="nested"),
    "remove_invalid_values": _flag("list"),
    "exponential_decay_length_penalty": Field(DECAY, rows="nested"),
    "suppress_tokens": Field(ANY_IDS, rows="nested"),
    "begin_suppress_tokens": Field(ANY_IDS, rows="nested"),
    "sequence_bias": Field(BIAS, rows="nested"),
    "guidance_scale": Field(NUMBER),
    # outputs
    "num_return_sequences": Field(COUNT, 1, "no", may_be_none=False),
    "output_attentions": _flag(),
    "output_hidden_states": _flag(),
    "output_scores": _flag(),
    "output_logits": _flag(),
    "return_dict_in_generate": _flag(),
    # tokens
    "pad_token_id": Field(ID, rows="no"),
    "bos_token_id": Field(ID, rows="no"),
    "eos_token_id": Field(END_ID.or_(END_IDS), rows="nested"),
    "decoder_start_token_id": Field(ID.or_(IDS), rows="no"),
    # drafts; when unset, what the assistant's own generation config says, then 20, "constant" and 0.4
    "is_assistant": _flag(),
    "num_assistant_tokens": Field(COUNT, rows="no"),
    "num_assistant_tokens_schedule": Field(one_of("constant", "heuristic", "heuristic_transient"), rows="no"),
    "assistant_confidence_threshold": Field(UNIT, rows="no"),
    "prompt_lookup_num_tokens": Field(COUNT, rows="no"),
    "max_matching_ngram_size": Field(COUNT, rows="no"),
    "assistant_lookbehind": Field(COUNT, 10, "no", may_be_none=False),
    "target_lookbehind": Field(COUNT, 10, "no", may_be_none=False),
    # hints to a compiler that we do not have
    "compile_config": Field(ANYTHING, rows="no"),
    "disable_compile": _flag(),
}

# Fields of Hugging Face's that we do not have, and the values at which they do nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (),
    "assistant_ensemble_weight": (),
    "cache_config": ({},),
    "constraints": ([],),
    "continuous_batching_config": (),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "force_words_ids": ([],),
    "forced_decoder_ids": ([],),
    "generation_kwargs": ({},),
    "low_memory": (False, True),  # of contrastive search alone
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "return_legacy_cache": (False, True),  # no cache is returned
    "speculation_type": (),
    "token_healing": (False,),
    "use_mtp": (False,),
    "watermarking_config": (),
}
UNSUPPORTED_REMEDIES = {
    "constraints": "prefix_allowed_tokens_fn can hold output to a form.",
    "force_words_ids": "prefix_allowed_tokens_fn can hold output to a form.",
    "penalty_alpha": "Contrastive search is not here; sample, or use beams.",
    "watermarking_config": "Nothing is watermarked; leave it out.",
}

# What Hugging Face or a model's author writes beside the fields; kept, and saved again, but for the private ones.
METADATA = frozenset(
    {
        "transformers_version",
        "_from_model_config",
        "_commit_hash",
        "_name_or_path",
        "_original_object_hash",
        "_mask_length",
        "chat_format",
        "max_window_size",
        "user_token_id",
        "assistant_token_id",
        "dtype",
        "torch_dtype",
        "trust_remote_code",
        "_attn_implementation",
    }
)
NOT_SAVED = frozenset({"_commit_hash", "_original_object_hash", "_mask_length"})

GENERATE_ARGUMENTS = frozenset(
    {
        "logits_processor",
        "stopping_criteria",
        "prefix_allowed_tokens_fn",
        "synced_gpus",
        "assistant_model",
        "streamer",
        "negative_prompt_ids",
        "negative_prompt_attention_mask",
    }
)


def is_known(name: str) -> bool:
    return name in FIELDS or name in UNSUPPORTED or name in METADATA


def unknown_field(name: str) -> ArgumentError:
    """The error for a keyword that is no field, with the nearest name."""
    if name in GENERATE_ARGUMENTS:
        return ArgumentError("GenerationConfig", f"{name} is no field of it", remedy="Pass it to generate() instead.")
    near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.6)
    remedy = f"Did you mean {near[0]}?" if near else ""
    return ArgumentError("GenerationConfig", f"there is no field {name!r}", remedy=remedy)


def refuse_unsupported(name: str, value: Any) -> None:
    """UnsupportedError if a field that we do not have asks for something."""
    if value is None or any(type(value) is type(neutral) and value == neutral for neutral in UNSUPPORTED[name]):
        return
    if isinstance(value, Real) and any(isinstance(neutral, Real) and value == neutral for neutral in UNSUPPORTED[name]):
        return
    raise UnsupportedError(
        name, "is not supported", found=repr(value), remedy=UNSUPPORTED_REMEDIES.get(name, "Leave it out.")
    )


def checked(name: str, value: Any) -> Any:
    """The value in plain Python types, if it keeps the field's rule. ArgumentError, UnsupportedError."""
    field = FIELDS[name]
    if name not in ("compile_config", "stop_strings"):
        value = plain(value)
    if name == "pad_token_id" and value == -1:  # early Llama checkpoints' word for none
        value = None
    if value is None:
        return None
    if name == "cache_implementation" and value in OTHER_CACHES:
        raise UnsupportedError(name, f"{value!r} is not supported", remedy="Leave it out: the engine lays out its own.")
    if field.is_per_row(value):
        for place, row in enumerate(value):
            if row is not None and not field.rule.holds(row):
                raise ArgumentError(f"{name} row {place}", f"must be {field.rule.text}", found=repr(row))
        return list(value)
    if not field.rule.holds(value):
        raise ArgumentError(name, f"must be {field.rule.text}", found=repr(value))
    return value


def plain(value: Any) -> Any:
    """Arrays, tensors and numpy scalars as Python's own lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else list(map(plain, value))
    return value
