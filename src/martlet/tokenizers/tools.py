"""Python functions as JSON schemas, from annotations and a Google-style docstring, for templates that offer tools."""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from martlet.errors import ArgumentError

_SCALARS: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_PLAIN: dict[Any, dict[str, str]] = {kind: {"type": word} for kind, word in _SCALARS.items()}
_PLAIN |= {list: {"type": "array"}, tuple: {"type": "array"}, dict: {"type": "object"}, Any: {}}
_SECTION = re.compile(r"^[ \t]*(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?):[ \t]*$", re.MULTILINE)


def get_json_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """`{"type": "function", "function": {name, description, parameters, return}}` of a function.

    Every argument needs an annotation and a line in the docstring's `Args:`. A line that ends in
    `(choices: ["a", "b"])` becomes an enum. ArgumentError says what is missing.
    """
    name = getattr(function, "__name__", None)
    if name is None or not callable(function):
        raise ArgumentError("tools", "must be functions or JSON schemas", found=type(function).__name__)
    text = inspect.getdoc(function)
    if not text:
        raise ArgumentError(f"tool {name}", "needs a docstring that says what it does")
    description, described, returned = _read_docstring(text)
    schema = _parameters(function, name)
    properties = schema["properties"]
    result = properties.pop("return", None)
    for key, value in properties.items():
        if key not in described:
            raise ArgumentError(f"tool {name}", f"its docstring must describe the argument {key!r} under Args:")
        words = described[key]
        choices = re.search(r"\(choices:\s*(.*?)\)\s*$", words, re.IGNORECASE)
        if choices:
            value["enum"] = _choices(name, key, choices.group(1))
            words = words[: choices.start()].strip()
        value["description"] = words
    made: dict[str, Any] = {"name": name, "description": description, "parameters": schema}
    if result is not None:
        made["return"] = {**result, "description": returned} if returned is not None else result
    return {"type": "function", "function": made}


def _choices(name: str, key: str, text: str) -> list[Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as problem:
        raise ArgumentError(f"tool {name}", f"the choices of {key!r} must be a JSON list", found=text) from problem
    return [value.strip() if isinstance(value, str) else value for value in values]


def _parameters(function: Callable[..., Any], name: str) -> dict[str, Any]:
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    receiver = next(iter(parameters), None)
    if receiver not in ("self", "cls") or receiver in hints:
        receiver = None
    required = []
    for key, parameter in parameters.items():
        if key == receiver:
            continue
        if key not in hints:
            raise ArgumentError(f"tool {name}", f"the argument {key!r} needs a type annotation")
        if parameter.default is inspect.Parameter.empty:
            required.append(key)
    properties = {}
    for key, hint in hints.items():
        if key == "return":
            try:
                properties[key] = type_schema(hint)
            except ArgumentError:  # the model never writes it, so it may be anything
                continue
        elif key != receiver:
            properties[key] = type_schema(hint)
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema


def type_schema(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type annotation."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is None and isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum_schema([member.value for member in hint])
    if origin is None:
        if hint not in _PLAIN:
            raise ArgumentError(
                f"annotation {hint!r}",
                "has no JSON schema",
                remedy="Use basic types, or pass the schema itself as a dict.",
            )
        return dict(_PLAIN[hint])
    if origin in (Union, types.UnionType):
        return _union_schema(inner)
    if origin is Literal:
        return _enum_schema(list(inner))
    if origin is list:
        return {"type": "array", "items": type_schema(inner[0])}
    if origin is tuple:
        if ... in inner or len(inner) == 1:
            raise ArgumentError(f"annotation {hint!r}", "has no JSON schema", remedy="Use list[...] instead.")
        return {"type": "array", "prefixItems": [type_schema(part) for part in inner]}
    if origin is dict:
        return {"type": "object", "additionalProperties": type_schema(inner[1])}
    raise ArgumentError(f"annotation {hint!r}", "has no JSON schema")


def _enum_schema(values: list[Any]) -> dict[str, Any]:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise ArgumentError("annotation", "an enum's values must be text, numbers, booleans or None", found=values)
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _union_schema(members: tuple[Any, ...]) -> dict[str, Any]:
    parts = [type_schema(member) for member in members if member is not type(None)]
    if len(parts) == 1:
        schema = parts[0]
    elif all(part.keys() == {"type"} and isinstance(part["type"], str) for part in parts):
        kinds = sorted({part["type"] for part in parts})
        schema = {"type": kinds[0] if len(kinds) == 1 else kinds}
    else:
        schema = {"anyOf": parts}
    if type(None) in members:
        schema["nullable"] = True
    return schema


def _read_docstring(text: str) -> tuple[str, dict[str, str], str | None]:
    """(what it does, what each argument is, what it returns)."""
    pieces = _SECTION.split(text.strip())
    sections = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    listed = sections.get("Args") or sections.get("Arguments") or sections.get("Parameters") or ""
    returned = sections.get("Returns")
    return pieces[0].strip(), _arguments(listed), returned.strip() if returned is not None else None


def _arguments(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    indent, current = None, None
    for line in text.split("\n"):
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None else indent
        start = re.match(r"(\w+)\s*(?:\([^)]*\))?:\s*(.*)", line.strip())
        if start and depth <= indent:
            current = start.group(1)
            found[current] = start.group(2).strip()
        elif current is not None:
            found[current] = f"{found[current]} {line.strip()}".strip()
    return found
