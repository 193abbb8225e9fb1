"""Hugging Face's classes of logits processors and stopping criteria, for code that builds or subclasses them. The rules
themselves are processors.py's, warpers.py's and stopping.py's; these carry them to batches of tensors."""

# B rows, T tokens of each, V vocabulary

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from martlet.errors import ArgumentError
from martlet.generation import processors as rules
from martlet.generation import stopping as stops
from martlet.generation import warpers
from martlet.generation.outputs import as_array


class LogitsProcessor:
    """Shapes scores before a token is chosen: `(input_ids (B, T), scores (B, V)) -> scores (B, V)`, tensors or arrays.
    To be subclassed; `generate` calls it a row at a time."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(input_ids, scores)")


class LogitsProcessorList(list[Callable[..., Any]]):
    """Logits processors, applied one after another."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        for process in self:
            scores = process(input_ids, scores, **kwargs)
        return scores


class RowRule(LogitsProcessor):
    """A processor whose `rule` shapes each row alone. Constructor arguments and attributes are the rule's; `device` is
    taken and of no account. What it is given stays as it is."""

    rule: ClassVar[Callable[..., rules.Processor]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "rule" in vars(cls):
            cls.__signature__ = inspect.signature(cls.rule)  # type: ignore[attr-defined]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        keywords.pop("device", None)
        self.processor = _build(type(self).__name__, type(self).rule, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "processor":
            raise AttributeError(name)
        return getattr(self.processor, name)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        ids_BT, scores_BV = as_array(input_ids).astype(np.int64, copy=False), np.array(as_array(scores), np.float32)
        for row in range(len(scores_BV)):
            scores_BV[row] = self.processor_of(row, len(scores_BV))(ids_BT[row], scores_BV[row])
        if isinstance(scores, np.ndarray):
            return scores_BV
        import torch

        return torch.from_numpy(scores_BV).to(device=scores.device, dtype=scores.dtype)

    def processor_of(self, row: int, num_rows: int) -> rules.Processor:
        """The rule of one row of a batch."""
        processor: rules.Processor = self.processor
        return processor


class MinLengthLogitsProcessor(RowRule):
    rule = rules.MinLength


class MinNewTokensLengthLogitsProcessor(RowRule):
    rule = rules.MinNewTokens


class TemperatureLogitsWarper(RowRule):
    rule = warpers.Temperature


class TopKLogitsWarper(RowRule):
    rule = warpers.TopK


class TopPLogitsWarper(RowRule):
    rule = warpers.TopP


class TopHLogitsWarper(RowRule):
    rule = warpers.TopH


class MinPLogitsWarper(RowRule):
    rule = warpers.MinP


class TypicalLogitsWarper(RowRule):
    rule = warpers.Typical


class EpsilonLogitsWarper(RowRule):
    rule = warpers.Epsilon


class EtaLogitsWarper(RowRule):
    rule = warpers.Eta


class RepetitionPenaltyLogitsProcessor(RowRule):
    rule = rules.RepetitionPenalty


class NoRepeatNGramLogitsProcessor(RowRule):
    rule = rules.NoRepeatNGram


class SequenceBiasLogitsProcessor(RowRule):
    rule = rules.SequenceBias


class ForcedBOSTokenLogitsProcessor(RowRule):
    rule = rules.ForcedBOS


class ForcedEOSTokenLogitsProcessor(RowRule):
    rule = rules.ForcedEOS


class InfNanRemoveLogitsProcessor(RowRule):
    rule = rules.RemoveInvalid


class ExponentialDecayLengthPenalty(RowRule):
    rule = rules.ExponentialDecay


class LogitNormalization(RowRule):
    rule = rules.Normalize


class SuppressTokensLogitsProcessor(RowRule):
    rule = rules.Suppress


class SuppressTokensAtBeginLogitsProcessor(RowRule):
    rule = rules.SuppressAtBegin


def _bad_words(bad_words_ids: Any, eos_token_id: Any = None) -> rules.Processor:
    words = rules.bad_words(bad_words_ids, eos_token_id)
    return (lambda ids, scores: scores) if words is None else words


class NoBadWordsLogitsProcessor(RowRule):
    rule = _bad_words


class _OfPrompts(RowRule):
    """A rule over the prompts `encoder_input_ids` `(prompts, T)`; a prompt's rows are together."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        prompts_BT = np.atleast_2d(as_array(self.processor.encoder_input_ids)).astype(np.int64)
        given = {**dict(zip(inspect.signature(type(self).rule).parameters, arguments, strict=False)), **keywords}
        given.pop("device", None)
        self.processors = [type(self).rule(**{**given, "encoder_input_ids": ids_T}) for ids_T in prompts_BT]

    def processor_of(self, row: int, num_rows: int) -> rules.Processor:
        num_prompts = len(self.processors)
        if num_rows % num_prompts:
            raise ArgumentError(type(self).__name__, f"needs its {num_prompts} prompts' rows together", found=num_rows)
        return self.processors[row * num_prompts // num_rows]


class EncoderRepetitionPenaltyLogitsProcessor(_OfPrompts):
    rule = rules.EncoderRepetitionPenalty


class EncoderNoRepeatNGramLogitsProcessor(_OfPrompts):
    rule = rules.EncoderNoRepeatNGram


class PrefixConstrainedLogitsProcessor(RowRule):
    rule = rules.AllowedTokens

    def processor_of(self, row: int, num_rows: int) -> rules.Processor:
        """Calls the function with the prompt's number: `num_beams` rows belong to one prompt."""
        mine: rules.AllowedTokens = self.processor
        return rules.AllowedTokens(mine.prefix_allowed_tokens_fn, mine.num_beams, row // mine.num_beams)


class StoppingCriteria:
    """Says which rows end: `(input_ids (B, T), scores) -> True or False, for each row`. To be subclassed; `generate`
    calls it a row at a time, with None for scores."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(input_ids, scores, **kwargs)")


class StoppingCriteriaList(list[Callable[..., Any]]):
    """Stopping criteria; a row ends when one says so."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        answers = [_as_bools(criterion(input_ids, scores, **kwargs), len(input_ids)) for criterion in self]
        return _like(np.logical_or.reduce(answers) if answers else np.zeros(len(input_ids), dtype=bool), input_ids)

    @property
    def max_length(self) -> int | None:
        """The length at which one of them ends every row, if one does."""
        return next((int(each.max_length) for each in self if isinstance(each, MaxLengthCriteria)), None)


class RowStop(StoppingCriteria):
    """A criterion that looks at each row alone, with the reason that its `stop` names."""

    stop: stops.Stop

    def __call__(self, input_ids: Any, scores: Any = None, **kwargs: Any) -> Any:
        ids_BT = as_array(input_ids).astype(np.int64, copy=False)
        return _like(np.array([self.stop(ids_T) is not None for ids_T in ids_BT], dtype=bool), input_ids)


class MaxLengthCriteria(RowStop):
    """Ends rows of `max_length` tokens, prompt included."""

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length, self.max_position_embeddings = max_length, max_position_embeddings
        self.stop = stops.MaxLength(max_length)


class MaxTimeCriteria(RowStop):
    """Ends rows `max_time` seconds after `initial_timestamp` of `time.time()`; None: after now."""

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp
        self.stop = stops.MaxTime(max_time, self.initial_timestamp, time.time)


class StopStringCriteria(RowStop):
    """Ends rows whose last token completes one of the strings."""

    def __init__(self, tokenizer: Any, stop_strings: str | list[str]) -> None:
        self.stop_strings = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings)
        self.stop = stops.StopString(tokenizer, list(self.stop_strings))


class EosTokenCriteria(RowStop):
    """Ends rows at any of the ids."""

    def __init__(self, eos_token_id: Any) -> None:
        self.eos_token_id = eos_token_id
        self.stop = stops.EosToken(eos_token_id)


def _build(name: str, rule: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    try:
        inspect.signature(rule).bind(*arguments, **keywords)
    except TypeError as problem:
        raise ArgumentError(name, str(problem), remedy=f"It takes {inspect.signature(rule)}.") from problem
    return rule(*arguments, **keywords)


def _as_bools(answer: Any, num_rows: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    array = np.asarray(answer.tolist() if hasattr(answer, "tolist") else answer, dtype=bool).reshape(-1)
    return np.broadcast_to(array, (num_rows,))


def _like(array: np.ndarray[Any, Any], given: Any) -> Any:
    """The array as a tensor on `given`'s device, if that is a tensor."""
    if isinstance(given, np.ndarray) or not hasattr(given, "device"):
        return array
    import torch

    return torch.from_numpy(array).to(given.device)
