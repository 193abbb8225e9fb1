"""What generation gives back: one ragged result a sequence, records of every step, and the padded form users index."""

# B sequences, R running rows, S steps, T tokens, V vocabulary

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.generation.backend import Floats


@dataclass(slots=True)
class RowResult:
    """One generated sequence.

    `reason` says why it ended: "eos", "length", "stop_string", "time", "criteria" (a stopping criterion of the
    caller's), "context" (the model's context is full), "cancelled", or "exhausted" (a beam that processors left no
    token for). `score` is a beam's length-penalized log probability; `beam_indices` says in which running beam of its
    prompt each new token was chosen. `logprobs`, if asked for, has for each new token the model's own log probability,
    before processors, and the likeliest ids with theirs.
    """

    prompt: int  # which prompt it continues
    prompt_ids: list[int]
    new_ids: list[int]
    reason: str
    score: float | None = None
    beam_indices: list[int] | None = None
    logprobs: list[tuple[float, list[tuple[int, float]]]] | None = None

    @property
    def ids(self) -> list[int]:
        """Prompt and continuation."""
        return self.prompt_ids + self.new_ids


@dataclass(slots=True)
class Records:
    """What a call was asked to keep of each step: for every running row (sequence, or beam) the scores that its next
    token was chosen from, the model's own logits, its hidden states and attentions."""

    keeps_scores: bool = False
    keeps_logits: bool = False
    keeps_hidden_states: bool = False
    keeps_attentions: bool = False
    scores: list[dict[int, Floats]] = field(default_factory=list)  # step -> running row -> (V,)
    logits: list[dict[int, Floats]] = field(default_factory=list)
    hidden_states: list[dict[int, list[Any]]] = field(default_factory=list)
    attentions: list[dict[int, list[Any]]] = field(default_factory=list)

    @property
    def keeps_states(self) -> bool:
        """Whether every token of a prompt must be computed to be shown."""
        return self.keeps_hidden_states or self.keeps_attentions

    @property
    def keeps_any(self) -> bool:
        return self.keeps_scores or self.keeps_logits or self.keeps_states

    def put(
        self,
        step: int,
        row: int,
        *,
        scores: Floats | None = None,
        logits: Floats | None = None,
        hidden_states: list[Any] | None = None,
        attentions: list[Any] | None = None,
    ) -> None:
        """Keeps copies of what was asked for and leaves the rest."""
        if self.keeps_scores and scores is not None:
            _at(self.scores, step)[row] = np.array(scores, dtype=np.float32)
        if self.keeps_logits and logits is not None:
            _at(self.logits, step)[row] = np.array(logits, dtype=np.float32)
        if self.keeps_hidden_states and hidden_states is not None:
            _at(self.hidden_states, step)[row] = [as_array(layer).copy() for layer in hidden_states]
        if self.keeps_attentions and attentions is not None:
            _at(self.attentions, step)[row] = [as_array(layer).copy() for layer in attentions]


def open_records(config: Any) -> Records:
    """What a generation config asks to keep."""
    if not config.return_dict_in_generate:
        return Records()
    return Records(
        keeps_scores=bool(config.output_scores),
        keeps_logits=bool(config.output_logits),
        keeps_hidden_states=bool(config.output_hidden_states),
        keeps_attentions=bool(config.output_attentions),
    )


def _at(steps: list[dict[int, Any]], step: int) -> dict[int, Any]:
    while len(steps) <= step:
        steps.append({})
    return steps[step]


@dataclass
class GenerateOutput:
    """The padded result of `generate(..., return_dict_in_generate=True)`, read by name, key or place.

    `sequences` is `(B, longest)`; `scores` and `logits` hold one `(running rows, V)` a step, zeros for a row that had
    ended; `hidden_states[step][layer]` is `(running rows, tokens, hidden)` and `attentions[step][layer]`
    `(running rows, heads, tokens, length)`, the first step covering the prompt, zeros at padding. Running rows are the
    sequences, or with beam search all beams of all prompts. `finish_reasons` and `num_new_tokens` have one entry a
    sequence. Fields that were not asked for are None, and left out of keys and places.
    """

    sequences: Any
    sequences_scores: Any = None
    scores: tuple[Any, ...] | None = None
    logits: tuple[Any, ...] | None = None
    beam_indices: Any = None
    attentions: tuple[tuple[Any, ...], ...] | None = None
    hidden_states: tuple[tuple[Any, ...], ...] | None = None
    past_key_values: Any = None
    finish_reasons: list[str] | None = None
    num_new_tokens: list[int] | None = None

    def keys(self) -> list[str]:
        return [each.name for each in fields(self) if getattr(self, each.name) is not None]

    def values(self) -> list[Any]:
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.keys()]

    def get(self, name: str, default: Any = None) -> Any:
        return dict(self.items()).get(name, default)

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()


# Its names in type checks, where Hugging Face has a class a strategy.
GenerateDecoderOnlyOutput = GenerateBeamDecoderOnlyOutput = GenerateOutput


def compute_transition_scores(
    sequences: Any, scores: tuple[Any, ...], beam_indices: Any = None, normalize_logits: bool = False
) -> Any:
    """The score of each generated token, `(sequences, steps)`: its logit, or with `normalize_logits` its log
    probability, in `scores` of the running beam that `beam_indices` names. 0 after a sequence's end where
    `beam_indices` is -1. Tensors give a tensor, arrays an array.
    """
    stacked_SRV = np.stack([as_array(step) for step in scores])
    if normalize_logits:
        peaks = stacked_SRV.max(axis=-1, keepdims=True)
        stacked_SRV = stacked_SRV - peaks - np.log(np.exp(stacked_SRV - peaks).sum(axis=-1, keepdims=True))
    ids_BT = as_array(sequences)
    if beam_indices is None:
        num_steps = len(stacked_SRV)
        rows_BS = np.repeat(np.arange(len(ids_BT))[:, None], num_steps, axis=1)
    else:
        rows_BS = as_array(beam_indices)
        num_steps = int((rows_BS >= 0).sum(axis=1).max())
        rows_BS = rows_BS[:, :num_steps]
    tokens_BS = ids_BT[:, ids_BT.shape[1] - num_steps :]
    chosen_BS = stacked_SRV[np.arange(num_steps)[None], np.maximum(rows_BS, 0), tokens_BS]
    result = np.where(rows_BS < 0, np.float32(0.0), chosen_BS)
    if isinstance(sequences, np.ndarray):
        return result
    import torch

    return torch.from_numpy(result).to(sequences.device)


def as_array(value: Any) -> NDArray[Any]:
    """An array as it is; a tensor of any device as an array, float32 where numpy has no such floats."""
    if isinstance(value, np.ndarray):
        return value
    value = value.detach().cpu()
    if value.is_floating_point() and value.element_size() < 4:
        value = value.float()
    return np.asarray(value.numpy())
