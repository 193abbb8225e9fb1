"""DatasetDict: the splits of a dataset by name."""

from __future__ import annotations

from martlet.datasets.dataset import Dataset


class DatasetDict(dict[str, Dataset]):
    """Datasets by the name of their split."""

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {split: dataset.num_rows for split, dataset in self.items()}

    @property
    def column_names(self) -> dict[str, list[str]]:
        """Columns of each split."""
        return {split: dataset.column_names for split, dataset in self.items()}
