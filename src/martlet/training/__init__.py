"""Training: `Trainer`, its arguments and callbacks, collators. Names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_FILES = {
    "AutoPeftModel": "peft",
    "AutoPeftModelForCausalLM": "peft",
    "AutoPeftModelForFeatureExtraction": "peft",
    "AutoPeftModelForQuestionAnswering": "peft",
    "AutoPeftModelForSequenceClassification": "peft",
    "AutoPeftModelForTokenClassification": "peft",
    "DPOTrainer": "dpo",
    "DataCollatorForLanguageModeling": "martlet.datasets.collators",
    "DataCollatorForMultipleChoice": "martlet.datasets.collators",
    "DataCollatorForSeq2Seq": "martlet.datasets.collators",
    "DataCollatorForTokenClassification": "martlet.datasets.collators",
    "DataCollatorWithFlattening": "martlet.datasets.collators",
    "DataCollatorWithPadding": "martlet.datasets.collators",
    "DefaultDataCollator": "martlet.datasets.collators",
    "DefaultFlowCallback": "callbacks",
    "EarlyStoppingCallback": "callbacks",
    "EvalLoopOutput": "evaluation",
    "EvalPrediction": "outputs",
    "HfArgumentParser": "parser",
    "IntervalStrategy": "choices",
    "LoraConfig": "peft",
    "LoraModel": "peft",
    "ParallelMode": "arguments",
    "PeftConfig": "peft",
    "PeftModel": "peft",
    "PeftModelForCausalLM": "peft",
    "PeftModelForFeatureExtraction": "peft",
    "PeftModelForQuestionAnswering": "peft",
    "PeftModelForSequenceClassification": "peft",
    "PeftModelForTokenClassification": "peft",
    "PredictionOutput": "outputs",
    "PrinterCallback": "callbacks",
    "ProgressCallback": "watch",
    "SaveStrategy": "choices",
    "SchedulerType": "choices",
    "Seq2SeqTrainer": "seq2seq",
    "Seq2SeqTrainingArguments": "seq2seq",
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
    "cast_mixed_precision_params": "peft",
    "default_data_collator": "martlet.datasets.collators",
    "enable_full_determinism": "determinism",
    "get_constant_schedule": "schedules",
    "get_constant_schedule_with_warmup": "schedules",
    "get_cosine_schedule_with_warmup": "schedules",
    "get_cosine_with_hard_restarts_schedule_with_warmup": "schedules",
    "get_cosine_with_min_lr_schedule_with_warmup": "schedules",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": "schedules",
    "get_inverse_sqrt_schedule": "schedules",
    "get_last_checkpoint": "checkpoints",
    "get_layer_status": "peft",
    "get_linear_schedule_with_warmup": "schedules",
    "get_model_status": "peft",
    "get_peft_model": "peft",
    "get_peft_model_state_dict": "peft",
    "get_polynomial_decay_schedule_with_warmup": "schedules",
    "get_reduce_on_plateau_schedule": "schedules",
    "get_scheduler": "schedules",
    "get_wsd_schedule": "schedules",
    "hotswap_adapter": "peft",
    "load_peft_weights": "peft",
    "prepare_model_for_kbit_training": "peft",
    "replace_lora_weights_loftq": "peft",
    "rescale_adapter_scale": "peft",
    "set_peft_model_state_dict": "peft",
}

__all__ = sorted(_FILES)

if TYPE_CHECKING:
    from martlet.datasets.collators import (
        DataCollatorForLanguageModeling,
        DataCollatorForMultipleChoice,
        DataCollatorForSeq2Seq,
        DataCollatorForTokenClassification,
        DataCollatorWithFlattening,
        DataCollatorWithPadding,
        DefaultDataCollator,
        default_data_collator,
    )
    from martlet.training.arguments import ParallelMode, TrainingArguments
    from martlet.training.callbacks import (
        DefaultFlowCallback,
        EarlyStoppingCallback,
        PrinterCallback,
        TrainerCallback,
    )
    from martlet.training.checkpoints import get_last_checkpoint
    from martlet.training.choices import IntervalStrategy, SaveStrategy, SchedulerType
    from martlet.training.determinism import enable_full_determinism
    from martlet.training.dpo import DPOTrainer
    from martlet.training.estimators import TextClassifier, TextRegressor, TokenClassifier
    from martlet.training.evaluation import EvalLoopOutput
    from martlet.training.outputs import EvalPrediction, PredictionOutput, TrainOutput
    from martlet.training.parser import HfArgumentParser
    from martlet.training.peft import (
        AutoPeftModel,
        AutoPeftModelForCausalLM,
        AutoPeftModelForFeatureExtraction,
        AutoPeftModelForQuestionAnswering,
        AutoPeftModelForSequenceClassification,
        AutoPeftModelForTokenClassification,
        LoraConfig,
        LoraModel,
        PeftConfig,
        PeftModel,
        PeftModelForCausalLM,
        PeftModelForFeatureExtraction,
        PeftModelForQuestionAnswering,
        PeftModelForSequenceClassification,
        PeftModelForTokenClassification,
        TaskType,
        cast_mixed_precision_params,
        get_layer_status,
        get_model_status,
        get_peft_model,
        get_peft_model_state_dict,
        hotswap_adapter,
        load_peft_weights,
        prepare_model_for_kbit_training,
        replace_lora_weights_loftq,
        rescale_adapter_scale,
        set_peft_model_state_dict,
    )
    from martlet.training.schedules import (
        get_constant_schedule,
        get_constant_schedule_with_warmup,
        get_cosine_schedule_with_warmup,
        get_cosine_with_hard_restarts_schedule_with_warmup,
        get_cosine_with_min_lr_schedule_with_warmup,
        get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
        get_inverse_sqrt_schedule,
        get_linear_schedule_with_warmup,
        get_polynomial_decay_schedule_with_warmup,
        get_reduce_on_plateau_schedule,
        get_scheduler,
        get_wsd_schedule,
    )
    from martlet.training.seq2seq import Seq2SeqTrainer, Seq2SeqTrainingArguments
    from martlet.training.state import TrainerControl, TrainerState
    from martlet.training.trainer import Trainer
    from martlet.training.watch import ProgressCallback


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        from martlet.training.absent import explain

        rest = f"module 'martlet.training' has no attribute {name!r}. {explain(name)}"
        raise AttributeError(rest.rstrip(". ") + ".")
    home = _FILES[name]
    value = getattr(import_module(home if "." in home else f"martlet.training.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
