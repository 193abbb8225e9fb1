"""martlet: load, run, train and serve open transformer models with the code people write for `transformers`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from martlet import absent

__version__ = "0.1.0"

# Names and the room each lives in, imported when first used: `import martlet` loads no torch and takes milliseconds.
_ROOMS = {
    "AddedToken": "tokenizers",
    "AsyncTextIteratorStreamer": "generation",
    "AutoConfig": "auto",
    "AutoModel": "auto",
    "AutoModelForCausalLM": "auto",
    "AutoModelForMaskedLM": "auto_heads",
    "AutoModelForMultipleChoice": "auto_heads",
    "AutoModelForQuestionAnswering": "auto_heads",
    "AutoModelForSequenceClassification": "auto_heads",
    "AutoModelForTokenClassification": "auto_heads",
    "AutoTokenizer": "tokenizers",
    "BaseStreamer": "generation",
    "BatchEncoding": "tokenizers",
    "BitsAndBytesConfig": "bits",
    "CONFIG_MAPPING": "scripts",
    "DataCollatorForLanguageModeling": "datasets",
    "DataCollatorForMultipleChoice": "datasets",
    "DataCollatorForSeq2Seq": "datasets",
    "DataCollatorForTokenClassification": "datasets",
    "DataCollatorWithFlattening": "datasets",
    "DataCollatorWithPadding": "datasets",
    "DefaultDataCollator": "datasets",
    "DefaultFlowCallback": "training",
    "DynamicCache": "nn.cache",
    "EarlyStoppingCallback": "training",
    "EncoderNoRepeatNGramLogitsProcessor": "generation",
    "EncoderRepetitionPenaltyLogitsProcessor": "generation",
    "EosTokenCriteria": "generation",
    "EpsilonLogitsWarper": "generation",
    "EtaLogitsWarper": "generation",
    "EvalPrediction": "training",
    "ExponentialDecayLengthPenalty": "generation",
    "FeatureExtractionPipeline": "pipelines",
    "FillMaskPipeline": "pipelines",
    "ForcedBOSTokenLogitsProcessor": "generation",
    "ForcedEOSTokenLogitsProcessor": "generation",
    "GenerateBeamDecoderOnlyOutput": "generation",
    "GenerateDecoderOnlyOutput": "generation",
    "GenerationConfig": "generation",
    "HfArgumentParser": "training",
    "InfNanRemoveLogitsProcessor": "generation",
    "IntervalStrategy": "training",
    "LogitNormalization": "generation",
    "LogitsProcessor": "generation",
    "LogitsProcessorList": "generation",
    "MODEL_FOR_CAUSAL_LM_MAPPING": "scripts",
    "MODEL_FOR_MASKED_LM_MAPPING": "scripts",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING": "scripts",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING": "scripts",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING": "scripts",
    "MODEL_MAPPING": "scripts",
    "MaxLengthCriteria": "generation",
    "MaxTimeCriteria": "generation",
    "MinLengthLogitsProcessor": "generation",
    "MinNewTokensLengthLogitsProcessor": "generation",
    "MinPLogitsWarper": "generation",
    "NoBadWordsLogitsProcessor": "generation",
    "NoRepeatNGramLogitsProcessor": "generation",
    "PreTrainedConfig": "auto_named",
    "PreTrainedModel": "auto_named",
    "PreTrainedTokenizerBase": "tokenizers",
    "PreTrainedTokenizerFast": "tokenizers",
    "PrefixConstrainedLogitsProcessor": "generation",
    "PretrainedConfig": "auto_named",
    "PrinterCallback": "training",
    "ProgressCallback": "training",
    "QuestionAnsweringPipeline": "pipelines",
    "RepetitionPenaltyLogitsProcessor": "generation",
    "SaveStrategy": "training",
    "SchedulerType": "training",
    "Seq2SeqTrainer": "training",
    "Seq2SeqTrainingArguments": "training",
    "SequenceBiasLogitsProcessor": "generation",
    "StopStringCriteria": "generation",
    "StoppingCriteria": "generation",
    "StoppingCriteriaList": "generation",
    "SuppressTokensAtBeginLogitsProcessor": "generation",
    "SuppressTokensLogitsProcessor": "generation",
    "TemperatureLogitsWarper": "generation",
    "TextClassificationPipeline": "pipelines",
    "TextGenerationPipeline": "pipelines.text_generation",
    "TextIteratorStreamer": "generation",
    "TextStreamer": "generation",
    "TokenClassificationPipeline": "pipelines",
    "TopHLogitsWarper": "generation",
    "TopKLogitsWarper": "generation",
    "TopPLogitsWarper": "generation",
    "Trainer": "training",
    "TrainerCallback": "training",
    "TrainerControl": "training",
    "TrainerState": "training",
    "TrainingArguments": "training",
    "TypicalLogitsWarper": "generation",
    "ZeroShotClassificationPipeline": "pipelines",
    "check_min_version": "scripts",
    "default_data_collator": "datasets",
    "enable_full_determinism": "training",
    "get_constant_schedule": "training",
    "get_constant_schedule_with_warmup": "training",
    "get_cosine_schedule_with_warmup": "training",
    "get_cosine_with_hard_restarts_schedule_with_warmup": "training",
    "get_cosine_with_min_lr_schedule_with_warmup": "training",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": "training",
    "get_inverse_sqrt_schedule": "training",
    "get_json_schema": "tokenizers",
    "get_last_checkpoint": "scripts",
    "get_linear_schedule_with_warmup": "training",
    "get_polynomial_decay_schedule_with_warmup": "training",
    "get_reduce_on_plateau_schedule": "training",
    "get_scheduler": "training",
    "get_wsd_schedule": "training",
    "infer_device": "scripts",
    "is_accelerate_available": "scripts",
    "is_bitsandbytes_available": "scripts",
    "is_datasets_available": "scripts",
    "is_flash_attn_2_available": "scripts",
    "is_flax_available": "scripts",
    "is_peft_available": "scripts",
    "is_sentencepiece_available": "scripts",
    "is_tf_available": "scripts",
    "is_tokenizers_available": "scripts",
    "is_torch_available": "scripts",
    "is_torch_bf16_gpu_available": "scripts",
    "is_torch_xla_available": "scripts",
    "is_vision_available": "scripts",
    "pipeline": "pipelines",
    "require_version": "scripts",
    "set_seed": "generation",
}

# What the names of a family's classes end with: LlamaForCausalLM, GPT2Tokenizer, BertConfig (auto_named.py has them).
_OF_FAMILIES = (
    "Answering",
    "CausalLM",
    "Choice",
    "Classification",
    "Config",
    "LMHeadModel",
    "MaskedLM",
    "Model",
    "Tokenizer",
    "TokenizerFast",
)

# Rooms whose names people reach through the package: martlet.logging.set_verbosity_error().
_ROOM_NAMES = ("datasets", "generation", "logging", "pipelines", "tokenizers", "training")

__all__ = ["__version__", *sorted(_ROOMS)]

if TYPE_CHECKING:
    from martlet.auto import AutoConfig, AutoModel, AutoModelForCausalLM
    from martlet.auto_heads import (
        AutoModelForMaskedLM,
        AutoModelForMultipleChoice,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )
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
    from martlet.generation import (
        AsyncTextIteratorStreamer,
        EncoderNoRepeatNGramLogitsProcessor,
        EncoderRepetitionPenaltyLogitsProcessor,
        EosTokenCriteria,
        EpsilonLogitsWarper,
        EtaLogitsWarper,
        ForcedBOSTokenLogitsProcessor,
        ForcedEOSTokenLogitsProcessor,
        GenerationConfig,
        InfNanRemoveLogitsProcessor,
        LogitsProcessor,
        LogitsProcessorList,
        MaxLengthCriteria,
        MaxTimeCriteria,
        MinLengthLogitsProcessor,
        MinNewTokensLengthLogitsProcessor,
        MinPLogitsWarper,
        NoBadWordsLogitsProcessor,
        NoRepeatNGramLogitsProcessor,
        PrefixConstrainedLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        SequenceBiasLogitsProcessor,
        StoppingCriteria,
        StoppingCriteriaList,
        StopStringCriteria,
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
        TemperatureLogitsWarper,
        TextIteratorStreamer,
        TextStreamer,
        TopHLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
        TypicalLogitsWarper,
        set_seed,
    )
    from martlet.nn.cache import DynamicCache
    from martlet.pipelines import pipeline
    from martlet.pipelines.text_generation import TextGenerationPipeline
    from martlet.tokenizers import AddedToken, AutoTokenizer, BatchEncoding
    from martlet.training.arguments import TrainingArguments
    from martlet.training.callbacks import DefaultFlowCallback, EarlyStoppingCallback, PrinterCallback, TrainerCallback
    from martlet.training.choices import IntervalStrategy, SaveStrategy, SchedulerType
    from martlet.training.determinism import enable_full_determinism
    from martlet.training.outputs import EvalPrediction
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


def _named(name: str) -> Any:
    return import_module("martlet.auto_named").find(name)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        value = getattr(import_module(f"martlet.{_ROOMS[name]}"), name)
    elif name in _ROOM_NAMES or name in absent.MODULES:
        value = import_module(f"martlet.{name}")
    elif not (name[:1].isupper() and name.endswith(_OF_FAMILIES)) or (value := _named(name)) is None:
        raise AttributeError(f"module 'martlet' has no attribute {name!r}. {absent.explain(name)}".rstrip(". ") + ".")
    globals()[name] = value
    return value


absent.install()


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
