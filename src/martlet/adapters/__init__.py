"""Low-rank adapters on a frozen base, in PEFT's names and files. Names are imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from martlet.adapters.config import LoraConfig as LoraConfig
    from martlet.adapters.config import PeftConfig as PeftConfig
    from martlet.adapters.config import TaskType as TaskType
    from martlet.adapters.hotswap import hotswap_adapter as hotswap_adapter
    from martlet.adapters.hotswap import rescale_adapter_scale as rescale_adapter_scale
    from martlet.adapters.loftq import replace_lora_weights_loftq as replace_lora_weights_loftq
    from martlet.adapters.model import PeftModel as PeftModel
    from martlet.adapters.model import PeftModelForCausalLM as PeftModelForCausalLM
    from martlet.adapters.model import PeftModelForFeatureExtraction as PeftModelForFeatureExtraction
    from martlet.adapters.model import PeftModelForQuestionAnswering as PeftModelForQuestionAnswering
    from martlet.adapters.model import PeftModelForSequenceClassification as PeftModelForSequenceClassification
    from martlet.adapters.model import PeftModelForTokenClassification as PeftModelForTokenClassification
    from martlet.adapters.model import cast_mixed_precision_params as cast_mixed_precision_params
    from martlet.adapters.model import get_peft_model as get_peft_model
    from martlet.adapters.model import prepare_model_for_kbit_training as prepare_model_for_kbit_training
    from martlet.adapters.states import get_peft_model_state_dict as get_peft_model_state_dict
    from martlet.adapters.states import load_peft_weights as load_peft_weights
    from martlet.adapters.states import set_peft_model_state_dict as set_peft_model_state_dict
    from martlet.adapters.status import get_layer_status as get_layer_status
    from martlet.adapters.status import get_model_status as get_model_status
    from martlet.adapters.tuner import LoraModel as LoraModel

_HOMES = {
    "LoraConfig": "config",
    "LoraModel": "tuner",
    "PeftConfig": "config",
    "PeftModel": "model",
    "PeftModelForCausalLM": "model",
    "PeftModelForFeatureExtraction": "model",
    "PeftModelForQuestionAnswering": "model",
    "PeftModelForSequenceClassification": "model",
    "PeftModelForTokenClassification": "model",
    "TaskType": "config",
    "cast_mixed_precision_params": "model",
    "get_layer_status": "status",
    "get_model_status": "status",
    "get_peft_model": "model",
    "get_peft_model_state_dict": "states",
    "hotswap_adapter": "hotswap",
    "load_peft_weights": "states",
    "prepare_model_for_kbit_training": "model",
    "replace_lora_weights_loftq": "loftq",
    "rescale_adapter_scale": "hotswap",
    "set_peft_model_state_dict": "states",
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
