"""Names scripts import from transformers and its modules: each is here, or an ImportError says what to do instead."""

import importlib
import subprocess
import sys

import pytest
import torch
import transformers

import martlet
from martlet import absent
from martlet.errors import ArgumentError, ConfigError, MissingDependencyError, MissingNameError, UnsupportedError

# What courses and guides import for text, by transformers' module.
IMPORTED = {
    "": [
        "AddedToken", "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM",
        "AutoModelForQuestionAnswering", "AutoModelForSequenceClassification", "AutoModelForTokenClassification",
        "AutoTokenizer", "BatchEncoding", "BertConfig", "BertModel", "BertTokenizer", "BertTokenizerFast",
        "BitsAndBytesConfig", "CONFIG_MAPPING", "DataCollatorForLanguageModeling", "DataCollatorForSeq2Seq",
        "DataCollatorForTokenClassification", "DataCollatorWithPadding", "DynamicCache", "EarlyStoppingCallback",
        "FillMaskPipeline", "GPT2LMHeadModel", "GPT2TokenizerFast", "GenerationConfig", "HfArgumentParser",
        "IntervalStrategy", "LlamaForCausalLM", "LogitsProcessorList", "MODEL_FOR_CAUSAL_LM_MAPPING",
        "PreTrainedConfig", "PreTrainedModel", "PreTrainedTokenizerBase",
        "PreTrainedTokenizerFast", "PretrainedConfig", "QuestionAnsweringPipeline",
        "StoppingCriteriaList", "TextClassificationPipeline", "TextGenerationPipeline", "TextStreamer",
        "TokenClassificationPipeline", "Trainer", "TrainingArguments", "ZeroShotClassificationPipeline",
        "default_data_collator", "get_scheduler", "infer_device", "is_torch_available", "logging", "pipeline",
        "set_seed",
    ],
    "data.data_collator": ["DataCollatorWithPadding", "default_data_collator"],
    "generation": ["BaseStreamer", "GenerateDecoderOnlyOutput", "GenerationConfig", "TextIteratorStreamer"],
    "generation.logits_process": ["LogitsProcessor", "TopKLogitsWarper"],
    "generation.stopping_criteria": ["StoppingCriteria", "StoppingCriteriaList"],
    "generation.utils": ["GenerationConfig"],
    "models.llama.modeling_llama": ["LlamaForCausalLM"],
    "optimization": ["get_scheduler", "get_linear_schedule_with_warmup"],
    "pipelines": ["pipeline", "TextGenerationPipeline"],
    "pipelines.pt_utils": ["KeyDataset"],
    "tokenization_utils_base": ["BatchEncoding", "PreTrainedTokenizerBase"],
    "trainer_callback": ["TrainerCallback"],
    "trainer_utils": [
        "EvalPrediction", "IntervalStrategy", "SaveStrategy", "SchedulerType", "get_last_checkpoint", "set_seed",
    ],
    "utils": ["check_min_version", "get_json_schema", "is_datasets_available", "logging"],
    "utils.logging": ["get_logger", "set_verbosity_error"],
    "utils.versions": ["require_version"],
}  # fmt: skip
ABSENT = {
    "AdamW": "Use torch.optim.AdamW",
    "AutoModelForSeq2SeqLM": "Encoder-decoder models are not here",
    "AutoProcessor": "martlet is for text",
    "BertForNextSentencePrediction": "There is no such head",
    "FalconForCausalLM": "The families are bert,",
    "GPTQConfig": "Load a GGUF file",
    "GenerationMixin": "models have generate",
    "MixtralConfig": "docs/add-a-family.md",
    "StaticCache": "kv_cache_dtype",
    "T5ForConditionalGeneration": "Encoder-decoder models are not here",
    "TFAutoModel": "There is no TensorFlow",
    "WatermarkingConfig": "Text is not marked",
    "WhisperProcessor": "martlet is for text",
}


@pytest.mark.parametrize("module", IMPORTED)
def test_names_that_are_here(module):
    home = importlib.import_module(f"martlet.{module}" if module else "martlet")
    for name in IMPORTED[module]:
        assert getattr(home, name) is not None


@pytest.mark.parametrize("name", ABSENT)
def test_names_that_are_not(name):
    assert not hasattr(martlet, name)
    with pytest.raises(MissingNameError, match=ABSENT[name]) as caught:
        exec(f"from martlet import {name}")
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, UnsupportedError)
    with pytest.raises(AttributeError, match=ABSENT[name]):
        getattr(martlet, name)


PEFTS = {
    "AutoPeftModelForSeq2SeqLM": "Use the class that names the task",
    "EvaConfig": "init_lora_weights",
    "IA3Config": "use LoraConfig",
    "LoftQConfig": "replace_lora_weights_loftq",
    "PeftMixedModel": "use LoraConfig",
    "PrefixTuningConfig": "No prompts are learnt",
    "inject_adapter_in_model": "Use get_peft_model",
}


@pytest.mark.parametrize("name", PEFTS)
def test_absent_names_of_adapters(name):
    import martlet.training

    with pytest.raises(MissingNameError, match=PEFTS[name]):
        exec(f"from martlet.training import {name}")
    with pytest.raises(AttributeError, match=PEFTS[name]):
        getattr(martlet.training, name)
    with pytest.raises(ImportError, match="cannot import name 'no_such'"):
        exec("from martlet.training import no_such")


def test_names_of_nobody():
    with pytest.raises(ImportError, match="cannot import name 'no_such'"):
        exec("from martlet import no_such")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("martlet.no_such")
    assert absent.explain("no_such") == ""


def test_no_name_that_is_here_is_said_to_be_absent():
    for module in absent.MODULES:
        assert importlib.import_module(f"martlet.{module}").__name__ == f"martlet.{module}"
    for name in martlet.__all__:
        exec(f"from martlet import {name}")


def test_modules_are_reached_through_the_package():
    code = "import martlet; martlet.utils.logging.set_verbosity_error(); print(martlet.logging.get_verbosity())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "40\n"


def test_classes_that_everything_is_one_of():
    config = martlet.PreTrainedConfig(model_type="llama", **SMALL)
    model = martlet.AutoModelForCausalLM.from_config(config)
    assert isinstance(config, martlet.PretrainedConfig) and isinstance(config, martlet.LlamaConfig)
    assert isinstance(model, martlet.PreTrainedModel) and not isinstance(config, martlet.PreTrainedModel)
    assert martlet.PreTrainedConfig.from_dict(config.to_dict(), use_cache=False).use_cache is False
    for kind in (martlet.PreTrainedModel, martlet.PreTrainedConfig):
        with pytest.raises(UnsupportedError, match="Mine: classes of your own are not built on"):
            type("Mine", (kind,), {})
    for make in (martlet.PreTrainedModel, lambda: martlet.PreTrainedModel.from_pretrained("x")):
        with pytest.raises(ArgumentError, match="Use AutoModel"):
            make()
    for register in (martlet.AutoConfig.register, martlet.AutoModel.register, martlet.AutoModelForCausalLM.register):
        with pytest.raises(UnsupportedError, match="cannot be registered"):
            register("mine", int)


SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("name", sorted(name for name in dir(transformers) if f"{name}" in {
    f"{each.__name__}" for each in martlet.CONFIG_MAPPING.values()
}))  # fmt: skip
def test_sizes_of_a_config_made_without_any(name):
    theirs, ours = getattr(transformers, name)(), getattr(martlet, name)()
    for key in (*SMALL, "max_position_embeddings", "model_type"):
        if getattr(theirs, key, None) is not None and key != "intermediate_size":
            assert getattr(ours, key) == getattr(theirs, key), key
    assert martlet.PreTrainedConfig.from_dict(theirs.to_dict()).arch == ours.arch


def test_sizes_under_common_names():
    for name in ("GPT2Config", "DistilBertConfig", "OPTConfig", "BertConfig"):
        sizes = {**SMALL} if name != "OPTConfig" else {**SMALL, "ffn_dim": 24}
        config = getattr(martlet, name)(**sizes)
        assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 1, 2)
        assert config.arch.intermediate_size == 24
    with pytest.raises(ConfigError, match="hiden_size"):
        martlet.LlamaConfig(hiden_size=3).arch  # noqa: B018


def test_what_is_installed():
    assert martlet.is_torch_available() and martlet.is_tokenizers_available()
    assert not martlet.is_tf_available() and not martlet.is_vision_available()
    assert martlet.infer_device() in ("cpu", "cuda", "mps")
    assert martlet.is_torch_bf16_gpu_available() == (torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    martlet.check_min_version("99")
    martlet.require_version("numpy>=1.20,<99")
    martlet.require_version("numpy")
    for wrong in ("numpy>=99", "no-such-package>=1", "numpy<1", "numpy==0.1"):
        with pytest.raises(MissingDependencyError):
            martlet.require_version(wrong)
    with pytest.raises(ArgumentError):
        martlet.require_version("numpy at least 3")


def test_classes_of_models_by_family():
    types = tuple(config.model_type for config in martlet.MODEL_FOR_CAUSAL_LM_MAPPING)
    assert {"llama", "gpt2", "qwen3"} <= set(types) and "bert" not in types
    assert martlet.MODEL_FOR_CAUSAL_LM_MAPPING["gpt2"].__name__ == "GPT2LMHeadModel"
    assert len(martlet.MODEL_FOR_MASKED_LM_MAPPING) == 4
    assert martlet.CONFIG_MAPPING["qwen2"]().model_type == "qwen2"


def test_the_last_checkpoint(tmp_path):
    assert martlet.get_last_checkpoint(str(tmp_path)) is None
