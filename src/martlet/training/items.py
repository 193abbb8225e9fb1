"""The number of supervised items in a step, which knows whether a loss function used it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class ItemCount(int):
    """A whole number that notes its use: a loss that never touched it is a mean over its own batch, whatever its
    signature says."""

    was_used = False

    def _plain(self) -> int:
        self.was_used = True
        return int.__int__(self)

    def __truediv__(self, other: Any) -> Any:
        return self._plain() / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self._plain()

    def __mul__(self, other: Any) -> Any:
        return self._plain() * other

    def __rmul__(self, other: Any) -> Any:
        return other * self._plain()

    def __add__(self, other: Any) -> Any:
        return self._plain() + other

    __radd__ = __add__

    def __float__(self) -> float:
        return float(self._plain())

    def __int__(self) -> int:
        return self._plain()

    def __index__(self) -> int:
        return self._plain()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(value: Any) -> Any:
            if isinstance(value, ItemCount):
                return value._plain()
            return type(value)(map(plain, value)) if type(value) in (list, tuple) else value

        return func(*plain(args), **{name: plain(value) for name, value in (kwargs or {}).items()})


def takes_item_count(function: Callable[..., Any]) -> bool:
    """Whether `num_items_in_batch` can be passed."""
    parameters = inspect.signature(function).parameters
    return "num_items_in_batch" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())
