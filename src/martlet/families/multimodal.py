"""The text part of checkpoints that see pictures too: its config and its tensors, where it is a family of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from martlet.errors import ConfigError
from martlet.families.sizes import with_sizes
from martlet.weights import Rule, drop, rename

# model_type of the whole, and of its text_config, which may leave it and any size at its default out
PARTS = {"gemma3": "gemma3_text"}
# What the whole says for its part too, and rightly: the part often has its class's defaults.
_SHARED = ("dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id", "quantization_config")
# Names of two years: the part beside the others, and all of them under one roof.
_BESIDE = (
    drop("^vision_tower."),
    drop("^multi_modal_projector."),
    rename("^language_model.model.", "^model."),
    rename("^language_model.lm_head.", "^lm_head."),
)
_UNDER = (
    drop("^model.vision_tower."),
    drop("^model.multi_modal_projector."),
    rename("^model.language_model.", "^model."),
)


def text_part(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the part that reads text; of a config without such a part, the config itself."""
    model_type, part = values.get("model_type"), values.get("text_config")
    if not isinstance(model_type, str) or model_type not in PARTS or part is None:
        return dict(values)
    if not isinstance(part, Mapping):
        raise ConfigError(f"{model_type} config", "text_config must be an object", found=type(part).__name__)
    shared = {key: values[key] for key in _SHARED if values.get(key) is not None}
    return {**with_sizes(PARTS[model_type], part), **shared, "model_type": PARTS[model_type]}


def text_rules(names: Sequence[str]) -> tuple[Rule, ...]:
    """What makes the names of such a checkpoint those of its text part; nothing for any other checkpoint."""
    if any(name.startswith("language_model.model.") for name in names):
        return _BESIDE
    return _UNDER if any(name.startswith("model.language_model.") for name in names) else ()
