"""Adapters under the names people import with a trainer. They live in martlet.adapters."""

from martlet.adapters import LoraConfig, PeftModel, TaskType, get_peft_model, prepare_model_for_kbit_training

__all__ = ["LoraConfig", "PeftModel", "TaskType", "get_peft_model", "prepare_model_for_kbit_training"]
