"""The processors that shape a row's scores before a token is chosen, and the order they run in. Those of sampling are
in warpers.py, Hugging Face's classes for all of them in adapters.py."""

# T tokens of the row so far, V vocabulary

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError, GenerationError
from martlet.generation.backend import Floats, Ids
from martlet.generation.warpers import (
    NOT_CHOSEN,
    Epsilon,
    Eta,
    MinP,
    Temperature,
    TopH,
    TopK,
    TopP,
    Typical,
    check_number,
    log_softmax,
)

if TYPE_CHECKING:
    from martlet.generation.config import GenerationConfig

LARGEST = np.float32(np.finfo(np.float32).max)


class Processor(Protocol):
    """Shapes one row's scores: `ids` int64 `(T,)`, prompt included; `scores` float32 `(V,)`, which it may write on."""

    def __call__(self, ids: Ids, scores: Floats, /) -> Floats: ...


def id_list(ids: Any) -> list[int]:
    """One id, a list, an array or a tensor of them, as a list."""
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    return [int(one) for one in ids] if isinstance(ids, list | tuple | set | range) else [int(ids)]


def leave_out(scores: Floats, ids: Sequence[int] | NDArray[np.int64]) -> Floats:
    """Ids outside the vocabulary are nothing to leave out."""
    array = np.asarray(ids, dtype=np.int64)
    scores[array[(array >= 0) & (array < scores.size)]] = NOT_CHOSEN
    return scores


def force(scores: Floats, ids: Sequence[int]) -> Floats:
    """Only `ids` can be chosen."""
    if wrong := [one for one in ids if not 0 <= one < scores.size]:
        raise ArgumentError("forced tokens", f"ids must be from 0 to {scores.size - 1}", found=wrong)
    scores.fill(NOT_CHOSEN)
    scores[ids] = 0.0
    return scores


@dataclass(slots=True)
class SequenceBias:
    """Adds each sequence's bias to the score of its last token, where the row ends with the tokens before it."""

    sequence_bias: Any
    subject: str = "sequence_bias"  # what errors call it
    _groups: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given: Any = self.sequence_bias
        pairs = given.items() if isinstance(given, Mapping) else given
        merged = {tuple(id_list(list(ids))): float(bias) for ids, bias in pairs}
        if not merged or not all(merged) or min(map(min, merged)) < 0:
            raise ArgumentError(self.subject, "must give each sequence of token ids a bias", found=repr(given))
        self.sequence_bias = merged
        self._groups = []  # (tokens before the last (N, length - 1), last tokens (N,), biases (N,)) for each length
        for length in sorted(set(map(len, merged))):
            some = [ids for ids in merged if len(ids) == length]
            array = np.array(some, dtype=np.int64)
            biases = np.array([merged[ids] for ids in some], dtype=np.float32)
            self._groups.append((array[:, :-1], array[:, -1], biases))

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        for before, last, biases in self._groups:
            if (highest := int(last.max())) >= scores.size:
                raise ArgumentError(self.subject, f"ids must be from 0 to {scores.size - 1}", found=highest)
            length = before.shape[1]
            if length == 0:
                scores[last] += biases
            elif length <= ids.size:
                applies = (before == ids[ids.size - length :]).all(axis=1)
                np.add.at(scores, last[applies], biases[applies])
        return scores


def bad_words(bad_words_ids: Sequence[Sequence[int]], eos_token_id: Any = None) -> SequenceBias | None:
    """Leaves out each word's last token after the tokens before it; an end of sequence alone is no bad word."""
    if not isinstance(bad_words_ids, list | tuple) or not bad_words_ids:
        raise ArgumentError("bad_words_ids", "must be a list of lists of token ids", found=repr(bad_words_ids))
    ends = [] if eos_token_id is None else id_list(eos_token_id)
    words = [tuple(word) for word in bad_words_ids if not (len(word) == 1 and word[0] in ends)]
    return SequenceBias(dict.fromkeys(words, NOT_CHOSEN), "bad_words_ids") if words else None


@dataclass(slots=True)
class RepetitionPenalty:
    """Makes the row's own tokens less likely: positive scores are divided, negative multiplied (Keskar et al. 2019,
    https://arxiv.org/abs/1909.05858). The first `prompt_ignore_length` tokens do not count."""

    penalty: float
    prompt_ignore_length: int | None = None

    def __post_init__(self) -> None:
        check_number("repetition_penalty", self.penalty, "greater than 0", self.penalty > 0)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return penalize(scores, ids[self.prompt_ignore_length or 0 :], self.penalty)


def penalize(scores: Floats, ids: Ids, penalty: float) -> Floats:
    ids = ids[ids < scores.size]
    some = scores[ids]
    scores[ids] = np.where(some < 0, some * np.float32(penalty), some / np.float32(penalty))
    return scores


@dataclass(slots=True)
class EncoderRepetitionPenalty:
    """Makes the prompt's tokens likelier: a repetition penalty of 1 / `penalty` over the prompt."""

    penalty: float
    encoder_input_ids: Ids

    def __post_init__(self) -> None:
        check_number("encoder_repetition_penalty", self.penalty, "greater than 0", self.penalty > 0)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return penalize(scores, self.encoder_input_ids, 1 / self.penalty)


@dataclass(slots=True)
class NoRepeatNGram:
    """Leaves out tokens that would complete an n-gram already in the row."""

    ngram_size: int

    def __post_init__(self) -> None:
        check_ngram_size(self.ngram_size)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return leave_out(scores, completions(ids, ids, self.ngram_size))


@dataclass(slots=True)
class EncoderNoRepeatNGram:
    """Leaves out tokens that would complete an n-gram of the prompt."""

    encoder_ngram_size: int
    encoder_input_ids: Ids

    def __post_init__(self) -> None:
        check_ngram_size(self.encoder_ngram_size)

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return leave_out(scores, completions(ids, self.encoder_input_ids, self.encoder_ngram_size))


def check_ngram_size(size: Any) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ArgumentError("no_repeat_ngram_size", "must be an integer of at least 1", found=repr(size))


def completions(ids: Ids, source: Ids, size: int) -> NDArray[np.int64]:
    """What followed, in `source`, the last `size - 1` tokens of `ids`."""
    if ids.size < size - 1 or source.size < size:
        return np.empty(0, dtype=np.int64)
    num_windows = source.size - size + 1
    matches = np.ones(num_windows, dtype=bool)
    for offset in range(size - 1):
        matches &= source[offset : offset + num_windows] == ids[ids.size - size + 1 + offset]
    return source[size - 1 :][matches]


@dataclass(slots=True)
class MinLength:
    """No end before the row is `min_length` long, prompt included."""

    min_length: int
    eos_token_id: Any

    def __post_init__(self) -> None:
        if isinstance(self.min_length, bool) or not isinstance(self.min_length, int) or self.min_length < 0:
            raise ArgumentError("min_length", "must be an integer of at least 0", found=repr(self.min_length))

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return leave_out(scores, id_list(self.eos_token_id)) if ids.size < self.min_length else scores


@dataclass(slots=True)
class MinNewTokens:
    """No end before `min_new_tokens` tokens after the prompt."""

    prompt_length_to_skip: int
    min_new_tokens: int
    eos_token_id: Any

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        is_early = ids.size - self.prompt_length_to_skip < self.min_new_tokens
        return leave_out(scores, id_list(self.eos_token_id)) if is_early else scores


@dataclass(slots=True)
class AllowedTokens:
    """Only what `prefix_allowed_tokens_fn(row, ids)` lists. If all of it was ruled out before, it counts as equally
    likely, but with beams (`num_beams` > 1), where other beams may do better."""

    prefix_allowed_tokens_fn: Callable[[int, Any], Any]
    num_beams: int = 1
    row: int = 0

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        listed = self.prefix_allowed_tokens_fn(self.row, as_torch(ids))
        try:
            allowed = np.array(id_list(listed), dtype=np.int64)
        except (TypeError, ValueError) as error:
            raise GenerationError(
                f"prefix_allowed_tokens_fn, row {self.row}, position {ids.size}",
                "must return a list of token ids",
                found=repr(listed),
            ) from error
        if not allowed.size:
            raise GenerationError(
                f"prefix_allowed_tokens_fn, row {self.row}, position {ids.size}",
                "must allow at least one token",
                found="an empty list",
            )
        if int(allowed.min()) < 0 or int(allowed.max()) >= scores.size:
            raise GenerationError(
                f"prefix_allowed_tokens_fn, row {self.row}, position {ids.size}",
                f"ids must be from 0 to {scores.size - 1}",
                found=[int(one) for one in allowed if not 0 <= one < scores.size][:5],
            )
        some = scores[allowed]
        if self.num_beams == 1 and some.max() == NOT_CHOSEN:
            some = np.zeros_like(some)
        scores.fill(NOT_CHOSEN)
        scores[allowed] = some
        return scores


@dataclass(slots=True)
class ForcedBOS:
    """The first token after a prompt of one token is `bos_token_id`."""

    bos_token_id: int

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return force(scores, [self.bos_token_id]) if ids.size == 1 else scores


@dataclass(slots=True)
class ForcedEOS:
    """The last token of a row of `max_length`, prompt included, is one of `eos_token_id`."""

    max_length: int
    eos_token_id: Any

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return force(scores, id_list(self.eos_token_id)) if ids.size == self.max_length - 1 else scores


@dataclass(slots=True)
class RemoveInvalid:
    """NaN becomes 0, infinities the largest numbers there are."""

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return np.nan_to_num(scores, copy=False, nan=0.0, posinf=float(LARGEST), neginf=-float(LARGEST))


@dataclass(slots=True)
class ExponentialDecay:
    """From `start` tokens after the prompt on, the ends of sequence gain |score| * (factor ** excess - 1)."""

    exponential_decay_length_penalty: tuple[int, float]
    eos_token_id: Any
    input_ids_seq_length: int

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        start, factor = self.exponential_decay_length_penalty
        excess = ids.size - (start + self.input_ids_seq_length)
        if excess <= 0:
            return scores
        ends = [one for one in id_list(self.eos_token_id) if 0 <= one < scores.size]
        some = scores[ends].astype(np.float64)
        with np.errstate(over="ignore"):
            grown = min(float(np.power(np.float64(factor), excess)) - 1, float(LARGEST))
            gain = np.where(np.isfinite(some), np.abs(np.nan_to_num(some)) * grown, 0.0)
        scores[ends] = np.clip(some + gain, None, float(LARGEST)).astype(np.float32)
        return scores


@dataclass(slots=True)
class Suppress:
    """Leaves out the tokens everywhere."""

    suppress_tokens: Any

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return leave_out(scores, id_list(self.suppress_tokens))


@dataclass(slots=True)
class SuppressAtBegin:
    """Leaves out the tokens where the row is `begin_index` long."""

    begin_suppress_tokens: Any
    begin_index: int

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return leave_out(scores, id_list(self.begin_suppress_tokens)) if ids.size == self.begin_index else scores


@dataclass(slots=True)
class Normalize:
    """Makes the scores log probabilities."""

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        return log_softmax(scores)


def guide(scores: Floats, unconditional_scores: Floats, scale: float) -> Floats:
    """Classifier-free guidance (https://arxiv.org/abs/2306.17806): log probabilities moved `scale` times as far from
    the unconditional ones. Both float32 `(V,)`, unnormalized; a scale of 1 leaves the scores' log probabilities."""
    logs = log_softmax(scores)
    if scale == 1:
        return logs
    unconditional = log_softmax(unconditional_scores)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.float32(scale) * (logs - unconditional) + unconditional, dtype=np.float32)


@cache
def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def as_torch(array: NDArray[Any]) -> Any:
    """The array as a tensor over the same memory, or itself where torch is not installed."""
    if not has_torch():
        return array
    import torch

    return torch.from_numpy(array if array.flags.writeable else array.copy())


@dataclass(slots=True)
class FromTorch:
    """One of Hugging Face's logits processors, called with tensors `(1, T)` and `(1, V)` over the row's memory."""

    wrapped: Callable[..., Any]

    def __call__(self, ids: Ids, scores: Floats) -> Floats:
        result = self.wrapped(as_torch(ids[None]), as_torch(scores[None]))
        if hasattr(result, "detach"):
            result = result.detach().cpu().float().numpy()
        array = np.asarray(result, dtype=np.float32)
        if array.shape != (1, scores.size):
            raise ArgumentError(
                type(self.wrapped).__name__, f"must return scores of the shape (1, {scores.size})", found=array.shape
            )
        return np.array(array[0])  # a copy: the processor may keep its tensor, and later ones write on ours


def from_torch_processor(fn: Callable[..., Any]) -> Processor:
    """A Hugging Face-style processor, `fn(input_ids (1, T), scores (1, V)) -> (1, V)`, as one of ours. It gets tensors
    if torch is installed, else arrays; a wrong shape out of it is an ArgumentError. One that says `takes_numpy` works
    on arrays `(T,)`, `(V,)` and is one of ours as it is."""
    return fn if isinstance(fn, FromTorch) or getattr(fn, "takes_numpy", False) else FromTorch(fn)


def build_processors(
    config: GenerationConfig,
    *,
    prompt_length: int,
    prompt_ids: Ids,
    eos_token_ids: Sequence[int],
    prefix_allowed_tokens_fn: Callable[[int, Any], Any] | None = None,
    row: int = 0,
    extra: Sequence[Processor] = (),
) -> list[Processor]:
    """What shapes the scores of prompt `row`, in Hugging Face's order. `config` is the row's (`config.row`).

    `extra` come after the rules and before sampling's warpers; one of the same Hugging Face class as a built one takes
    its place. Guidance is the loop's.
    """
    prompt_ids = np.asarray(prompt_ids, dtype=np.int64)
    named = list(_rules(config, prompt_length, prompt_ids, list(eos_token_ids), prefix_allowed_tokens_fn, row))
    shape = _merge(named, extra)
    if config.do_sample:
        shape += _warpers(config, len(eos_token_ids))
    if config.renormalize_logits:
        shape.append(Normalize())
    return shape


def _rules(
    config: GenerationConfig,
    prompt_length: int,
    prompt_ids: Ids,
    eos_ids: list[int],
    allowed_fn: Callable[[int, Any], Any] | None,
    row: int,
) -> Iterator[tuple[str, Processor]]:
    """The processors before the caller's, each with the name of its Hugging Face class."""
    if config.sequence_bias is not None:
        yield "SequenceBiasLogitsProcessor", SequenceBias(config.sequence_bias)
    if config.encoder_repetition_penalty not in (None, 1.0):
        penalty = EncoderRepetitionPenalty(config.encoder_repetition_penalty, prompt_ids)
        yield "EncoderRepetitionPenaltyLogitsProcessor", penalty
    if config.repetition_penalty not in (None, 1.0):
        yield "RepetitionPenaltyLogitsProcessor", RepetitionPenalty(config.repetition_penalty)
    if config.no_repeat_ngram_size:
        yield "NoRepeatNGramLogitsProcessor", NoRepeatNGram(config.no_repeat_ngram_size)
    if size := config.encoder_no_repeat_ngram_size:
        yield "EncoderNoRepeatNGramLogitsProcessor", EncoderNoRepeatNGram(size, prompt_ids)
    if config.bad_words_ids is not None and (words := bad_words(config.bad_words_ids, eos_ids)) is not None:
        yield "NoBadWordsLogitsProcessor", words
    if config.min_length and config.min_new_tokens is None and eos_ids:
        yield "MinLengthLogitsProcessor", MinLength(config.min_length, eos_ids)
    if config.min_new_tokens and eos_ids:
        least = MinNewTokens(prompt_length, config.min_new_tokens, eos_ids)
        yield "MinNewTokensLengthLogitsProcessor", least
    if allowed_fn is not None:
        yield "PrefixConstrainedLogitsProcessor", AllowedTokens(allowed_fn, config.num_beams, row)
    if config.forced_bos_token_id is not None:
        yield "ForcedBOSTokenLogitsProcessor", ForcedBOS(config.forced_bos_token_id)
    if config.forced_eos_token_id is not None and (end := _end(config, prompt_length)) is not None:
        yield "ForcedEOSTokenLogitsProcessor", ForcedEOS(end, config.forced_eos_token_id)
    if config.remove_invalid_values:
        yield "InfNanRemoveLogitsProcessor", RemoveInvalid()
    if (decay := config.exponential_decay_length_penalty) is not None:
        if not eos_ids:
            raise ArgumentError("exponential_decay_length_penalty", "needs an eos_token_id to make likelier")
        yield "ExponentialDecayLengthPenalty", ExponentialDecay(decay, eos_ids, prompt_length)
    if config.suppress_tokens is not None:
        yield "SuppressTokensLogitsProcessor", Suppress(config.suppress_tokens)
    if config.begin_suppress_tokens is not None:
        is_forced = prompt_length <= 1 and config.forced_bos_token_id is not None
        begin = SuppressAtBegin(config.begin_suppress_tokens, prompt_length + is_forced)
        yield "SuppressTokensAtBeginLogitsProcessor", begin


def _end(config: GenerationConfig, prompt_length: int) -> int | None:
    """How long the row may get, prompt included."""
    if config.max_new_tokens is not None:
        return int(prompt_length + config.max_new_tokens)
    return None if config.max_length is None else int(config.max_length)


def _merge(named: Sequence[tuple[str, Processor]], extra: Sequence[Processor]) -> list[Processor]:
    given: dict[str, Processor] = {}
    for one in extra:
        given.setdefault(type(getattr(one, "wrapped", one)).__name__, one)
    merged = [given.get(name, one) for name, one in named]
    return merged + [one for one in extra if not any(one is kept for kept in merged)]


def _warpers(config: GenerationConfig, num_eos: int) -> list[Processor]:
    # A beam must have something to go on with when every end of sequence is kept.
    keep = max(num_eos, 1) + 1 if config.num_beams > 1 else 1
    warpers: list[Processor] = []
    if config.temperature not in (None, 1.0):
        warpers.append(Temperature(config.temperature))
    if config.top_h is not None:
        warpers.append(TopH(config.top_h))
    if config.top_k:
        warpers.append(TopK(config.top_k, min_tokens_to_keep=keep))
    if config.top_p is not None and config.top_p < 1:
        warpers.append(TopP(config.top_p, min_tokens_to_keep=keep))
    if config.min_p is not None:
        warpers.append(MinP(config.min_p, min_tokens_to_keep=keep))
    if config.typical_p is not None and config.typical_p < 1:
        warpers.append(Typical(config.typical_p, min_tokens_to_keep=keep))
    if config.epsilon_cutoff:
        warpers.append(Epsilon(config.epsilon_cutoff, min_tokens_to_keep=keep))
    if config.eta_cutoff:
        warpers.append(Eta(config.eta_cutoff, min_tokens_to_keep=keep))
    return warpers
