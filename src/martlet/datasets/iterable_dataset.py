"""Where Hugging Face's library has IterableDataset."""

from typing import TYPE_CHECKING, Any

from martlet.datasets import elsewhere
from martlet.datasets.column import IterableColumn
from martlet.datasets.iterable import IterableDataset

__all__ = ["IterableColumn", "IterableDataset"]


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
