"""One answer: tokens to text as they come, Ctrl-C between them, and what it cost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from martlet.generation.streamers import TextStreamer

Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one prompt. `first_token_s` is None where no token came, or where beams gave all at once."""

    text: str
    num_prompt_tokens: int
    num_new_tokens: int
    reason: str  # generation's word: "eos", "length", "cancelled", ...
    first_token_s: float | None
    generate_s: float

    @property
    def tokens_per_second(self) -> float | None:
        """New tokens after the first, a second."""
        if self.first_token_s is None or self.num_new_tokens < 2:
            return None
        return (self.num_new_tokens - 1) / max(self.generate_s - self.first_token_s, 1e-9)


class Interruption:
    """While open, Ctrl-C makes `is_wanted()` true if there is something that `may_wait()` for its end; else, and when
    it comes again, it raises KeyboardInterrupt."""

    def __init__(self, may_wait: Callable[[], bool]) -> None:
        self._may_wait = may_wait
        self._was_heard = False
        self._previous: Any = None

    def is_wanted(self) -> bool:
        return self._was_heard

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._was_heard or not self._may_wait():
            raise KeyboardInterrupt
        self._was_heard = True

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._previous)


class Pieces(TextStreamer):
    """Passes on each piece of new text, and counts and times the tokens."""

    def __init__(self, tokenizer: Any, show: Show) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show
        self.text = ""
        self.num_prompt_tokens = self.num_new_tokens = 0
        self.first_s: float | None = None

    def put(self, value: Any) -> None:
        if self.next_tokens_are_prompt:
            self.num_prompt_tokens = len(value.reshape(-1))
        else:
            self.num_new_tokens += 1
            self.first_s = time.monotonic() if self.first_s is None else self.first_s
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.text += text
            self._show(text)


def answer(model: Any, tokenizer: Any, ids: Sequence[int], show: Show, *, truncates: bool = False) -> Answer:
    """Continues `ids` under the model's generation config. `show` gets each piece of text, whole characters only.

    Ctrl-C ends it with the reason "cancelled": between two tokens, or at once while there is none, as a long prompt may
    take its time, or when it comes again. GenerationError and its kinds.
    """
    pieces = Pieces(tokenizer, show)
    has_beams = model.generation_config.num_beams > 1  # they change until the end, so that nothing can be streamed
    started_s = time.monotonic()
    with Interruption(lambda: pieces.num_new_tokens > 0) as interruption:
        try:
            output = model.generate(
                [list(ids)],
                streamer=None if has_beams else pieces,
                stop=interruption.is_wanted,
                tokenizer=tokenizer,
                truncate_prompt=truncates,
                return_dict_in_generate=True,
            )
            reason, num_new = output.finish_reasons[0], output.num_new_tokens[0]
        except KeyboardInterrupt:
            reason, num_new = "cancelled", pieces.num_new_tokens
        generate_s = time.monotonic() - started_s
    if has_beams and reason != "cancelled":
        new_ids = output.sequences[0][len(output.sequences[0]) - num_new :]
        pieces.on_finalized_text(tokenizer.decode(new_ids, skip_special_tokens=True))
    return Answer(
        text=pieces.text,
        num_prompt_tokens=pieces.num_prompt_tokens or len(ids),
        num_new_tokens=num_new,
        reason=reason,
        first_token_s=None if pieces.first_s is None else pieces.first_s - started_s,
        generate_s=generate_s,
    )
