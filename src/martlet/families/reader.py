"""Reads a config.json strictly: every key is typed, every key that is not read must be known to be harmless."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Mapping
from typing import Any

from martlet.errors import ConfigError

# Keys that say nothing of a decoder's forward pass: names, training, generation defaults, tokens, bookkeeping.
HARMLESS = (
    "model_type architectures auto_map torch_dtype dtype transformers_version *_version _* unsloth_* name license "
    "*_token_id *_token_ids *_token_index use_cache initializer_* init_std init_* *dropout* *_pdrop layerdrop "
    "output_* return_dict* id2label label2id num_labels problem_type finetuning_task task_specific_params "
    "tokenizer_class prefix pruned_heads is_encoder_decoder is_decoder gradient_checkpointing chunk_size_* "
    "tie_encoder_decoder torchscript use_bfloat16 tf_legacy_loss language training_* pretraining_tp "
    "summary_* do_sample temperature top_k top_p typical_p max_length min_length num_beams num_beam_groups "
    "diversity_penalty repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
    "bad_words_ids num_return_sequences early_stopping remove_invalid_values exponential_decay_length_penalty "
    "suppress_tokens begin_suppress_tokens forced_* decoder_start_token_id sep_token_id "
    "attn_implementation transformers.js_config neuron quantization_comment hf_revision n_ctx max_window_layers "
    "use_flash_attn* flash_attn* cache_implementation"
).split()
NEUTRAL: Collection[Any] = (None, False, 0, 0.0, 1, 1.0, "", (), "default")


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

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number, 0 or more."""
        found = self._required(key, default)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise self.error(f"{key} must be a whole number", found)
        return found

    def number(self, key: str, default: float | None = None) -> float:
        found = self._required(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or found != found:
            raise self.error(f"{key} must be a number", found)
        return float(found)

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
        return ConfigError(self.subject, rule, found=None if found is None else repr(found))

    def finish(self, harmless: Collection[str] = ()) -> None:
        """Raises `ConfigError` for a key that was not read and is neither harmless nor at a neutral value."""
        for key, value in self.config.items():
            if key in self._read or key in harmless or any(fnmatch.fnmatchcase(key, known) for known in HARMLESS):
                continue
            value = tuple(value) if isinstance(value, list | dict) else value
            if value is not True and value in NEUTRAL:  # True equals 1
                continue
            near = difflib.get_close_matches(key, sorted(self._read), 1)
            raise ConfigError(
                self.subject,
                f"key {key!r} is not one this family reads, and may change the maths",
                found=repr(self.config[key])[:80],
                remedy=(f"Is {near[0]!r} meant? " if near else "")
                + f"If it is harmless, pass harmless_config_keys=[{key!r}].",
            )

    def _required(self, key: str, default: Any) -> Any:
        found = self.value(key, default)
        if found is None:
            near = difflib.get_close_matches(key, list(self.config), 1)
            raise ConfigError(
                self.subject,
                f"{key} is missing",
                remedy=f"Is {near[0]!r} meant?" if near else "Is this config.json whole?",
            )
        return found
