"""What a pipeline's call would use, setting by setting, and where each value is from. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

from martlet.generation.config import GenerationConfig
from martlet.generation.fields import FIELDS
from martlet.pipelines.options import CALL, KEYWORD, LIBRARY_DEFAULT, PIPELINE_DEFAULT, Asked, resolve_options

MODEL_CONFIG = "model config"
# Origins as generation/config.py has them, in this page's words.
ORIGINS = {"library default": LIBRARY_DEFAULT, "config.json": MODEL_CONFIG}
KNOWN_ORIGINS = (CALL, KEYWORD, "generation_config.json", MODEL_CONFIG, PIPELINE_DEFAULT, LIBRARY_DEFAULT)
ALWAYS_SHOWN = ("do_sample", "num_beams", "temperature", "top_k", "top_p", "repetition_penalty", "num_return_sequences")


class Setting(NamedTuple):
    """A value, and where it is from: "call", "pipeline keyword", "generation_config.json", "model config" (an older
    checkpoint's config.json, or a GGUF file's keys), "pipeline default", "Hugging Face default", or
    "model.generation_config" for what was assigned there."""

    value: Any
    origin: str


class Description(Mapping[str, Setting]):
    """Setting name -> `Setting`, for every field of generation and option of the pipeline. `str` is a table of those
    that something set, and of the defaults that say how tokens are chosen."""

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        self._settings = dict(settings)

    def __getitem__(self, name: str) -> Setting:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __str__(self) -> str:
        shown = [
            (name, _shown(setting.value), setting.origin)
            for name, setting in self.items()
            if setting.origin != LIBRARY_DEFAULT or name in ALWAYS_SHOWN
        ]
        rows = [("setting", "value", "from"), *shown]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in rows)

    __repr__ = __str__


def describe(config: GenerationConfig, init: Asked, call: Asked, of_model: Mapping[str, Any]) -> Description:
    """The settings of a call: generation's by the config's own record, the pipeline's by the layer that gave them."""
    settings = {}
    for name in FIELDS:
        origin = config.origin(name)
        origin = ORIGINS.get(origin, origin if origin in KNOWN_ORIGINS else "model.generation_config")
        settings[name] = Setting(getattr(config, name), origin)
    layers = ((CALL, call.options), (KEYWORD, init.options), (MODEL_CONFIG, of_model))
    for name, value in resolve_options(init, call, of_model).items():
        origin = next((origin for origin, given in layers if name in given), LIBRARY_DEFAULT)
        settings[name] = Setting(value, origin)
    for name in sorted({*init.arguments, *call.arguments}):
        layer, origin = (call, CALL) if name in call.arguments else (init, KEYWORD)
        settings[name] = Setting(layer.arguments[name], origin)
    return Description(settings)


def _shown(value: Any) -> str:
    text = value.name if isinstance(value, Enum) else repr(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
