"""Tasks by name: text in, text or labels out. Each name is imported when first used; no model code lives here."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from martlet.pipelines.feature_extraction import FeatureExtractionPipeline as FeatureExtractionPipeline
    from martlet.pipelines.fill_mask import FillMaskPipeline as FillMaskPipeline
    from martlet.pipelines.inputs import KeyDataset as KeyDataset
    from martlet.pipelines.options import ReturnType as ReturnType
    from martlet.pipelines.question_answering import QuestionAnsweringPipeline as QuestionAnsweringPipeline
    from martlet.pipelines.tasks import pipeline as pipeline
    from martlet.pipelines.text_classification import TextClassificationPipeline as TextClassificationPipeline
    from martlet.pipelines.text_generation import TextGenerationPipeline as TextGenerationPipeline
    from martlet.pipelines.token_classification import TokenClassificationPipeline as TokenClassificationPipeline
    from martlet.pipelines.zero_shot_classification import (
        ZeroShotClassificationPipeline as ZeroShotClassificationPipeline,
    )

_HOMES = {
    "KeyDataset": "inputs",
    "ReturnType": "options",
    "TextGenerationPipeline": "text_generation",
    "FeatureExtractionPipeline": "feature_extraction",
    "FillMaskPipeline": "fill_mask",
    "QuestionAnsweringPipeline": "question_answering",
    "TextClassificationPipeline": "text_classification",
    "TokenClassificationPipeline": "token_classification",
    "ZeroShotClassificationPipeline": "zero_shot_classification",
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
