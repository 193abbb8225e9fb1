"""Tasks by name: text in, text out. Each name is imported when first used; no model code lives here."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from martlet.pipelines.inputs import KeyDataset as KeyDataset
    from martlet.pipelines.options import ReturnType as ReturnType
    from martlet.pipelines.tasks import pipeline as pipeline
    from martlet.pipelines.text_generation import TextGenerationPipeline as TextGenerationPipeline

_HOMES = {
    "KeyDataset": "inputs",
    "ReturnType": "options",
    "TextGenerationPipeline": "text_generation",
    "pipeline": "tasks",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
