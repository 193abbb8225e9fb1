"""One call of a pipeline: its settings, prompt by prompt whatever the batches, and its prompts as ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from martlet.errors import ArgumentError, PromptTooLongError
from martlet.generation.config import GenerationConfig
from martlet.generation.fields import FIELDS
from martlet.generation.sampling import draw_seed
from martlet.pipelines.inputs import Prompt


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a pipeline, all its settings resolved."""

    options: dict[str, Any]
    config: GenerationConfig
    arguments: dict[str, Any]
    turned_off: dict[str, None]  # fields of the model's own config that this call unset
    num_prompts: int | None  # None for an iterator


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as `generate` gets it. `num_prompt` ids of a sequence are not its answer: none of an empty prompt."""

    prompt: Prompt
    ids: list[int]
    num_prompt: int
    num_prefix: int = 0  # tokens of the prefix, which a total length does not count


def cut_config(config: GenerationConfig, start: int, count: int, total: int | None) -> GenerationConfig:
    """The config of prompts `start` to `start + count`: of lists with one value a prompt, their part."""
    own: dict[str, Any] = {}
    for name, value, _ in config.describe():
        if not FIELDS[name].is_per_row(value):
            continue
        if (total is not None and len(value) != total) or len(value) < start + count:
            prompts = "each prompt" if total is None else f"each of {total} prompts"
            raise ArgumentError(name, f"must have one value for {prompts}", found=f"{len(value)} values")
        own[name] = list(value[start : start + count])
    return config.but("call", **own) if own else config


def with_seeds(config: GenerationConfig, num_rows: int, generator: Any) -> GenerationConfig:
    """A seed a prompt, so that what is drawn for it does not depend on its batch."""
    samples = any(config.do_sample) if isinstance(config.do_sample, list) else config.do_sample
    if not samples or isinstance(config.seed, list):
        return config
    if config.seed is not None:
        return config.but(config.origin("seed"), seed=[config.seed] * num_rows)
    return config.but("drawn", seed=[_draw(generator) for _ in range(num_rows)])


def _draw(generator: Any) -> int:
    """A seed: from a generator of torch's, numpy's or Python's, or from the one that `set_seed` resets."""
    if generator is None:
        return draw_seed()
    if isinstance(generator, np.random.Generator):
        return int(generator.integers(0, 2**63))
    if callable(getattr(generator, "getrandbits", None)):
        return int(generator.getrandbits(63))
    if callable(getattr(generator, "initial_seed", None)):
        import torch

        drawn = torch.randint(0, 2**63 - 1, (1,), generator=generator, device=generator.device)
        return int(drawn)
    raise ArgumentError("generator", "must be a torch, numpy or random generator", found=type(generator).__name__)


def count_prefixes(config: GenerationConfig, rows: Sequence[Encoded]) -> GenerationConfig:
    """Total lengths are those of a prompt without its prefix, so the prefix is added."""
    if not any(row.num_prefix for row in rows):
        return config
    own: dict[str, Any] = {}
    for place, row in enumerate(rows):
        settings = config.row(place, len(rows))
        for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            value = getattr(settings, total)
            if value and getattr(settings, new) is None:
                value += row.num_prefix
            own.setdefault(total, []).append(value)
    own = {name: values for name, values in own.items() if any(values)}
    rivals = {name: getattr(config, name) for name in ("max_new_tokens", "min_new_tokens")}
    return config.but("prefix", **own, **rivals) if own else config


def leave_room(ids: list[int], config: GenerationConfig, context: int, tokenizer: Any) -> list[int]:
    """The last ids of a prompt, as many as leave room for the new tokens."""
    num_new = config.max_new_tokens
    if num_new is None:
        num_new = (config.max_length or 0) - len(ids)
        if num_new < 0:
            raise ArgumentError(
                "handle_long_generation", "must know how many tokens are wanted", remedy="Set max_new_tokens."
            )
    limit = min(getattr(tokenizer, "model_max_length", None) or context, context)
    if len(ids) + num_new <= limit:
        return ids
    if num_new >= limit:
        raise PromptTooLongError(
            "handle_long_generation",
            f"{num_new} new tokens must leave room for a prompt in {limit} tokens",
            remedy="Lower max_new_tokens.",
        )
    return ids[num_new - limit :]
