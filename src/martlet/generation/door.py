"""Padded tensors, arrays and lists in, ragged rows out of them; and results back in the kind that came in."""

# B prompts, T padded width, R running rows (sequences or beams), V vocabulary

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from martlet.errors import ArgumentError, EmptyPromptError, PromptTooLongError, TokenRangeError
from martlet.generation.backend import Ids
from martlet.generation.config import GenerationConfig
from martlet.generation.outputs import GenerateOutput, Records, RowResult, as_array
from martlet.generation.settings import DEFAULT_NEW_TOKENS, eos_ids

Kind = Literal["torch", "numpy", "lists"]


@dataclass(slots=True)
class Prompts:
    """The prompts of one call, without their padding, and how they were given."""

    rows: list[Ids]
    given: list[Ids]  # each row as the caller wrote it, padding included
    starts: list[int]  # where each row's first real token stands in the padded width
    width: int
    kind: Kind
    device: Any = None

    def keep_last(self, place: int, num_tokens: int) -> None:
        """Drops a row's first tokens. The results still begin with the row as given."""
        num_dropped = len(self.rows[place]) - num_tokens
        if num_dropped > 0:
            self.rows[place] = self.rows[place][num_dropped:]
            self.starts[place] += num_dropped

    def pack_sequences(self, results: Sequence[RowResult], pad_id: int) -> Any:
        """Each prompt as given, then its new ids: `(B, T + longest)` right-padded, or a list a row for lists."""
        sequences = [np.append(self.given[result.prompt], result.new_ids) for result in results]
        if self.kind == "lists":
            return [ids.astype(np.int64).tolist() for ids in sequences]
        return self.convert(pad_right(sequences, pad_id))

    def pack_vectors(self, steps: Sequence[Mapping[int, NDArray[Any]]], num_running: int) -> tuple[Any, ...]:
        """One `(R, V)` a step; zeros where a row had ended."""
        packed = []
        for kept in steps:
            some = next(iter(kept.values()))
            array = np.zeros((num_running, *some.shape), dtype=some.dtype)
            for row, vector in kept.items():
                array[row] = vector
            packed.append(self.convert(array))
        return tuple(packed)

    def pack_states(self, steps: Sequence[Mapping[int, list[Any]]], num_running: int) -> tuple[tuple[Any, ...], ...]:
        """`[step][layer]` of `(R, tokens, hidden)`: the padded prompt first, then one token a step."""
        packed = []
        for step, kept in enumerate(steps):
            layers = []
            for layer in range(len(next(iter(kept.values())))):
                some = next(iter(kept.values()))[layer]
                num_tokens = self.width if step == 0 else 1
                array = np.zeros((num_running, num_tokens, some.shape[-1]), dtype=some.dtype)
                for row, states in kept.items():
                    start = self._start(row, num_running) if step == 0 else 0
                    array[row, start : start + len(states[layer])] = states[layer]
                layers.append(self.convert(array))
            packed.append(tuple(layers))
        return tuple(packed)

    def pack_attentions(
        self, steps: Sequence[Mapping[int, list[Any]]], num_running: int
    ) -> tuple[tuple[Any, ...], ...]:
        """`[step][layer]` of `(R, heads, tokens, T + step)`: zeros at and from padding."""
        packed = []
        for step, kept in enumerate(steps):
            layers = []
            for layer in range(len(next(iter(kept.values())))):
                some = next(iter(kept.values()))[layer]
                num_tokens = self.width if step == 0 else 1
                array = np.zeros((num_running, some.shape[0], num_tokens, self.width + step), dtype=some.dtype)
                for row, attentions in kept.items():
                    start = self._start(row, num_running)
                    attended = attentions[layer]
                    num_prompt = attended.shape[2] - step
                    tokens = slice(start, start + num_prompt) if step == 0 else slice(None)
                    array[row, :, tokens, start : start + num_prompt] = attended[..., :num_prompt]
                    array[row, :, tokens, self.width :] = attended[..., num_prompt:]
                layers.append(self.convert(array))
            packed.append(tuple(layers))
        return tuple(packed)

    def convert(self, array: NDArray[Any], *, on_cpu: bool = False) -> Any:
        """The array as what the prompts were: a tensor, on their device or `on_cpu`, or numpy (for lists too)."""
        if self.kind != "torch":
            return array
        import torch

        return torch.from_numpy(array).to("cpu" if on_cpu else self.device)

    def _start(self, running_row: int, num_running: int) -> int:
        return self.starts[running_row // (num_running // len(self.rows))]


def read_prompts(
    inputs: Any, attention_mask: Any = None, *, pad_id: int | None = None, eos_ids: Sequence[int] = (), name: str
) -> Prompts:
    """Rows of ids from a tensor or array `(B, T)` or `(T,)`, a list of ids, or a list of such rows.

    `attention_mask` has 1 at real tokens, which must be together, and 0 at padding on either side. Without a mask, rows
    lose the `pad_id`s they begin and end with, unless that id is also an end of sequence and may be meant.
    ArgumentError, EmptyPromptError.
    """
    kind = _kind(inputs, name)
    given = _rows(inputs, kind, name)
    if not given:
        raise EmptyPromptError(name, "there must be at least one row", found="none")
    if attention_mask is not None:
        spans = _spans_of_mask(attention_mask, given, name)
    elif pad_id is not None and pad_id not in eos_ids:
        spans = [_span(ids_T != pad_id) for ids_T in given]
    else:
        spans = [(0, len(ids_T)) for ids_T in given]
    for place, (start, end) in enumerate(spans):
        if start == end:
            found = "an empty row" if not len(given[place]) else f"{len(given[place])} ids, all padding"
            raise EmptyPromptError(
                f"{name} row {place}",
                "a prompt must have at least one token",
                found=found,
                remedy="Leave the row out, or begin it with the tokenizer's BOS token.",
            )
    width = max(map(len, given))
    if kind == "lists":  # of unequal length: states are laid out as if padded on the left
        starts = [start + width - len(ids_T) for (start, _), ids_T in zip(spans, given, strict=True)]
    else:
        starts = [start for start, _ in spans]
    rows = [ids_T[start:end] for (start, end), ids_T in zip(spans, given, strict=True)]
    return Prompts(rows, given, starts, width, kind, getattr(inputs, "device", None) if kind == "torch" else None)


def check_ids(rows: Sequence[Ids], vocab_size: int, name: str) -> None:
    """TokenRangeError for an id that the model has no embedding for."""
    for place, ids_T in enumerate(rows):
        wrong = np.flatnonzero((ids_T < 0) | (ids_T >= vocab_size))
        if len(wrong):
            raise TokenRangeError(
                f"{name} row {place}, position {int(wrong[0])}",
                f"ids must be from 0 to {vocab_size - 1} for a vocabulary of {vocab_size}",
                found=int(ids_T[wrong[0]]),
                remedy="Is the tokenizer the model's own?",
            )


def check_lengths(rows: Sequence[Ids], context: int, name: str) -> None:
    """PromptTooLongError for a row that the model's context cannot hold."""
    for place, ids_T in enumerate(rows):
        if len(ids_T) > context:
            raise PromptTooLongError(
                f"{name} row {place}",
                f"a prompt must fit the model's context of {context} tokens",
                found=f"{len(ids_T)} tokens",
                remedy="Shorten it, or pass truncate_prompt=True to keep its last tokens.",
            )


def check_callables(name: str, given: Any) -> None:
    """ArgumentError for anything but a list of functions, or None."""
    if given is None:
        return
    if not isinstance(given, Sequence):
        raise ArgumentError(name, "must be a list", found=type(given).__name__, remedy=f"Pass {name}=[...].")
    for place, each in enumerate(given):
        if not callable(each):
            raise ArgumentError(f"{name} {place}", "must be a function", found=type(each).__name__)


def check_call(**given: Any) -> None:
    """ArgumentError for what is neither None nor a function."""
    for name, value in given.items():
        if value is not None and not callable(value):
            raise ArgumentError(name, "must be a function", found=type(value).__name__)


def check_streamer(streamer: Any) -> None:
    """ArgumentError for what cannot be streamed to."""
    if streamer is not None and not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
        raise ArgumentError("streamer", "must have the methods put and end", found=type(streamer).__name__)


def pad_right(rows: Sequence[NDArray[Any]], value: int) -> Ids:
    """`(rows, longest)`, filled up with `value`."""
    packed = np.full((len(rows), max(map(len, rows), default=0)), value, dtype=np.int64)
    for place, row in enumerate(rows):
        packed[place, : len(row)] = row
    return packed


def _kind(inputs: Any, name: str) -> Kind:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(inputs, torch.Tensor):
        return "torch"
    if isinstance(inputs, np.ndarray):
        return "numpy"
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
        return "lists"
    remedy = f"Pass **{name}, as in generate(**tokenizer(text, return_tensors='pt'))." if _is_mapping(inputs) else ""
    remedy = "Text goes through a tokenizer first." if isinstance(inputs, str) else remedy
    raise ArgumentError(
        name, "must be a tensor, an array, a list of ids or a list of rows", found=type(inputs).__name__, remedy=remedy
    )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) or (hasattr(value, "keys") and hasattr(value, "__getitem__"))


def _rows(inputs: Any, kind: Kind, name: str) -> list[Ids]:
    if kind == "lists":
        if all(isinstance(each, int | np.integer) for each in inputs) and len(inputs):
            inputs = [inputs]
        return [_integers(_row_array(row, name), f"{name} row {place}") for place, row in enumerate(inputs)]
    array = inputs.detach().cpu().numpy() if kind == "torch" else inputs
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise ArgumentError(name, "must have the shape (rows, tokens)", found=tuple(array.shape))
    return list(_integers(array, name))


def _row_array(row: Any, name: str) -> NDArray[Any]:
    if isinstance(row, str):
        raise ArgumentError(name, "must hold token ids", found="text", remedy="Text goes through a tokenizer first.")
    try:
        array = as_array(row) if hasattr(row, "detach") else np.asarray(row)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ArgumentError(name, "each row must be a flat list of ids", found=type(row).__name__) from error
    if array.ndim != 1:
        raise ArgumentError(name, "each row must be a flat list of ids", found=f"{array.ndim} dimensions")
    return array.astype(np.int64) if array.size == 0 else array


def _integers(array: NDArray[Any], name: str) -> Ids:
    if array.dtype.kind not in "iu":
        raise ArgumentError(name, "must hold integer token ids", found=f"values of type {array.dtype}")
    return array.astype(np.int64)


def _spans_of_mask(attention_mask: Any, given: Sequence[Ids], name: str) -> list[tuple[int, int]]:
    kind = _kind(attention_mask, "attention_mask")
    if kind == "lists":
        nested = bool(len(attention_mask)) and isinstance(attention_mask[0], Sequence | np.ndarray)
        try:
            masks = [np.asarray(row) for row in (attention_mask if nested else [attention_mask])]
        except ValueError as error:  # lists in lists, of different lengths
            raise ArgumentError("attention_mask", "each row must be a flat list of 1 and 0") from error
    else:
        array = attention_mask.detach().cpu().numpy() if kind == "torch" else attention_mask
        masks = list(array[None] if array.ndim == 1 else array)
    if [mask.shape for mask in masks] != [ids_T.shape for ids_T in given]:
        raise ArgumentError(
            "attention_mask",
            f"must have one number for each id of {name}, in rows of {_lengths(given)}",
            found=f"rows of {_lengths(masks)}" if masks else "no rows",
        )
    spans = []
    for place, mask in enumerate(masks):
        if not np.isin(mask, (0, 1)).all():
            raise ArgumentError(
                f"attention_mask row {place}", "must be 1 at tokens and 0 at padding", found=np.unique(mask).tolist()
            )
        is_real = mask.astype(bool)
        start, end = _span(is_real)
        if not is_real[start:end].all():
            hole = start + int(np.flatnonzero(~is_real[start:end])[0])
            raise ArgumentError(
                f"attention_mask row {place}",
                "must have its ones together, with padding only at the ends",
                found=f"a zero at position {hole} between ones",
                remedy="Take the masked tokens out of the row.",
            )
        spans.append((start, end))
    return spans


def _lengths(rows: Sequence[NDArray[Any]]) -> str:
    """The rows' lengths, or shapes where they are not flat, in words."""
    known = [str(row.shape[0]) if row.ndim == 1 else str(row.shape) for row in rows]
    return ", ".join(known if len(known) <= 8 else [*known[:8], "..."])


def _span(is_real_T: NDArray[np.bool_]) -> tuple[int, int]:
    """From the first true place to after the last; empty if there is none."""
    places = np.flatnonzero(is_real_T)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def pack_output(prompts: Prompts, results: list[RowResult], records: Records, config: GenerationConfig) -> Any:
    ends = eos_ids(config)
    pad_id = config.pad_token_id if config.pad_token_id is not None else ends[0] if ends else 0
    sequences = prompts.pack_sequences(results, pad_id)
    if not config.return_dict_in_generate:
        return sequences
    has_beams = config.num_beams > 1
    num_running = len(prompts.rows) * (config.num_beams if has_beams else config.num_return_sequences)
    output = GenerateOutput(
        sequences,
        finish_reasons=[result.reason for result in results],
        num_new_tokens=[len(result.new_ids) for result in results],
    )
    if records.keeps_scores:
        output.scores = prompts.pack_vectors(records.scores, num_running)
    if records.keeps_logits:
        output.logits = prompts.pack_vectors(records.logits, num_running)
    if records.keeps_hidden_states:
        output.hidden_states = prompts.pack_states(records.hidden_states, num_running)
    if records.keeps_attentions:
        output.attentions = prompts.pack_attentions(records.attentions, num_running)
    if has_beams:
        if records.keeps_scores:
            scores = np.array([result.score for result in results], dtype=np.float32)
            output.sequences_scores = prompts.convert(scores)
        chosen = [np.array(result.beam_indices) for result in results]
        output.beam_indices = prompts.convert(pad_right(chosen, -1))
    return output


def truncate_prompts(prompts: Prompts, config: GenerationConfig, context: int) -> None:
    for place, ids_T in enumerate(prompts.rows):
        row = config.row(place, len(prompts.rows))
        num_new = row.max_new_tokens
        if num_new is None:
            num_new = DEFAULT_NEW_TOKENS if row.max_length is None else 1
        if len(ids_T) + num_new > context:
            prompts.keep_last(place, max(context - num_new, context // 2, 1))


def read_negative(negative: Sequence[Sequence[int] | Ids] | None, num_rows: int) -> list[Ids] | None:
    """One row a prompt; a single one serves all."""
    if negative is None:
        return None
    rows = read_prompts([np.asarray(ids) for ids in negative], name="negative prompts").rows
    if len(rows) not in (1, num_rows):
        raise ArgumentError(
            "negative_prompt_ids",
            f"must have one row, or one for each of {num_rows} prompts",
            found=f"{len(rows)} rows",
        )
    return rows * num_rows if len(rows) == 1 else rows


def open_stream(streamer: Any, prompts: Prompts, config: GenerationConfig) -> Callable[[int, int], None]:
    """Puts the prompt `(1, T)`; returns what puts the tokens `(1,)` after it."""
    num_rows = len(prompts.rows) * config.num_return_sequences
    if num_rows > 1:
        raise ArgumentError("streamer", "takes one sequence", found=num_rows, remedy="Generate them one at a time.")
    streamer.put(prompts.convert(prompts.rows[0][None], on_cpu=True))
    return lambda row, token: streamer.put(prompts.convert(np.array([token]), on_cpu=True))


def read_inputs(model: Any, inputs: Any, input_ids: Any, mask: Any, config: GenerationConfig) -> Prompts:
    if inputs is not None and input_ids is not None:
        raise ArgumentError("generate", "takes inputs or input_ids, not both")
    given = input_ids if inputs is None else inputs
    if given is not None:
        return read_prompts(given, mask, pad_id=config.pad_token_id, eos_ids=eos_ids(config), name="input_ids")
    if config.bos_token_id is None:
        raise EmptyPromptError(
            "generate", "needs input_ids, for the model has no bos_token_id to begin with", remedy="Pass input_ids."
        )
    bos: Any = np.array([[config.bos_token_id]])
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        bos = torch.from_numpy(bos).to(model.device)
    return read_prompts(bos, mask, name="input_ids")
