"""The sandboxed Jinja environment that chat templates run in, with bounds on what a template may cost."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils
from jinja2.parser import Parser

from martlet.errors import ChatTemplateError, MartletError

MAX_STEPS = 2_000_000  # passes through loop bodies in one rendering
MAX_CHARS = 50_000_000  # of any text a template makes
_MAX_NUMBER = 10**9

_steps: ContextVar[int] = ContextVar("steps")
_marks: ContextVar[str | None] = ContextVar("marks", default=None)


def mark() -> str:
    """Text that nobody can have written before, ending in a space, so that trimming it shows."""
    return f"\U000f0000{os.urandom(8).hex()}\U000f0001 "


def render(template: str, variables: dict[str, Any], marks: bool = False) -> tuple[str, list[tuple[int, int]]]:
    """The text, and with `marks` the character spans that `{% generation %}` blocks wrote.

    ChatTemplateError for a template that is not Jinja, names what is not there, raises, or costs too much.
    """
    sign = mark().strip() if marks else None
    steps, marked = _steps.set(0), _marks.set(sign)
    try:
        chunks, size = [], 0
        for chunk in _compiled(template).generate(**variables):
            size += len(chunk)
            _bound(size, MAX_CHARS, "characters of text")
            chunks.append(chunk)
        text = "".join(chunks)
    except MartletError:
        raise
    except jinja2.TemplateSyntaxError as problem:
        raise ChatTemplateError(
            "chat template", f"is not valid Jinja: {problem.message} (line {problem.lineno})"
        ) from problem
    except jinja2.TemplateError as problem:
        raise ChatTemplateError("chat template", _one_line(problem.message or type(problem).__name__)) from problem
    except RecursionError as problem:
        raise ChatTemplateError("chat template", "calls itself without end") from problem
    except Exception as problem:  # a template is a program: whatever goes wrong inside is its error
        found = f"{type(problem).__name__}: {_one_line(str(problem))}"
        raise ChatTemplateError("chat template", "failed on these messages", found=found) from problem
    finally:
        _steps.reset(steps)
        _marks.reset(marked)
    return (text, []) if sign is None else _take_out(text, sign)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _take_out(text: str, sign: str) -> tuple[str, list[tuple[int, int]]]:
    spans: list[tuple[int, int]] = []
    starts: list[int] = []
    pieces, size = [], 0
    for number, piece in enumerate(re.split(f"{sign}([<>])", text)):
        if number % 2 == 0:
            pieces.append(piece)
            size += len(piece)
        elif piece == "<":
            starts.append(size)
        elif starts:
            spans.append((starts.pop(), size))
    return "".join(pieces), sorted(spans)


def _bound(amount: int, most: int, what: str) -> None:
    if amount > most:
        raise ChatTemplateError("chat template", f"must not need more than {most:,} {what}")


@lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: what the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's spelling)

    def parse(self, parser: Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        sign = _marks.get()
        text = caller()
        return text if sign is None else f"{sign}<{text}{sign}>"


class _Counted:
    """An iterable that counts its steps against the rendering's bound; everything else as it was."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        for item in self.inner:
            steps = _steps.get() + 1
            _steps.set(steps)
            _bound(steps, MAX_STEPS, "loop steps")
            yield item

    def __len__(self) -> int:
        return len(self.inner)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with loops, repetition, joins and widths bounded."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = _call("counted", [loop.iter], loop.lineno)
        for join in tree.find_all(jinja2.nodes.Concat):  # a ~ b
            join.nodes = [_call("joined", join.nodes, join.lineno)]
        return tree

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """What a block or a macro wrote, put together."""
        listed = list(parts)
        _bound(sum(map(len, listed)), MAX_CHARS, "characters of text")
        return "".join(listed)

    def joined(self, *parts: Any) -> str:
        return self.concat(map(str, parts))

    def counted(self, iterable: Any) -> Any:
        return iterable if isinstance(iterable, jinja2.Undefined) else _Counted(iterable)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and _is_number(left) and _is_number(right):
            _bound(int(abs(left)).bit_length() * max(0, int(right)), 4096, "bits in a number")
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, (str, list, tuple)) and isinstance(times, int):
                    _bound(len(many) * times, MAX_CHARS, "characters of text")
            if isinstance(left, int) and isinstance(right, int):
                _bound(left.bit_length() + right.bit_length(), 4096, "bits in a number")
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            _bound(len(left) + len(right), MAX_CHARS, "characters of text")
        elif operator == "%" and isinstance(left, str):
            _check_widths(left, right if isinstance(right, tuple) else (right,))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, target: Any, /, *values: Any, **named: Any) -> Any:
        owner = getattr(getattr(target, "__wrapped__", target), "__self__", None)  # the sandbox wraps str.format
        if isinstance(owner, str):
            _check_widths(owner if getattr(target, "__name__", "") in ("format", "format_map") else "", values)
            if getattr(target, "__name__", "") == "join" and values and hasattr(values[0], "__len__"):
                size = sum(len(item) for item in values[0] if isinstance(item, str))
                _bound(len(owner) * len(values[0]) + size, MAX_CHARS, "characters of text")
            if getattr(target, "__name__", "") == "replace" and len(values) > 1:
                _bound((len(owner) + 1) * len(str(values[1])), MAX_CHARS, "characters of text")
        return super().call(context, target, *values, **named)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _check_widths(pattern: str, values: tuple[Any, ...]) -> None:
    widest = max((int(digits) for digits in re.findall(r"\d{1,18}", pattern)), default=0)
    widest = max([widest, *(abs(value) for value in values if isinstance(value, int))])
    _bound(widest, _MAX_NUMBER if not pattern and not values else MAX_CHARS, "characters of width")


def _call(method: str, values: list[Any], line: int) -> jinja2.nodes.Call:
    return jinja2.nodes.Call(jinja2.nodes.EnvironmentAttribute(method), values, [], None, None, lineno=line)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without underscored names, which could reach into the interpreter."""

    def __init__(*values: Any, **named: Any) -> None:
        self, rest = values[0], values[1:]
        attributes = dict(*rest, **named)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        if isinstance(value, (str, list, tuple)):
            _bound(len(value), MAX_CHARS, "characters of text")
        jinja2.utils.Namespace.__setitem__(self, name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise ChatTemplateError("chat template", "a namespace takes no name that begins with _", found=repr(name))


class _Dict:
    """`dict(...)` without the type's own attributes."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter writes HTML escapes, which models were not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    _check_widths(pattern, ())
    return datetime.now().strftime(pattern)


def _width_checked(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(value: Any, *values: Any, **named: Any) -> Any:
        _check_widths("", (*values, *named.values(), 0))
        return function(value, *values, **named)

    return checked


@jinja2.pass_eval_context
def _join(context: Any, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    size = sum(len(str(item)) for item in items) if attribute is None else 0
    _bound(size + len(str(d)) * len(items), MAX_CHARS, "characters of text")
    return jinja2.filters.sync_do_join(context, items, d, attribute)


@jinja2.pass_eval_context
def _replace(context: Any, value: Any, old: str, new: str, count: int | None = None) -> str:
    text = str(value)
    _bound(len(text) + (len(text) + 1) * len(str(new)), MAX_CHARS * 4, "characters of text")
    return text.replace(str(old), str(new), -1 if count is None else count)


def _environment() -> jinja2.Environment:
    made = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = _to_json
    for name in ("center", "indent", "batch"):
        made.filters[name] = _width_checked(made.filters[name])
    made.filters["join"] = _join
    made.filters["replace"] = _replace
    del made.globals["lipsum"]  # text without end
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    made.globals["dict"] = _Dict()
    made.globals["namespace"] = _Namespace
    return made
