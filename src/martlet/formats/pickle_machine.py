"""A pickle interpreter that can only build plain values: it imports nothing and calls nothing it was not handed.

It knows the opcodes that `torch.save` writes. The opcode pages are CPython's `pickletools`.
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from martlet.errors import PickleError

MAX_PROTOCOL = 5
MAX_STEPS = 5_000_000  # a tensor takes about 60
MAX_KEY = 1 << 32
_MARK: Final = object()


class Symbol:
    """A global that the pickle names and the reader allows; `build(*arguments)` if the pickle may call it."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any] | None = None) -> None:
        self.name, self.build = name, build

    def __repr__(self) -> str:
        return self.name


def brief(value: Any) -> str:
    """A short text of an unpickled value. Plain `repr` could be exponentially long: values may be nested and shared."""
    return reprlib.repr(value)


def _word(value: Any) -> str:
    return value[:200] if isinstance(value, str) else brief(value)


class PickleMachine:
    """Runs one pickle out of `data` from `position` on; `position` is behind it afterwards.

    `symbols` maps "module name" to what stands for it. PickleError for every other global, for opcodes torch does not
    write, and for damage. `load_persistent` gets the ids of torch's storages.
    """

    def __init__(
        self,
        data: memoryview,
        position: int,
        subject: str,
        symbols: Mapping[str, Symbol],
        load_persistent: Callable[[Any], Any],
    ) -> None:
        self.data, self.position, self.subject = data, position, subject
        self.symbols, self.load_persistent = symbols, load_persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def wrong(self, rule: str, found: object = None, remedy: str = "") -> PickleError:
        return PickleError(self.subject, rule, found=found, remedy=remedy)

    def run(self) -> Any:
        """The value of the pickle."""
        try:
            for _ in range(MAX_STEPS):
                opcode = self._take(1)[0]
                if opcode == ord("."):
                    break
                step = _STEPS.get(opcode)
                if step is None:
                    raise self.wrong(
                        "only the opcodes of torch.save are read", f"0x{opcode:02x} at {self.position - 1}"
                    )
                step(self)
            else:
                raise self.wrong(f"may take at most {MAX_STEPS} steps", f"more before byte {self.position}")
            value = self.stack.pop()
        except (IndexError, KeyError) as problem:
            raise self.wrong("is a damaged pickle", f"a missing value at byte {self.position}") from problem
        if self.stack:
            raise self.wrong("is a damaged pickle", f"{len(self.stack)} values left over")
        return value

    def _take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise self.wrong("is a damaged pickle", f"its end at byte {len(self.data)}", "Is the file truncated?")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _number(self, kind: str) -> Any:
        return struct.unpack(kind, self._take(struct.calcsize(kind)))[0]

    def _line(self) -> str:
        begin = self.position
        while self._take(1)[0] != 10:
            if self.position - begin > 1000:
                raise self.wrong("is a damaged pickle", f"an endless line at byte {begin}")
        return self._decode(self.data[begin : self.position - 1])

    def _decode(self, data: memoryview) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as problem:
            raise self.wrong("text must be UTF-8", f"damage before byte {self.position}") from problem

    def _push_text(self, length: int) -> None:
        self.stack.append(self._decode(self._take(length)))

    def _push_integer(self, length: int) -> None:
        self.stack.append(int.from_bytes(self._take(length), "little", signed=True))

    def _above_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise IndexError

    def _push_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise self.wrong("is a damaged pickle", f"items for a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise self.wrong("is a damaged pickle", f"keys and values for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # hashing nested tuples could exhaust the C stack, and large numbers can be chosen to collide
            if not isinstance(key, str) and not (isinstance(key, int) and -MAX_KEY < key < MAX_KEY):
                raise self.wrong("a key must be text or a small whole number", brief(key))
            target[key] = value

    def _set_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _symbol(self, module: Any, name: Any) -> None:
        full = f"{module} {name}" if isinstance(module, str) and isinstance(name, str) else ""
        if full not in self.symbols:
            raise self.wrong(
                "holds more than weights, and no code of it was run",
                f"the global {_word(module)}.{_word(name)}",
                "Save only the state dict, or use a safetensors file.",
            )
        self.stack.append(self.symbols[full])

    def _stack_symbol(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._symbol(module, name)

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Symbol) or function.build is None or not isinstance(arguments, tuple):
            raise self.wrong("holds more than weights, and no code of it was run", f"a call of {brief(function)}")
        try:
            self.stack.append(function.build(*arguments))
        except (TypeError, ValueError, OverflowError) as problem:
            if isinstance(problem, PickleError):
                raise
            raise self.wrong(f"{function.name} has other arguments", str(problem)[:200]) from problem

    def _build(self) -> None:
        # what torch puts on a state dict or a parameter: `_metadata`, which weights do not need
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise self.wrong(
                "holds more than weights, and no code of it was run", f"state for a {type(target).__name__}"
            )

    def _protocol(self) -> None:
        if (protocol := self._take(1)[0]) > MAX_PROTOCOL:
            raise self.wrong(f"the pickle protocol may be at most {MAX_PROTOCOL}", protocol)

    def _remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


_STEPS: dict[int, Callable[[PickleMachine], None]] = {
    0x80: PickleMachine._protocol,
    0x95: lambda m: (m._take(8), None)[1],  # FRAME: only a hint for buffering
    ord("("): lambda m: m.stack.append(_MARK),
    ord("0"): lambda m: (m.stack.pop(), None)[1],
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("J"): lambda m: m.stack.append(m._number("<i")),
    ord("K"): lambda m: m.stack.append(m._number("<B")),
    ord("M"): lambda m: m.stack.append(m._number("<H")),
    0x8A: lambda m: m._push_integer(m._number("<B")),
    ord("G"): lambda m: m.stack.append(m._number(">d")),
    0x8C: lambda m: m._push_text(m._number("<B")),
    ord("X"): lambda m: m._push_text(m._number("<I")),
    0x8D: lambda m: m._push_text(m._number("<Q")),
    ord("U"): lambda m: m._push_text(m._number("<B")),  # a byte string of Python 2, which wrote names so
    ord("T"): lambda m: m._push_text(m._number("<I")),
    ord("]"): lambda m: m.stack.append([]),
    ord("}"): lambda m: m.stack.append({}),
    ord(")"): lambda m: m.stack.append(()),
    ord("t"): lambda m: m.stack.append(tuple(m._above_mark())),
    0x85: lambda m: m._push_tuple(1),
    0x86: lambda m: m._push_tuple(2),
    0x87: lambda m: m._push_tuple(3),
    ord("l"): lambda m: m.stack.append(m._above_mark()),
    ord("a"): lambda m: m._append([m.stack.pop()]),
    ord("e"): lambda m: m._append(m._above_mark()),
    ord("s"): PickleMachine._set_one,
    ord("u"): lambda m: m._set(m._above_mark()),
    ord("q"): lambda m: m._remember(m._number("<B")),
    ord("r"): lambda m: m._remember(m._number("<I")),
    0x94: lambda m: m._remember(len(m.memo)),
    ord("h"): lambda m: m.stack.append(m.memo[m._number("<B")]),
    ord("j"): lambda m: m.stack.append(m.memo[m._number("<I")]),
    ord("c"): lambda m: m._symbol(m._line(), m._line()),
    0x93: PickleMachine._stack_symbol,
    ord("R"): PickleMachine._reduce,
    ord("b"): PickleMachine._build,
    ord("Q"): lambda m: m.stack.append(m.load_persistent(m.stack.pop())),
}
