"""Models small enough to reason about: one whose logits hash the whole row, one that wraps a Hugging Face model."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from martlet.generation.backend import StepOutput


@dataclass
class Calls:
    """What a session was asked: rows and tokens of every step."""

    steps: list[list[tuple[int, int]]] = field(default_factory=list)
    num_tokens: int = 0
    num_closed: int = 0
    num_live: int = 0
    most_live: int = 0


class WholeRowSession:
    """Keeps each row's ids; `logits_of(ids)` makes the logits after them, so any mixing of rows shows."""

    def __init__(self, logits_of: Any, calls: Calls, max_length: int) -> None:
        self.rows: dict[int, list[int]] = {}
        self.logits_of, self.calls, self.max_length = logits_of, calls, max_length
        self.next_row = 0

    def _new(self, ids: list[int]) -> int:
        self.next_row += 1
        self.rows[self.next_row] = ids
        self.calls.num_live += 1
        self.calls.most_live = max(self.calls.most_live, len(self.rows))
        return self.next_row

    shares_prefixes = False
    tokens_together = 0
    is_limited = False

    def add(self, ids=None) -> int:
        return self._new([])

    def fits(self, lengths, batch=()) -> bool:
        return True

    def wait(self, lengths) -> bool:
        return False

    def chooser(self, choice, stream, ids) -> None:
        return None

    def fork(self, row: int) -> int:
        return self._new(list(self.rows[row]))

    def truncate(self, row: int, length: int) -> None:
        assert length <= len(self.rows[row])
        del self.rows[row][length:]

    def release(self, row: int, *, keep: bool = False) -> None:
        del self.rows[row]
        self.calls.num_live -= 1

    def length(self, row: int) -> int:
        return len(self.rows[row])

    def step(self, batch, *, logits="last", hidden_states=False, attentions=False) -> StepOutput:
        assert len({row for row, _ in batch}) == len(batch), "a row twice in one step"
        self.calls.steps.append([(row, len(tokens)) for row, tokens in batch])
        out, hidden, attended = [], [], []
        for row, tokens in batch:
            assert len(tokens) > 0
            ids = self.rows[row]
            per_token = []
            for token in tokens:
                assert isinstance(token, int)
                ids.append(token)
                assert len(ids) <= self.max_length, "a token past the context"
                self.calls.num_tokens += 1
                if logits == "all" or len(per_token) == len(tokens) - 1:
                    per_token.append(self.logits_of(ids))
                else:
                    per_token.append(None)
            out.extend(per_token if logits == "all" else per_token[-1:])
            start = len(ids) - len(tokens)
            # two "layers" of width 3: position, id and layer
            hidden.append(
                [np.array([[at, ids[at], layer] for at in range(start, len(ids))], np.float32) for layer in range(2)]
            )
            attended.append([np.tril(np.ones((2, len(ids), len(ids)), np.float32))[:, start:] for _ in range(1)])
        return StepOutput(
            np.stack(out).astype(np.float32), hidden if hidden_states else None, attended if attentions else None
        )

    def close(self) -> None:
        self.calls.num_closed += 1


class WholeRowModel:
    """A backend whose next-token logits are any function of the row's ids."""

    def __init__(self, logits_of: Any, vocab_size: int = 29, max_length: int = 512, **generation: Any) -> None:
        self.arch = SimpleNamespace(vocab_size=vocab_size, max_position_embeddings=max_length)
        self.logits_of = logits_of
        self.calls = Calls()
        self.config: dict[str, Any] = {}
        self.generation_config = SimpleNamespace(**generation)

    def open_session(self, *, traces: bool = False) -> WholeRowSession:
        return WholeRowSession(self.logits_of, self.calls, self.arch.max_position_embeddings)


def hashed_logits(vocab_size: int = 29, salt: int = 0, sharpness: float = 3.0):
    """Logits that change with every id of the row and with their order."""

    def logits_of(ids: list[int]) -> np.ndarray:
        state = 1469598103 + salt
        for token in ids:
            state = ((state ^ (token + 1)) * 1099511628211) % 2**63
        return np.random.default_rng(state).normal(size=vocab_size).astype(np.float32) * sharpness

    return logits_of


def hashed_model(vocab_size: int = 29, salt: int = 0, **kwargs: Any) -> WholeRowModel:
    return WholeRowModel(hashed_logits(vocab_size, salt), vocab_size, **kwargs)


def plain_greedy(logits_of: Any, prompt: list[int], num_new: int, eos: tuple[int, ...] = ()) -> list[int]:
    """The slow, obvious reference."""
    ids = list(prompt)
    for _ in range(num_new):
        ids.append(int(np.argmax(logits_of(ids))))
        if ids[-1] in eos:
            break
    return ids[len(prompt) :]


class TorchSession(WholeRowSession):
    """Recomputes whole rows with a Hugging Face model: slow, and free of any cache of ours."""

    def __init__(self, hf_model: Any, calls: Calls, max_length: int) -> None:
        super().__init__(None, calls, max_length)
        self.hf_model = hf_model

    def step(self, batch, *, logits="last", hidden_states=False, attentions=False) -> StepOutput:
        import torch

        out, hidden, attended = [], [], []
        for row, tokens in batch:
            ids = self.rows[row]
            ids.extend(tokens)
            with torch.no_grad():
                given = self.hf_model(
                    torch.tensor([ids]), output_hidden_states=hidden_states, output_attentions=attentions
                )
            start = len(ids) - len(tokens)
            rows = given.logits[0].numpy()
            out.append(rows[start:] if logits == "all" else rows[-1:])
            if hidden_states:
                hidden.append([layer[0, start:].numpy() for layer in given.hidden_states])
            if attentions:
                attended.append([layer[0, :, start:].numpy() for layer in given.attentions])
        return StepOutput(
            np.concatenate(out).astype(np.float32), hidden if hidden_states else None, attended if attentions else None
        )


class TorchModel(WholeRowModel):
    """A Hugging Face model as a backend."""

    def __init__(self, hf_model: Any) -> None:
        super().__init__(None, hf_model.config.vocab_size, hf_model.config.max_position_embeddings)
        self.hf_model = hf_model

    def open_session(self, *, traces: bool = False) -> TorchSession:
        return TorchSession(self.hf_model, self.calls, self.arch.max_position_embeddings)
