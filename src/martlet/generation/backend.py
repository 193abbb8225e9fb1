"""What generation asks of a model: the two protocols that the torch modules and the native engine implement."""

# B rows of one step, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(slots=True)
class StepOutput:
    """What one ragged step gave.

    `logits` is float32 and the caller's to write on: `(B, V)` for "last", `(total tokens, V)` with rows end to end for
    "all". `hidden_states[b][i]` is `(tokens, hidden)`: the embeddings, then every layer, the last after the final norm.
    `attentions[b][layer]` is `(heads, tokens, length of the row)`.
    """

    logits: Floats
    hidden_states: list[list[Any]] | None = None
    attentions: list[list[Any]] | None = None


class Session(Protocol):
    """Rows, each a token sequence whose keys and values are kept. A row's logits never depend on other rows."""

    def add(self) -> int:
        """A new, empty row."""
        ...

    def fork(self, row: int) -> int:
        """A new row with the same past."""
        ...

    def truncate(self, row: int, length: int) -> None:
        """Forgets the tokens from position `length` on."""
        ...

    def release(self, row: int) -> None: ...

    def length(self, row: int) -> int: ...

    def step(
        self,
        batch: Sequence[tuple[int, Sequence[int]]],
        *,
        logits: Literal["last", "all"] = "last",
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> StepOutput:
        """Feeds each `(row, its next tokens)` at once."""
        ...

    def close(self) -> None: ...


class Sizes(Protocol):
    """The two numbers of an `Arch` that generation reads."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_position_embeddings(self) -> int: ...


class Backend(Protocol):
    """A model that can be generated from."""

    @property
    def arch(self) -> Sizes: ...

    def open_session(self, *, traces: bool = False) -> Session:
        """Rows to step through; `traces`: hidden states or attentions will be asked for."""
        ...
