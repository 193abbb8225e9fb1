"""Streamers: text shown, or handed to another thread or task, while `generate` is still at it. Ids to text is the
tokenizers' work."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from martlet.errors import ArgumentError

if TYPE_CHECKING:
    import asyncio

DECODE_ARGUMENTS = ("skip_special_tokens", "clean_up_tokenization_spaces")
REPLACEMENT = "\ufffd"  # how an incomplete character decodes


class Streamer(Protocol):
    """What `generate` asks of a streamer. A `fail(error)` beside these hears of an error in place of `end`."""

    def put(self, value: Any, /) -> None:
        """First the prompt's ids `(1, T)`, then each new id `(1,)`, as tensors if the prompt was one, else arrays."""
        ...

    def end(self) -> None: ...


class BaseStreamer:
    """What streamers of your own may be built on: `put` and `end` are to be defined."""

    def put(self, value: Any) -> None:
        """Takes ids; see `Streamer`."""
        raise NotImplementedError(f"{type(self).__name__} must define put(value)")

    def end(self) -> None:
        """Hears that there will be no more."""
        raise NotImplementedError(f"{type(self).__name__} must define end()")


class Detokenizer(Protocol):
    def put(self, token_id: int, /) -> str: ...

    def end(self) -> str: ...


class TextStreamer(BaseStreamer):
    """Prints text as it is generated, never half a character, and a newline at the end.

    `tokenizer` is ours, or any with a `decode`. `decode_kwargs` are `skip_special_tokens` and
    `clean_up_tokenization_spaces`. A subclass may override `on_finalized_text`. ArgumentError for more than one row.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        for name in decode_kwargs.keys() - set(DECODE_ARGUMENTS):
            known = "It takes skip_prompt, skip_special_tokens and clean_up_tokenization_spaces."
            raise ArgumentError(type(self).__name__, f"there is no argument {name!r}", remedy=known)
        self.tokenizer, self.skip_prompt, self.decode_kwargs = tokenizer, skip_prompt, decode_kwargs
        self.next_tokens_are_prompt = True
        self._detokenizer = open_detokenizer(tokenizer, decode_kwargs)

    def put(self, value: Any) -> None:
        """Takes ids `(T,)` or `(1, T)`, of which the first are the prompt."""
        ids = _read_ids(value)
        is_prompt, self.next_tokens_are_prompt = self.next_tokens_are_prompt, False
        if is_prompt and self.skip_prompt:
            return
        if text := "".join(map(self._detokenizer.put, ids)):
            self.on_finalized_text(text)

    def end(self) -> None:
        """Shows what was held back, and is ready for another prompt."""
        rest = self._detokenizer.end()
        self.next_tokens_are_prompt = True
        self.on_finalized_text(rest, stream_end=True)

    def fail(self, error: BaseException) -> None:
        """Ends the stream because of `error`, which `generate` raises."""
        self.end()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Prints the new text."""
        print(text, flush=True, end="\n" if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """An iterator over the text that `generate`, in another thread, gives; what fails there is raised here.

    `timeout` (seconds) bounds the wait for each piece, then `queue.Empty`; None waits as long as it takes. An error is
    raised once the text before it was read.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: queue.Queue[str | BaseException | None] = queue.Queue()
        self.stop_signal, self.timeout = None, timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queues the new text, and after the last of it the stop signal."""
        if text:
            self.text_queue.put(text)
        if stream_end:
            self.text_queue.put(self.stop_signal)

    def fail(self, error: BaseException) -> None:
        """Raises `error` in the reader, where `end` would stop it."""
        self._detokenizer.end()
        self.next_tokens_are_prompt = True
        self.text_queue.put(error)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        value = self.text_queue.get(timeout=self.timeout)
        if isinstance(value, BaseException):
            raise value
        if value is self.stop_signal:
            raise StopIteration
        return str(value)


class AsyncTextIteratorStreamer(TextStreamer):
    """An asynchronous iterator over the text that `generate`, in another thread, gives; what fails there is raised
    here. Make it inside a coroutine.

    `timeout` (seconds) bounds the wait for each piece, then `TimeoutError`; None waits as long as it takes.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        import asyncio  # a tenth of what the package takes to import

        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: asyncio.Queue[str | BaseException | None] = asyncio.Queue()
        self.stop_signal, self.timeout = None, timeout
        self.loop = asyncio.get_running_loop()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queues the new text, and after the last of it the stop signal."""
        if text:
            self.loop.call_soon_threadsafe(self.text_queue.put_nowait, text)
        if stream_end:
            self.loop.call_soon_threadsafe(self.text_queue.put_nowait, self.stop_signal)

    def fail(self, error: BaseException) -> None:
        """Raises `error` in the reader, where `end` would stop it; a reader whose loop is closed is gone."""
        self._detokenizer.end()
        self.next_tokens_are_prompt = True
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.text_queue.put_nowait, error)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        import asyncio

        async with asyncio.timeout(self.timeout):
            value = await self.text_queue.get()
        if isinstance(value, BaseException):
            raise value
        if value is self.stop_signal:
            raise StopAsyncIteration
        return str(value)


class DecodedStream:
    """The detokenizer of any tokenizer with a `decode`: what a growing window of ids decodes to, held back while its
    last character is incomplete. After a line's end the window begins anew with the id that ended it, lest the next
    be decoded as a text's first."""

    def __init__(self, tokenizer: Any, decode_kwargs: dict[str, Any]) -> None:
        self._tokenizer, self._decode_kwargs = tokenizer, decode_kwargs
        self._window: list[int] = []
        self._num_shown = 0  # characters of the window's text

    def put(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._decode()
        if text.endswith(REPLACEMENT):
            return ""
        piece = text[self._num_shown :]
        if text.endswith("\n"):
            self._window, text = self._window[-1:], self._decode(self._window[-1:])
        self._num_shown = len(text)
        return piece

    def end(self) -> str:
        piece = self._decode()[self._num_shown :] if self._window else ""
        self._window, self._num_shown = [], 0
        return piece

    def _decode(self, ids: list[int] | None = None) -> str:
        return str(self._tokenizer.decode(self._window if ids is None else ids, **self._decode_kwargs))


def open_detokenizer(tokenizer: Any, decode_kwargs: dict[str, Any]) -> Detokenizer:
    """What turns this tokenizer's ids into text one at a time."""
    from martlet.tokenizers.streaming import StreamDetokenizer
    from martlet.tokenizers.tokenizer import Tokenizer

    if isinstance(tokenizer, Tokenizer):
        return StreamDetokenizer(tokenizer, **decode_kwargs)
    if callable(getattr(tokenizer, "decode", None)):
        return DecodedStream(tokenizer, decode_kwargs)
    raise ArgumentError(
        "streamer",
        "needs a tokenizer, which has a decode method, as its first argument",
        found=type(tokenizer).__name__,
    )


def _read_ids(value: Any) -> list[int]:
    ids = value.tolist() if hasattr(value, "tolist") else value
    ids = [ids] if isinstance(ids, int) else list(ids)
    if ids and isinstance(ids[0], list | tuple):
        if len(ids) > 1:
            raise ArgumentError("streamer", "takes one sequence", found=f"{len(ids)} rows")
        ids = ids[0]
    return [int(each) for each in ids]
