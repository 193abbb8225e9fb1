"""What generation asks of a model: the two protocols that the torch modules and the native engine implement."""

# B rows of one step, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

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


@dataclass(frozen=True, slots=True)
class Choice:
    """How a row's next token is chosen, where a backend can do it by itself: what processors and stops of these kinds,
    in this order, do. `longest` and `shortest` count ids of the whole row; `ends` are the ids that end it."""

    seed: int | None = None  # None: greedy
    repetition_penalty: float = 1.0
    shortest: int = 0
    temperature: float = 1.0
    top_k: int = 0  # 0, as 1 for top_p and 0 for min_p: all
    top_p: float = 1.0
    min_p: float = 0.0
    ends: tuple[int, ...] = ()
    longest: int = 0
    num_logprobs: int | None = None  # None: log probabilities are not told


class Chosen(NamedTuple):
    """A row's next token, or -1 and why there is none: "not finite" or "nothing left". Log probabilities are the
    model's own, before processors: the token's, and the likeliest ids with theirs."""

    token: int
    failure: str = ""
    logprobs: tuple[float, list[tuple[int, float]]] | None = None


class Chooser(Protocol):
    """A row's choice inside a backend. It knows the row's ids, and learns each that it chooses."""

    def choose(self, logits_V: Floats, length: int) -> Chosen:
        """The token after `length` ids, from logits that it may write on."""
        ...


class Session(Protocol):
    """Rows, each a token sequence whose keys and values are kept. A row's logits never depend on other rows."""

    @property
    def shares_prefixes(self) -> bool:
        """Whether a row forked from another's beginning gives the very numbers it would give alone."""
        ...

    @property
    def tokens_together(self) -> int:
        """How many tokens are worth feeding at once; more cost nothing if fed apart. 0: any number."""
        ...

    @property
    def is_limited(self) -> bool:
        """Whether memory for keys and values has a limit of its own."""
        ...

    def add(self, ids: Ids | None = None) -> int:
        """A new row: empty, or holding as much of the beginning of `ids` as is still at hand, never all."""
        ...

    def fits(self, lengths: Sequence[int], batch: Sequence[tuple[int, int]] = ()) -> bool:
        """Whether memory allows new rows of these lengths, and rows of `batch` to grow by so many tokens."""
        ...

    def wait(self, lengths: Sequence[int]) -> bool:
        """Waits a moment for others who hold memory, so that new rows of these lengths may fit; False where that is
        in vain."""
        ...

    def chooser(self, choice: Choice, stream: int, ids: Ids) -> Chooser | None:
        """Someone to choose the tokens of a row with these ids; None where the backend leaves that to the loop."""
        ...

    def advance(
        self,
        batch: Sequence[tuple[int, Sequence[int]]],
        choosers: Sequence[Any],
        max_steps: int,
        on_step: Callable[[list[Chosen]], bool] | None = None,
    ) -> list[list[Chosen]]:
        """Feeds each `(row, its next tokens)`, then what its chooser chose, until `max_steps` were made, a row has
        ended or the next step would not fit; each step's choices. The last ones are not fed. `on_step` is told the
        choices of a step before the next one begins, and says whether it shall."""
        ...

    def fork(self, row: int) -> int:
        """A new row with the same past."""
        ...

    def truncate(self, row: int, length: int) -> None:
        """Forgets the tokens from position `length` on."""
        ...

    def release(self, row: int, *, keep: bool = False) -> None:
        """Ends a row. `keep`: a later row may begin like it, so what it holds is given up last."""
        ...

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
