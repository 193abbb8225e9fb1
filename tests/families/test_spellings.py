"""One model, spelled as the years spelled it: every spelling leads to the same `Arch`."""

from __future__ import annotations

from typing import Any

import pytest
from sibling_configs import CONFIGS, without

from martlet.arch import RopeScaling
from martlet.errors import ConfigError, UnsupportedError
from martlet.families import Config

LLAMA = CONFIGS["meta-llama/Llama-3.2-1B"]
QWEN, QWEN3 = CONFIGS["Qwen/Qwen2.5-0.5B-Instruct"], CONFIGS["Qwen/Qwen3-0.6B"]
PHI, PYTHIA, MISTRAL = (CONFIGS[n] for n in ("microsoft/phi-2", "EleutherAI/pythia-160m", "mistralai/Mistral-7B-v0.1"))
PHI_1_5 = CONFIGS["microsoft/phi-1_5"]
GEMMA2, GEMMA3 = CONFIGS["google/gemma-2-2b-it"], CONFIGS["google/gemma-3-1b-it"]
TABLE: dict[str, Any] = LLAMA["rope_scaling"]
BARE = without(LLAMA, "rope_theta", "rope_scaling")
NAMED_TYPE = {("type" if key == "rope_type" else key): value for key, value in TABLE.items()}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}
SLIDING, FULL = "sliding_attention", "full_attention"

SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # the rotation
    "rope_parameters hold theta": (LLAMA, BARE | {"rope_parameters": TABLE | {"rope_theta": 500000.0}}),
    "rope_parameters beside theta": (LLAMA, BARE | {"rope_parameters": TABLE, "rope_theta": 500000.0}),
    "both tables, alike": (LLAMA, LLAMA | {"rope_parameters": TABLE}),
    "type for rope_type": (LLAMA, LLAMA | {"rope_scaling": NAMED_TYPE}),
    "type and rope_type": (LLAMA, LLAMA | {"rope_scaling": TABLE | {"type": "llama3"}}),
    "whole numbers": (LLAMA, LLAMA | {"rope_theta": 500000, "rope_scaling": TABLE | {"factor": 32}}),
    "rope_scaling absent, null or empty": (without(QWEN, "rope_scaling"), QWEN | {"rope_scaling": None}),
    "rope_scaling empty": (QWEN, QWEN | {"rope_scaling": {}}),
    "rope_type default": (QWEN, QWEN | {"rope_scaling": {"rope_type": "default"}}),
    "rope_theta absent is 10,000": (MISTRAL, without(MISTRAL, "rope_theta")),
    "yarn by type": (
        QWEN | {"rope_scaling": YARN | {"type": "yarn"}},
        without(QWEN, "rope_theta") | {"rope_parameters": YARN | {"rope_type": "yarn", "rope_theta": 1e6}},
    ),
    "partial_rotary_factor in the table": (
        PHI,
        without(PHI, "partial_rotary_factor", "rope_theta")
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4}},
    ),
    "rotary_pct in the table": (
        PYTHIA,
        without(PYTHIA, "rotary_pct", "rotary_emb_base")
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
    ),
    "rotary_pct absent": (PYTHIA, without(PYTHIA, "rotary_pct", "rotary_emb_base")),
    "gemma3's two tables": (
        GEMMA3,
        without(GEMMA3, "rope_theta", "rope_local_base_freq", "rope_scaling")
        | {
            "rope_parameters": {
                FULL: {"rope_type": "default", "rope_theta": 1000000.0},
                SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
            }
        },
    ),
    # sizes
    "head_dim absent": (LLAMA, without(LLAMA, "head_dim")),
    "head_dim null": (LLAMA, LLAMA | {"head_dim": None}),
    "num_key_value_heads absent": (PHI_1_5, without(PHI_1_5, "num_key_value_heads")),
    "sizes as 2.0": (LLAMA, LLAMA | {"hidden_size": 2048.0}),
    # tying
    "gemma tied where it does not say": (GEMMA2, GEMMA2 | {"tie_word_embeddings": True}),
    "llama untied where it does not say": (
        CONFIGS["huggyllama/llama-7b"],
        without(CONFIGS["huggyllama/llama-7b"], "tie_word_embeddings"),
    ),
    "gpt2 tied where it does not say": (
        CONFIGS["openai-community/gpt2"],
        CONFIGS["openai-community/gpt2"] | {"tie_word_embeddings": True},
    ),
    # windows
    "sliding_window not in use": (QWEN, QWEN | {"sliding_window": None}),
    "layer_types all full": (QWEN, QWEN | {"layer_types": [FULL] * 24}),
    "max_window_layers is nothing without a window": (QWEN, without(QWEN, "max_window_layers")),
    "mistral's layer_types": (MISTRAL, MISTRAL | {"layer_types": [SLIDING] * 32}),
    "gemma2's layer_types": (GEMMA2, GEMMA2 | {"layer_types": [SLIDING, FULL] * 13}),
    "gemma3's pattern, underscored": (
        GEMMA3,
        without(GEMMA3, "sliding_window_pattern") | {"_sliding_window_pattern": 6},
    ),
    "gemma3's layer_types": (
        GEMMA3,
        without(GEMMA3, "sliding_window_pattern")
        | {"layer_types": [FULL if index % 6 == 5 else SLIDING for index in range(26)]},
    ),
    # the rest
    "dtype for torch_dtype": (LLAMA, without(LLAMA, "torch_dtype") | {"dtype": "bfloat16"}),
    "several ends": (LLAMA, LLAMA | {"eos_token_id": [128001, 128008, 128009]}),
    "attention_bias absent": (QWEN3, without(QWEN3, "attention_bias")),
    "hidden_act swish": (LLAMA, LLAMA | {"hidden_act": "swish"}),
    "no model_type, by the class": (LLAMA, without(LLAMA, "model_type")),
}


@pytest.mark.parametrize("name", SAME)
def test_spellings_of_one_model(name: str) -> None:
    one, other = SAME[name]
    assert Config(one).arch == Config(other).arch


@pytest.mark.parametrize("key", ["eos_token_id", "torch_dtype", "dtype", "use_cache", "transformers_version"])
def test_values_stay_as_the_file_has_them(key: str) -> None:
    config = Config(LLAMA | {"eos_token_id": [128001, 128008], "dtype": "float16"})
    assert getattr(config, key) == config.to_dict()[key]
    assert config.eos_token_id == [128001, 128008] and config.torch_dtype == "bfloat16"


def test_windows_by_the_layer() -> None:
    sliding = QWEN | {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 21}
    assert [layer.window for layer in Config(sliding).arch.layers] == [0] * 21 + [4096] * 3
    types = [SLIDING] * 3 + [FULL] * 21
    assert [layer.window for layer in Config(sliding | {"layer_types": types}).arch.layers] == [4096] * 3 + [0] * 21


def test_biases_and_fractions_are_read() -> None:
    assert Config(LLAMA | {"attention_bias": True}).arch.out_bias and Config(LLAMA | {"mlp_bias": True}).arch.mlp_bias
    rope = Config(PHI).arch.layers[0].rope
    assert rope is not None and rope.num_rotated(80) == 32
    dynamic = Config(CONFIGS["a Llama 2 stretched as NTK"]).arch.layers[0].rope
    assert dynamic is not None and dynamic.scaling is RopeScaling.DYNAMIC


METHODS = {
    "gptq": {"bits": 4, "group_size": 128, "quant_method": "gptq", "desc_act": False},
    "awq": {"bits": 4, "group_size": 128, "quant_method": "awq", "zero_point": True},
    "bitsandbytes": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"},
    "fp8": {"activation_scheme": "dynamic", "quant_method": "fp8", "weight_block_size": [128, 128]},
}


@pytest.mark.parametrize("method", METHODS)
def test_quantized_checkpoints_are_named_as_such(method: str) -> None:
    with pytest.raises(UnsupportedError, match=f"quantization_config: weights quantized with {method} cannot be read"):
        Config(LLAMA | {"quantization_config": METHODS[method]}).arch  # noqa: B018
    with pytest.raises(UnsupportedError, match=r"compression_config: .* GGUF"):
        Config(LLAMA | {"compression_config": {"format": "pack"}}).arch  # noqa: B018


def test_two_tables_that_differ() -> None:
    with pytest.raises(ConfigError, match="rope_parameters and rope_scaling are two names of one table"):
        Config(LLAMA | {"rope_parameters": TABLE | {"factor": 8.0}}).arch  # noqa: B018
