"""Reads a config.json strictly: every key is typed, every key that is not read must be known to be harmless."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Collection, Mapping
from typing import Any

from martlet.errors import ConfigError, UnsupportedError

# Keys that say nothing of a decoder's forward pass, whatever their value: names, training, generation defaults,
# tokens, bookkeeping. A pattern must not be able to match a key that changes the maths.
_HARMLESS = (
    "model_type architectures auto_map custom_pipelines torch_dtype dtype transformers_version *_version "
    "_name_or_path _commit_hash _attn_implementation* _from_model_config _flash_attn_* _num_labels _experts_* "
    "unsloth_* name license language *_token_id *_token_ids *_token_index use_cache initializer_* init_std init_device "
    "*dropout* *_pdrop layerdrop output_attentions output_hidden_states output_past output_scores "
    "output_router_logits return_dict* id2label label2id num_labels problem_type finetuning_task "
    "task_specific_params tokenizer_class prefix pruned_heads is_encoder_decoder is_decoder gradient_checkpointing "
    "use_gradient_checkpointing chunk_size_feed_forward tie_encoder_decoder torchscript use_bfloat16 tf_legacy_loss "
    "training_* pretraining_tp summary_* do_sample temperature top_k top_p typical_p max_length min_length num_beams "
    "num_beam_groups diversity_penalty repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences early_stopping remove_invalid_values "
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens forced_* generation_config "
    "attn_implementation transformers.js_config neuron quantization_comment hf_revision is_llama_config "
    "use_flash_attn* flash_attn* fused_mlp fused_bias_fc fused_dropout_add_ln cache_implementation "
    "keys_to_ignore_at_inference max_window_layers max_sequence_length model_max_length tokenizer_model_max_length "
    "tokenizer_padding_side bos_token eos_token pad_token unk_token n_special predict_special_tokens xla_device"
)
HARMLESS = tuple(_HARMLESS.split())
# Keys that change the maths of some family, but not while they have this value.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope_interleaved": (False,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "qk_layernorm": (False,),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
    "use_mrope": (False,),
    "partial_rotary_factor": (1, 1.0),
    "quantization_config": ({},),
    "causal": (True,),
    "is_causal": (True,),
}
QUANTIZED = ("quantization_config", "compression_config")
MAX_SIZE = 2**31 - 1
MAX_LAYERS = 10_000


class Reader:
    """One config, with a record of what was read. `subject` opens its errors, as "qwen2 config"."""

    def __init__(self, config: Mapping[str, Any], subject: str) -> None:
        self.config = config
        self.subject = subject
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self.config.get(key) is not None

    def value(self, key: str, default: Any = None) -> Any:
        """The raw value; a missing or null key gives the default."""
        self._read.add(key)
        found = self.config.get(key)
        return default if found is None else found

    def skip(self, *keys: str) -> None:
        """Marks keys whose meaning is settled by others."""
        self._read.update(keys)

    def is_null(self, key: str) -> bool:
        """Whether the key is there with the value null: what turns a feature off whose default is on."""
        self._read.add(key)
        return key in self.config and self.config[key] is None

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number, 0 or more."""
        found = self._required(key, default)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= MAX_SIZE:
            raise self.error(f"{key} must be a whole number", found)
        return found

    def num_layers(self, key: str = "num_hidden_layers") -> int:
        found = self.size(key)
        if not 1 <= found <= MAX_LAYERS:
            raise self.error(f"{key} must be 1 to {MAX_LAYERS}", found)
        return found

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        found = self._required(key, default)
        if not is_number(found):
            raise self.error(f"{key} must be a number", found)
        return float(found)

    def cap(self, key: str, default: float) -> float:
        """A number above 0, or 0 where the key is null: null turns a cap off, its absence means the default."""
        if self.is_null(key):
            return 0.0
        found = self.number(key, default)
        if found < 0 or (found == 0 and key in self):
            raise self.error(f"{key} must be above 0, or null", found)
        return found

    def flag(self, key: str, default: bool | None = None) -> bool:
        found = self._required(key, default)
        if not isinstance(found, bool):
            raise self.error(f"{key} must be true or false", found)
        return found

    def text(self, key: str, default: str | None = None) -> str:
        found = self._required(key, default)
        if not isinstance(found, str):
            raise self.error(f"{key} must be a string", found)
        return found

    def neutral(self, key: str, value: Any) -> None:
        """Refuses a key that changes the maths in a way we do not have, unless it is at `value`."""
        found = self.value(key, value)
        if found != value:
            raise self.error(f"{key} is supported at {value!r} only", found)

    def error(self, rule: str, found: Any = None) -> ConfigError:
        return ConfigError(self.subject, rule, found=None if found is None else shorten(found))

    def finish(self, harmless: Collection[str] = ()) -> None:
        """Raises `ConfigError` for a key that was not read and is neither harmless nor at a neutral value.

        Weights that were quantized in a way of their own are an `UnsupportedError`.
        """
        for key in QUANTIZED:
            if self.config.get(key) and key not in harmless:
                raise self._quantized(key)
        for key, value in self.config.items():
            if key in self._read or key in harmless or value is None or value == [] or value == {}:
                continue
            if any(fnmatch.fnmatchcase(str(key), known) for known in HARMLESS):
                continue
            if any(
                value is neutral or (value == neutral and not isinstance(value, bool))
                for neutral in NEUTRAL.get(key, ())
            ):
                continue
            near = difflib.get_close_matches(str(key), sorted(self._read), 1)
            raise ConfigError(
                self.subject,
                f"key {key!r} is not one this family reads, and may change the maths",
                found=shorten(value),
                remedy=(f"Is {near[0]!r} meant? " if near else "")
                + f"If it is harmless, pass harmless_config_keys=[{key!r}].",
            )

    def _quantized(self, key: str) -> UnsupportedError:
        table = self.config[key]
        method = table.get("quant_method") if isinstance(table, dict) else None
        return UnsupportedError(
            self.subject,
            f"{key}: weights quantized with {method or 'a method it does not name'} cannot be read",
            remedy="Use the original checkpoint, or a GGUF file of it.",
        )

    def _required(self, key: str, default: Any) -> Any:
        found = self.value(key, default)
        if found is None:
            near = difflib.get_close_matches(key, [str(known) for known in self.config], 1)
            raise ConfigError(
                self.subject,
                f"{key} is missing",
                remedy=f"Is {near[0]!r} meant?" if near else "Is this config.json whole?",
            )
        return found


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def shorten(value: Any) -> str:
    """A JSON value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
