"""How well engines predict a text, and how far their distributions are from those of float32."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from martlet.bench.run import Engine
from martlet.errors import ArgumentError, EmptyPromptError

# T tokens, V vocabulary
Logits = NDArray[np.float32]
ROWS = 32  # of logits, widened to float64 at a time


@dataclass(slots=True)
class Score:
    """Sums over the tokens of a text that follow another in their window."""

    tokens: int = 0
    surprise: float = 0.0  # nats
    divergence: float = 0.0  # nats from the reference
    agreements: int = 0  # places where the likeliest token is the reference's
    largest: float = 0.0  # divergence of one place

    @property
    def perplexity(self) -> float:
        return math.exp(self.surprise / self.tokens)

    @property
    def mean_divergence(self) -> float:
        return self.divergence / self.tokens

    def as_json(self, *, has_reference: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"tokens": self.tokens, "perplexity": self.perplexity}
        if has_reference:
            found |= {
                "mean_divergence": self.mean_divergence,
                "largest_divergence": self.largest,
                "same_likeliest": self.agreements / self.tokens,
            }
        return found


def add_window(score: Score, logits_TV: Logits, ids: Sequence[int], reference_TV: Logits | None = None) -> None:
    """Counts one window: logits of all its tokens, of which the last says nothing that is known.

    Divergence is Kullback and Leibler's, sum p_reference (log p_reference - log p), in nats, in float64.
    """
    following = np.asarray(ids[1:], np.int64)
    for begin in range(0, len(following), ROWS):
        end = min(begin + ROWS, len(following))
        log_p = log_softmax(logits_TV[begin:end])
        score.tokens += end - begin
        score.surprise -= float(log_p[np.arange(end - begin), following[begin:end]].sum())
        if reference_TV is None:
            continue
        log_q = log_softmax(reference_TV[begin:end])
        apart = (np.exp(log_q) * (log_q - log_p)).sum(1)
        score.divergence += float(apart.sum())
        score.largest = max(score.largest, float(apart.max()))
        score.agreements += int((log_p.argmax(1) == log_q.argmax(1)).sum())


def log_softmax(logits_TV: Logits) -> NDArray[np.float64]:
    wide = logits_TV.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(1, keepdims=True))
    return wide


def read_windows(tokenizer: Any, path: str | os.PathLike[str], num_tokens: int, window: int) -> list[list[int]]:
    """The first `num_tokens` of a text file, without special tokens, in windows that each begin anew."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(str(path), "must be UTF-8 text", found=f"damage at byte {error.start}") from error
    except OSError as error:
        raise ArgumentError(str(path), "cannot be read", found=error.strerror) from error
    ids = list(tokenizer.encode(text[: num_tokens * 16], add_special_tokens=False))[:num_tokens]
    found = [ids[begin : begin + window] for begin in range(0, len(ids), window)]
    found = [each for each in found if len(each) > 1]
    if not found:
        raise EmptyPromptError(str(path), "must have at least two tokens", found=len(ids))
    return found


class TorchReference:
    """The torch backend in float32."""

    def __init__(self, model: str) -> None:
        from martlet.auto import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(model, backend="torch", dtype="float32").eval()

    def logits(self, ids: Sequence[int]) -> Logits:
        import torch

        with torch.inference_mode():
            found: Logits = self.model(torch.tensor([list(ids)])).logits[0].float().numpy()
        return found


def score_text(
    engines: Mapping[str, Engine],
    windows: Sequence[Sequence[int]],
    reference: Callable[[Sequence[int]], Logits] | None = None,
    *,
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, Score]:
    """Each engine's score on the windows, one window at a time; "reference" is the reference's own."""
    scores = {name: Score() for name in engines}
    if reference is not None:
        scores["reference"] = Score()
    with tempfile.TemporaryDirectory(prefix="martlet-bench-") as folder:
        for number, ids in enumerate(windows):
            said(f"window {number + 1} of {len(windows)}")
            true_TV = None if reference is None else reference(ids)
            if true_TV is not None:
                add_window(scores["reference"], true_TV, ids, true_TV)
            for name, logits_TV in _logits(engines, ids, Path(folder) / "logits"):
                add_window(scores[name], logits_TV, ids, true_TV)
    return scores


def _logits(engines: Mapping[str, Engine], ids: Sequence[int], path: Path) -> Iterator[tuple[str, Logits]]:
    for name, engine in engines.items():
        shape = engine.ask(do="logits", ids=list(ids), path=str(path))["shape"]
        yield name, np.fromfile(path, np.float32).reshape(shape)
