"""What every family's GGUF metadata says alike, in config.json's words. Tensor names: `registry.GGUF_NAMES`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from martlet.arch import Rope, RopeScaling
from martlet.errors import GgufError
from martlet.families.reader import shorten
from martlet.formats.tensors import TensorSource, to_float32
from martlet.rope import frequencies

RMS_EPS = "attention.layer_norm_rms_epsilon"
LAYER_EPS = "attention.layer_norm_epsilon"
# Keys read here, and those that say nothing of the maths. Any other must be named by its family or be 0 or false.
_COMMON = (
    "block_count context_length embedding_length feed_forward_length vocab_size tensor_data_layout pooling_type "
    "attention.head_count attention.head_count_kv attention.key_length attention.value_length attention.causal "
    "rope.dimension_count rope.freq_base rope.scaling.type rope.scaling.factor rope.scaling.attn_factor "
    "rope.scaling.original_context_length rope.scaling.finetuned rope.scale_linear "
    f"rope.scaling.yarn_attn_factor rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow {RMS_EPS} {LAYER_EPS}"
)
COMMON = frozenset(_COMMON.split())
LARGEST = float(np.finfo(np.float32).max)
YARN = {"attn_factor": "attention_factor", "beta_fast": "beta_fast", "beta_slow": "beta_slow"}


class GgufKeys:
    """Metadata of one architecture, read by short key: `keys.size("block_count")` reads "llama.block_count"."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.architecture = str(metadata.get("general.architecture"))

    def value(self, key: str, default: Any = None) -> Any:
        """A value; one for each layer that are all the same are given as one."""
        found = self.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(found, np.ndarray) and len(set(found.tolist())) == 1:
            return found.tolist()[0]
        return found

    def size(self, key: str, default: int | None = None) -> int:
        found = self.value(key, default)
        if isinstance(found, bool) or not isinstance(found, int | np.integer) or not 0 <= found < 2**31:
            raise self.wrong(key, "must be a whole number", found)
        return int(found)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number: the shortest decimal of the file's float32, as 1e-5 would read as 9.99999974e-06."""
        found = self.value(key, default)
        is_one = isinstance(found, int | float | np.number) and not isinstance(found, bool)
        if not is_one or not abs(found) <= LARGEST:
            raise self.wrong(key, "must be a number", found)
        return float(np.format_float_positional(np.float32(found), unique=True))

    def flag(self, key: str, default: bool) -> bool:
        found = self.value(key, default)
        if not isinstance(found, bool | np.bool_):
            raise self.wrong(key, "must be true or false", found)
        return bool(found)

    def wrong(self, key: str, rule: str, found: Any) -> GgufError:
        return GgufError(f"{self.architecture}.{key}", rule, found="nothing" if found is None else shorten(found))

    def check_known(self, also: tuple[str, ...]) -> None:
        """Raises `GgufError` for a key of this architecture that nobody reads and that may change the maths."""
        for name in self.metadata:
            key = name.removeprefix(f"{self.architecture}.")
            if key == name or key in COMMON or key in also:
                continue
            found = self.value(key)
            if isinstance(found, np.ndarray | list | str) or found:
                raise self.wrong(key, "is not a key this family reads, and may change the maths", found)


def common_config(
    metadata: Mapping[str, Any], source: TensorSource, model_type: str, *also: str
) -> tuple[GgufKeys, dict[str, Any]]:
    """Sizes, token ids, rotation and tying: the part of config.json that all families share.

    `also` are the metadata keys the family reads itself.
    """
    keys = GgufKeys(metadata)
    keys.check_known(also)
    hidden, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    if heads < 1 or (hidden % heads and keys.value("attention.key_length") is None):
        raise keys.wrong("attention.head_count", f"must divide embedding_length ({hidden})", heads)
    head_dim = keys.size("attention.key_length", hidden // heads)
    if keys.size("attention.value_length", head_dim) != head_dim:
        raise keys.wrong(
            "attention.value_length",
            f"must equal attention.key_length ({head_dim})",
            keys.value("attention.value_length"),
        )
    if not keys.flag("attention.causal", True):
        raise keys.wrong("attention.causal", "must be true", False)
    config: dict[str, Any] = {
        "model_type": model_type,
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
    if keys.value("rope.freq_base") is not None:
        config["rope_theta"] = keys.number("rope.freq_base")
    rotated = keys.size("rope.dimension_count", head_dim)
    if rotated != head_dim and head_dim:
        fraction = rotated / head_dim
        config["partial_rotary_factor"] = (
            fraction if int(head_dim * fraction) == rotated else math.nextafter(fraction, 1)
        )
    if scaling := _scaling(keys, source, config):
        config["rope_scaling"] = scaling
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        found = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        config[f"{ours}_token_id"] = found if isinstance(found, int) else None
    more = [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eot", "eom")]
    if more := [number for number in more if isinstance(number, int) and number != config["eos_token_id"]]:
        config["eos_token_id"] = [*([config["eos_token_id"]] if config["eos_token_id"] is not None else []), *more]
    return keys, config


def vocab_size(keys: GgufKeys, source: TensorSource) -> int:
    """Rows of the embedding table, which padding may have made longer than the token list."""
    if "token_embd.weight" not in source:
        raise GgufError(f"{keys.architecture} GGUF file", "a tensor token_embd.weight must be there", found="none")
    return (source.info("token_embd.weight").shape or (0,))[0]


def _scaling(keys: GgufKeys, source: TensorSource, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rope_scaling table: by the tensors of divisors that the converter stored, or by name."""
    original = keys.size("rope.scaling.original_context_length", 0)
    trained = {"original_max_position_embeddings": original} if original else {}
    short, long = (_divisors(source, f"rope_factors_{which}.weight") for which in ("short", "long"))
    if short and long:
        scaling: dict[str, Any] = {"rope_type": "longrope", "short_factor": short, "long_factor": long} | trained
        if keys.value("rope.scaling.attn_factor") is not None:
            scaling["attention_factor"] = keys.number("rope.scaling.attn_factor")
        return scaling
    if divisors := _divisors(source, "rope_freqs.weight"):
        return _llama3_scaling(divisors, config)
    kind = keys.value("rope.scaling.type", "none")
    if isinstance(kind, str) and kind == "none":
        plain = keys.number("rope.scale_linear", 1.0)  # how files of 2023 say it
        return {"rope_type": "linear", "factor": plain} if plain != 1 else None
    if not isinstance(kind, str) or kind not in ("linear", "yarn"):
        raise keys.wrong("rope.scaling.type", "must be none, linear or yarn where no tensor has the factors", kind)
    if keys.number("rope.scaling.attn_factor", 1.0) != 1:
        raise keys.wrong("rope.scaling.attn_factor", f"must be 1 with {kind}", keys.number("rope.scaling.attn_factor"))
    ramp = {ours: f"rope.scaling.yarn_{theirs}" for theirs, ours in YARN.items()} if kind == "yarn" else {}
    said = {ours: keys.number(key) for ours, key in ramp.items() if keys.value(key) is not None}
    return {"rope_type": kind, "factor": keys.number("rope.scaling.factor")} | trained | said


def _divisors(source: TensorSource, name: str) -> list[float] | None:
    if name not in source:
        return None
    info = source.info(name)
    divisors = [float(x) for x in to_float32(source.raw(name), info.dtype, info.shape).reshape(-1)]
    if not divisors or not all(math.isfinite(x) and x > 0 for x in divisors):
        raise GgufError(f"tensor {name}", "must hold numbers above 0", found=shorten(divisors))
    return divisors


def _llama3_scaling(divisors: list[float], config: Mapping[str, Any]) -> dict[str, Any]:
    """The converter keeps a divisor for each frequency and not the four numbers it came from: find them again."""
    theta, head_dim = float(config.get("rope_theta", 10_000.0)), int(config["head_dim"])
    plain = frequencies(Rope(theta), head_dim, 0)
    factor = round(max(divisors), 3)
    rope = Rope(theta, scaling=RopeScaling.LLAMA3, factor=factor, original_positions=8192)
    if len(plain) == len(divisors) and np.allclose(plain / frequencies(rope, head_dim, 0), divisors, rtol=1e-4):
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_positions,
        }
    return {
        "rope_type": "longrope",  # one table for every length
        "short_factor": divisors,
        "long_factor": divisors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config["max_position_embeddings"],
    }
