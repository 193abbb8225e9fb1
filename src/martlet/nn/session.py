"""The torch side of generation: rows whose keys and values are kept, stepped together, ragged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from martlet.nn.cache import RowCache
from martlet.nn.decoder import CausalLM, Trace
from martlet.nn.ragged import ragged_rows
from martlet.rope import turns_over


@dataclass(slots=True)
class StepOutput:
    """One step's logits, float32 `(rows, vocab)` or `(tokens, vocab)`, and what was traced, by row and layer."""

    logits: NDArray[np.float32]
    hidden_states: list[list[Any]] | None = None
    attentions: list[list[Any]] | None = None


@dataclass(slots=True)
class _Row:
    cache: RowCache
    ids: list[int] = field(default_factory=list)


class TorchSession:
    """Rows of one generation on a `CausalLM`. Row numbers are never reused."""

    shares_prefixes = False  # torch's products differ in the last bits with the number of rows
    tokens_together = 0
    is_limited = False

    def __init__(self, model: CausalLM) -> None:
        self.model = model
        self.ropes = {layer.rope for layer in model.arch.layers if layer.rope}
        self._rows: dict[int, _Row] = {}
        self._next = 0

    def add(self, ids: NDArray[np.int64] | None = None) -> int:
        """A new, empty row."""
        return self._keep(_Row(RowCache(self.model.arch.num_layers)))

    def fork(self, row: int) -> int:
        past = self._rows[row]
        return self._keep(_Row(past.cache.fork(), list(past.ids)))

    def truncate(self, row: int, length: int) -> None:
        kept = self._rows[row]
        before = len(kept.ids)
        del kept.ids[length:]
        if any(turns_over(rope, length, before) for rope in self.ropes):
            kept.cache = RowCache(self.model.arch.num_layers)  # its keys were turned for the longer row
        kept.cache.truncate(length)

    def release(self, row: int, *, keep: bool = False) -> None:
        del self._rows[row]

    def fits(self, lengths: Sequence[int], batch: Sequence[tuple[int, int]] = ()) -> bool:
        """There is no limit but the machine's."""
        return True

    def wait(self, lengths: Sequence[int]) -> bool:
        return False

    def chooser(self, choice: Any, stream: int, ids: NDArray[np.int64]) -> None:
        """The loop chooses."""

    def advance(self, batch: Any, choosers: Any, max_steps: int, on_step: Any = None) -> Any:
        raise NotImplementedError("a session without choosers takes steps")

    def length(self, row: int) -> int:
        return len(self._rows[row].ids)

    def close(self) -> None:
        self._rows.clear()

    @torch.inference_mode()
    def step(
        self,
        batch: Sequence[tuple[int, Sequence[int]]],
        *,
        logits: Literal["last", "all"] = "last",
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> StepOutput:
        """Feeds each `(row, its next tokens)`; returns the logits after each row's last token, or after every one."""
        rows = [self._rows[row] for row, _ in batch]
        fed = [self._tokens_to_feed(row, tokens) for row, (_, tokens) in zip(rows, batch, strict=True)]
        flat = torch.tensor([token for tokens in fed for token in tokens], dtype=torch.int64)
        device = self.model.model.embed_tokens.weight.device
        ragged = ragged_rows(tuple(len(t) for t in fed), tuple(row.cache.length for row in rows), device)
        trace = Trace([] if hidden_states else None, [] if attentions else None)
        out_TD = self.model.model.run(flat.to(device), ragged, [row.cache for row in rows], trace)
        # a row fed again from its start still answers for its new tokens alone
        spans = [(end - len(new), end) for (_, end), (_, new) in zip(ragged.spans, batch, strict=True)]
        if logits == "last":
            wanted = [end - 1 for _, end in spans]
        else:
            wanted = [place for start, end in spans for place in range(start, end)]
        scores = self.model.logits(out_TD[wanted] if len(wanted) < len(out_TD) else out_TD)
        result = StepOutput(scores.float().cpu().numpy())
        if trace.states is not None:
            result.hidden_states = [[state[start:end] for state in trace.states] for start, end in spans]
        if trace.attentions is not None:
            result.attentions = [
                [layer[index][:, -(end - start) :] for layer in trace.attentions]
                for index, (start, end) in enumerate(spans)
            ]
        return result

    def _tokens_to_feed(self, row: _Row, tokens: Sequence[int]) -> list[int]:
        before = len(row.ids)
        row.ids.extend(tokens)
        if before and any(turns_over(rope, before, len(row.ids)) for rope in self.ropes):
            row.cache = RowCache(self.model.arch.num_layers)
        return row.ids[row.cache.length :]

    def _keep(self, row: _Row) -> int:
        number = self._next
        self._rows[number] = row
        self._next += 1
        return number
