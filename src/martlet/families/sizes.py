"""The sizes of a config made without any: Hugging Face's, which are those of each family's first checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# vocabulary, width, feed-forward width, layers, heads
_SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "bert": (30522, 768, 3072, 12, 12),
    "distilbert": (30522, 768, 3072, 6, 12),
    "gemma": (256000, 3072, 24576, 28, 16),
    "gemma2": (256000, 2304, 9216, 26, 8),
    "gemma3_text": (262208, 2304, 9216, 26, 8),
    "gpt2": (50257, 768, 0, 12, 12),
    "gpt_neox": (50432, 6144, 24576, 44, 64),
    "granite": (32000, 4096, 11008, 32, 32),
    "llama": (32000, 4096, 11008, 32, 32),
    "mistral": (32000, 4096, 14336, 32, 32),
    "olmo2": (50304, 4096, 11008, 32, 32),
    "opt": (50272, 768, 3072, 12, 12),
    "phi": (51200, 2048, 8192, 24, 32),
    "phi3": (32064, 3072, 8192, 32, 32),
    "qwen2": (151936, 4096, 22016, 32, 32),
    "qwen3": (151936, 4096, 22016, 32, 32),
    "roberta": (50265, 768, 3072, 12, 12),
    "smollm3": (128256, 2048, 11008, 36, 16),
    "xlm-roberta": (30522, 768, 3072, 12, 12),
}
_NAMES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# What families call them, and the length of their position table.
_OWN_NAMES: dict[str, dict[str, str]] = {
    "gpt2": {
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    "distilbert": {
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
    },
    "opt": {"intermediate_size": "ffn_dim"},
}


# Of which an `Arch` has less: two rows of the table are never used.
_MORE = {name: {"max_position_embeddings": 512} for name in ("roberta", "xlm-roberta")}


def with_sizes(model_type: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` under the family's own names, and the sizes that they leave out; of an unknown family, `values`."""
    own = _OWN_NAMES.get(model_type, {})
    given = {own.get(name, name): value for name, value in values.items()}
    sizes = zip(_NAMES, _SIZES.get(model_type, ()), strict=False)
    return {own.get(name, name): size for name, size in sizes if size} | _MORE.get(model_type, {}) | given
