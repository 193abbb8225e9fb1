"""What a pipeline may be called on: a prompt, many, or a stream of them; told apart by what they hold, read lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal, TypeVar

from martlet.errors import ArgumentError

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation: dicts of role and content."""

    messages: list[dict[str, Any]]

    @property
    def ends_with_assistant(self) -> bool:
        return bool(self.messages[-1]["role"] == "assistant")


Prompt = str | Chat


class KeyDataset:
    """One column of a dataset: `dataset[i][key]`."""

    def __init__(self, dataset: Any, key: str) -> None:
        self.dataset, self.key = dataset, key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index][self.key]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Prompts in order. `open` begins them: anew for a dataset, where it stands for an iterator."""

    kind: Literal["one", "list", "dataset", "iterator"]
    open: Callable[[], Iterator[Prompt]]
    length: int | None  # None where only the end will tell


class Answers:
    """The answers to a dataset, in its order, each made when it is asked for; every `iter` begins anew.

    `len` is the dataset's; TypeError where it has none.
    """

    def __init__(self, begin: Callable[[], Iterator[Any]], length: int | None) -> None:
        self._begin, self._length = begin, length
        self._running: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        self._running = self._begin()
        return self._running

    def __next__(self) -> Any:
        if self._running is None:
            self._running = self._begin()
        return next(self._running)

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("the dataset has no length")
        return self._length


def read_inputs(inputs: Any) -> Inputs:
    """Tells a prompt (a string, or a chat: messages with role and content) from lists, datasets and iterators of them.

    Of an iterator the first element is taken at once, for messages make one chat. ArgumentError for anything else.
    """
    if isinstance(inputs, str | Chat):
        return _one(inputs)
    if isinstance(inputs, list | tuple):
        if inputs and is_message(inputs[0]):
            return _one(read_chat(inputs))
        prompts = [read_prompt(item, f"input {place}") for place, item in enumerate(inputs)]
        return Inputs("list", lambda: iter(prompts), len(prompts))
    if isinstance(inputs, Mapping | bytes) or not (hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__")):
        remedy = "A chat is a list of messages." if is_message(inputs) else ""
        if isinstance(inputs, Mapping) and not remedy:
            remedy = "Pass one of its values." if inputs else ""
        raise ArgumentError(
            "text-generation pipeline",
            "needs a string, a chat, a list of either, a dataset or an iterator",
            found=type(inputs).__name__,
            remedy=remedy,
        )
    if isinstance(inputs, Iterator):
        return _iterator(inputs)
    length = len(inputs) if hasattr(inputs, "__len__") else None
    return Inputs("dataset", lambda: _numbered(_rows(inputs)), length)


def read_prompt(item: Any, place: str) -> Prompt:
    """A string, a chat, or a dataset's row of one column that holds either. ArgumentError names the place."""
    if isinstance(item, str | Chat):
        return item
    if isinstance(item, list | tuple) and item and is_message(item[0]):
        return read_chat(item, place)
    if isinstance(item, Mapping) and not is_message(item):
        if len(item) == 1:
            return read_prompt(next(iter(item.values())), place)
        raise ArgumentError(
            place,
            "a row of several columns does not say which to read",
            found=", ".join(map(repr, item)) or "no column",
            remedy="Pass KeyDataset(dataset, column).",
        )
    remedy = "A chat is a list of messages." if is_message(item) else ""
    if not remedy and hasattr(item, "shape"):
        remedy = "Token ids go to model.generate."
    raise ArgumentError(
        place, "must be a string or a chat (a list of messages)", found=type(item).__name__, remedy=remedy
    )


def read_chat(messages: Iterable[Any], place: str = "chat") -> Chat:
    """A chat whose every message has a role, and content or tool calls."""
    read = list(messages)
    for number, message in enumerate(read):
        if not is_message(message) and not (isinstance(message, Mapping) and {"role", "tool_calls"} <= set(message)):
            found = f"keys {', '.join(map(repr, message))}" if isinstance(message, Mapping) else type(message).__name__
            raise ArgumentError(f"{place}, message {number}", "must be a dict with role and content", found=found)
    return Chat(read)


def is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value and "content" in value


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last of what is left; no item is taken before its list is asked for."""
    running = iter(items)
    while batch := list(islice(running, size)):
        yield batch


def _one(prompt: Prompt) -> Inputs:
    return Inputs("one", lambda: iter([prompt]), 1)


def _iterator(inputs: Iterator[Any]) -> Inputs:
    first = list(islice(inputs, 1))
    if first and is_message(first[0]):
        return _one(read_chat(chain(first, inputs)))
    if not first:
        return Inputs("list", lambda: iter(()), 0)
    prompts = _numbered(chain(first, inputs))
    return Inputs("iterator", lambda: prompts, None)


def _numbered(items: Iterable[Any]) -> Iterator[Prompt]:
    for place, item in enumerate(items):
        yield read_prompt(item, f"input {place}")


def _rows(dataset: Any) -> Iterator[Any]:
    """A dataset's rows: by iteration where it has one, else by index."""
    if hasattr(dataset, "__iter__"):
        return iter(dataset)
    if hasattr(dataset, "__len__"):
        return (dataset[index] for index in range(len(dataset)))
    return iter(dataset)  # by index, until IndexError
