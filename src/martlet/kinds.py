"""Settings in dataclasses: values of another kind than their field's annotation names are refused."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from numbers import Integral, Real
from typing import Any

from martlet.errors import ArgumentError

_SIMPLE = frozenset({"bool", "int", "float", "str", "None"})
_WORDS = {"bool": "True or False", "int": "a whole number", "float": "a number", "str": "a text", "None": "None"}


def check_kinds(settings: Any, declared: type, but: frozenset[str] = frozenset()) -> None:
    """Checks each field of the dataclass `declared` whose annotation is made of bool, int, float, str and None.

    0, 1 and None are False and True where a field is a bool alone, and are made so. Enumerations pass where texts do.
    ArgumentError for the first that does not fit; fields in `but` are not looked at.
    """
    for each in fields(declared):
        kinds = [kind.strip() for kind in str(each.type).split("|")]
        if each.name in but or not _SIMPLE.issuperset(kinds):
            continue
        value = getattr(settings, each.name)
        if kinds == ["bool"] and (value is None or (isinstance(value, Integral) and value in (0, 1))):
            setattr(settings, each.name, bool(value))
        elif not any(_fits(value, kind) for kind in kinds):
            words = " or ".join(_WORDS[kind] for kind in kinds)
            raise ArgumentError(each.name, f"must be {words}", found=repr(value)[:80])


def _fits(value: Any, kind: str) -> bool:
    if kind == "None":
        return value is None
    if kind == "str":
        return isinstance(value, str | Enum)
    if isinstance(value, bool):
        return kind == "bool"
    return isinstance(value, Integral) if kind == "int" else kind == "float" and isinstance(value, Real)
