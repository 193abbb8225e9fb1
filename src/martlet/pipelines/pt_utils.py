"""Where scripts import `KeyDataset` from; it lives in inputs.py."""

from martlet.pipelines.inputs import KeyDataset

__all__ = ["KeyDataset"]
