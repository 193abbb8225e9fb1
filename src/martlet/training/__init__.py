"""Training: `Trainer`, its arguments and callbacks, collators. Names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_FILES = {
    "DPOTrainer": "dpo",
    "DataCollatorForLanguageModeling": "collators",
    "DataCollatorForTokenClassification": "collators",
    "DataCollatorWithPadding": "collators",
    "EarlyStoppingCallback": "callbacks",
    "EvalPrediction": "outputs",
    "LoraConfig": "peft",
    "PeftModel": "peft",
    "PredictionOutput": "outputs",
    "TaskType": "peft",
    "TextClassifier": "estimators",
    "TextRegressor": "estimators",
    "TokenClassifier": "estimators",
    "TrainOutput": "outputs",
    "Trainer": "trainer",
    "TrainerCallback": "callbacks",
    "TrainerControl": "state",
    "TrainerState": "state",
    "TrainingArguments": "arguments",
    "default_data_collator": "collators",
    "get_peft_model": "peft",
    "prepare_model_for_kbit_training": "peft",
}

__all__ = sorted(_FILES)

if TYPE_CHECKING:
    from martlet.training.arguments import TrainingArguments
    from martlet.training.callbacks import EarlyStoppingCallback, TrainerCallback
    from martlet.training.collators import (
        DataCollatorForLanguageModeling,
        DataCollatorForTokenClassification,
        DataCollatorWithPadding,
        default_data_collator,
    )
    from martlet.training.dpo import DPOTrainer
    from martlet.training.estimators import TextClassifier, TextRegressor, TokenClassifier
    from martlet.training.outputs import EvalPrediction, PredictionOutput, TrainOutput
    from martlet.training.peft import (
        LoraConfig,
        PeftModel,
        TaskType,
        get_peft_model,
        prepare_model_for_kbit_training,
    )
    from martlet.training.state import TrainerControl, TrainerState
    from martlet.training.trainer import Trainer


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'martlet.training' has no attribute {name!r}")
    value = getattr(import_module(f"martlet.training.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
