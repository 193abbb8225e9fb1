"""What every family's GGUF metadata says alike, in config.json's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from martlet.errors import GgufError
from martlet.formats.tensors import TensorSource, to_float32


class GgufKeys:
    """Metadata of one architecture, read by short key: `keys.size("block_count")` reads "llama.block_count"."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.architecture = str(metadata.get("general.architecture"))

    def value(self, key: str, default: Any = None) -> Any:
        found = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(found, np.ndarray) and len(set(found.tolist())) == 1:
            return found.tolist()[0]  # one value a layer, all the same
        return found

    def size(self, key: str, default: int | None = None) -> int:
        found = self.value(key, default)
        if not isinstance(found, int | np.integer) or isinstance(found, bool):
            raise self._wrong(key, "a whole number", found)
        return int(found)

    def number(self, key: str, default: float | None = None) -> float:
        found = self.value(key, default)
        if not isinstance(found, int | float | np.number) or isinstance(found, bool):
            raise self._wrong(key, "a number", found)
        # metadata holds float32: 1e-5 reads as 9.99999974e-06, and config.json would have said 1e-5
        return float(np.format_float_positional(np.float32(found), unique=True))

    def _wrong(self, key: str, rule: str, found: Any) -> GgufError:
        return GgufError(f"{self.architecture}.{key}", f"must be {rule}", found="nothing" if found is None else repr(found))


def common_config(metadata: Mapping[str, Any], source: TensorSource) -> tuple[GgufKeys, dict[str, Any]]:
    """Sizes, token ids, rotation and tying: the part of config.json that all families share."""
    keys = GgufKeys(metadata)
    hidden, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    if heads < 1:
        raise keys._wrong("attention.head_count", "at least 1", heads)
    head_dim = keys.size("attention.key_length", hidden // heads)
    config: dict[str, Any] = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "num_hidden_layers": keys.size("block_count"),
        "intermediate_size": keys.size("feed_forward_length"),
        "max_position_embeddings": keys.size("context_length"),
        "vocab_size": vocab_size(keys, source),
        "tie_word_embeddings": "output.weight" not in source,
    }
    if (theta := keys.value("rope.freq_base")) is not None:
        del theta
        config["rope_theta"] = keys.number("rope.freq_base")
    scaling = keys.value("rope.scaling.type")
    if scaling in ("linear", "yarn"):
        config["rope_scaling"] = {"rope_type": scaling, "factor": keys.number("rope.scaling.factor")}
        if keys.value("rope.scaling.original_context_length") is not None:
            original = keys.size("rope.scaling.original_context_length")
            config["rope_scaling"]["original_max_position_embeddings"] = original
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        found = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        if found is not None:
            config[f"{ours}_token_id"] = int(found)
    return keys, config


def vocab_size(keys: GgufKeys, source: TensorSource) -> int:
    """Rows of the embedding table, which padding may have made longer than the token list."""
    if "token_embd.weight" not in source:
        raise GgufError(f"{keys.architecture} GGUF file", "a tensor token_embd.weight must be there", found="none")
    return source.info("token_embd.weight").shape[0]


def frequency_factors(source: TensorSource, name: str) -> list[float] | None:
    """A table of rotary frequency divisors that the converter stored as a tensor."""
    if name not in source:
        return None
    info = source.info(name)
    return [float(x) for x in to_float32(source.raw(name), info.dtype, info.shape)]
