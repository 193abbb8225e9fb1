"""Keywords of public verbs: an unknown one is an error that names the nearest we have."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from martlet.errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R")


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """The function, refusing unknown keywords with an ArgumentError that names the nearest."""
    known = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return function

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5)
                remedy = (
                    f"Did you mean {near[0]!r}?" if near else f"It takes {', '.join(n for n in known if n != 'self')}."
                )
                raise ArgumentError(f"{function.__name__}()", "has no such keyword", found=repr(name), remedy=remedy)
        return function(*args, **kwargs)

    return checked
