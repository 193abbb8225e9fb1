"""Where Hugging Face's library has the switch of the cache, and the key of a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from martlet.datasets import elsewhere
from martlet.datasets.cache import disable_caching, enable_caching, is_caching_enabled
from martlet.datasets.hashing import key_of
from martlet.datasets.stored import digest

__all__ = ["Hasher", "disable_caching", "enable_caching", "is_caching_enabled"]


class Hasher:
    """`Hasher.hash(value)`: the key of a function with what it closes over, or of a value; 16 hexadecimal digits.

    `update` takes values one after the other, `hexdigest` is their key.
    """

    def __init__(self) -> None:
        self._keys: list[str] = []

    def update(self, value: Any) -> None:
        """One more value."""
        self._keys.append(key_of(value)[0])

    def hexdigest(self) -> str:
        """The key of all values so far."""
        return digest("hasher", *self._keys)[:16]

    @classmethod
    def hash(cls, value: Any) -> str:
        """The key. HashingError names what has none."""
        return key_of(value)[0][:16]


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
