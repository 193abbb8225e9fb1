"""Who chooses a row's tokens inside the engine, many steps without Python: see native/sampling."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from martlet.engine.extension import native


class Chosen(NamedTuple):
    """A row's next token, or -1 and why there is none; the model's own log probabilities, if they are told."""

    token: int
    failure: str
    logprobs: tuple[float, list[tuple[int, float]]] | None


class EngineChooser:
    """A row's choice inside the engine; made of a `generation.backend.Choice`."""

    def __init__(self, choice: Any, stream: int, ids: NDArray[np.int64], vocab_size: int) -> None:
        seed = choice.seed or 0
        self.handle = native().Chooser(
            vocab_size,
            greedy=choice.seed is None,
            seed=(seed % 2**64, (seed >> 64) % 2**64),
            stream=stream,
            temperature=choice.temperature,
            top_k=min(choice.top_k, vocab_size),
            top_p=choice.top_p,
            min_p=choice.min_p,
            repetition_penalty=choice.repetition_penalty,
            ends=[end for end in choice.ends if 0 <= end < vocab_size],
            shortest=choice.shortest,
            longest=choice.longest,
            num_logprobs=-1 if choice.num_logprobs is None else choice.num_logprobs,
        )
        self.handle.learn(ids)

    def choose(self, logits_V: NDArray[np.float32], length: int) -> Chosen:
        return Chosen(*self.handle.choose(logits_V, length))
