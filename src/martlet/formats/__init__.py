"""Reading and writing weights and small files: safetensors, GGUF, torch pickles, JSON. Input is taken to be hostile."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from martlet.formats.shards import open_shards, open_weights, save_sharded
    from martlet.formats.tensors import TensorInfo, TensorSource, to_float32

__all__ = ["TensorInfo", "TensorSource", "open_shards", "open_weights", "save_sharded", "to_float32"]


def __getattr__(name: str) -> Any:  # reading a JSON file needs no numpy
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from martlet.formats import shards, tensors

    return getattr(shards if hasattr(shards, name) else tensors, name)
