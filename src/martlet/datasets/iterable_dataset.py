"""Where Hugging Face's library has IterableDataset."""

from martlet.datasets.column import IterableColumn
from martlet.datasets.iterable import IterableDataset

__all__ = ["IterableColumn", "IterableDataset"]
