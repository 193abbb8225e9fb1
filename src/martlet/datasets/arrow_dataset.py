"""Where Hugging Face's library has Dataset."""

from typing import TYPE_CHECKING, Any

from martlet.datasets import elsewhere
from martlet.datasets.column import Column
from martlet.datasets.combine import concatenate_datasets, interleave_datasets
from martlet.datasets.dataset import Dataset

__all__ = ["Column", "Dataset", "concatenate_datasets", "interleave_datasets"]


__path__: list[str] = []  # what is asked of it and is not here is elsewhere's to answer

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return elsewhere.public(__name__, name)
