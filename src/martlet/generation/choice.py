"""Which processors and stops of a row a backend can do by itself. What it does is native/sampling's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from martlet.generation.backend import Choice
from martlet.generation.processors import MinLength, MinNewTokens, RepetitionPenalty, id_list
from martlet.generation.stopping import EosToken, MaxLength
from martlet.generation.warpers import NOT_CHOSEN, MinP, Temperature, TopK, TopP

ORDER = (RepetitionPenalty, MinLength, MinNewTokens, Temperature, TopK, TopP, MinP)  # of a backend


def read_choice(
    processors: Sequence[Any], stops: Iterable[Any], seed: int | None, end: int, num_logprobs: int | None = None
) -> tuple[Choice | None, bool]:
    """The processors as a `Choice`, or None if one is not of its kinds or order; and whether Python must look at each
    token for a stop's sake. `end`: ids the row may hold."""
    fields: dict[str, Any] = {"seed": seed, "num_logprobs": num_logprobs}
    places = [ORDER.index(type(one)) if type(one) in ORDER else -1 for one in processors]
    ends: list[int] = []
    longest, is_watched = end, False
    for stop in stops:
        if type(stop) is EosToken:
            ends += stop.eos_token_id
        elif type(stop) is MaxLength:
            longest = min(longest, stop.max_length)
        else:
            is_watched = True
    if -1 in places or places != sorted(set(places)):
        return None, is_watched
    for one in processors:
        told = _tell(one, ends)
        if told is None:
            return None, is_watched
        if "shortest" in told:
            told["shortest"] = max(told["shortest"], fields.get("shortest", 0))
        fields |= told
    return Choice(ends=tuple(sorted(set(ends))), longest=longest, **fields), is_watched


def _tell(one: Any, ends: list[int]) -> dict[str, Any] | None:
    match one:
        case RepetitionPenalty(prompt_ignore_length=None):
            return {"repetition_penalty": one.penalty}
        case MinLength() if set(id_list(one.eos_token_id)) == set(ends):
            return {"shortest": one.min_length}
        case MinNewTokens() if set(id_list(one.eos_token_id)) == set(ends):
            return {"shortest": one.prompt_length_to_skip + one.min_new_tokens}
        case Temperature():
            return {"temperature": one.temperature}
        case TopK(filter_value=value, min_tokens_to_keep=1) if value == NOT_CHOSEN:
            return {"top_k": one.top_k}
        case TopP(filter_value=value, min_tokens_to_keep=1) if value == NOT_CHOSEN:
            return {"top_p": one.top_p}
        case MinP(filter_value=value, min_tokens_to_keep=1) if value == NOT_CHOSEN:
            return {"min_p": one.min_p}
    return None
