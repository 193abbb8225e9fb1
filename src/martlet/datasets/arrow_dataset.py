"""Where Hugging Face's library has Dataset."""

from martlet.datasets.column import Column
from martlet.datasets.combine import concatenate_datasets, interleave_datasets
from martlet.datasets.dataset import Dataset

__all__ = ["Column", "Dataset", "concatenate_datasets", "interleave_datasets"]
