"""config.json texts of more checkpoints, each as what differs from a sibling's; and the published parameter counts."""

from __future__ import annotations

from typing import Any

from family_configs import CONFIGS as FIRST
from family_configs import LLAMA3_SCALING

LLAMA2, LLAMA31, LLAMA32 = (FIRST[f"meta-llama/Llama-{n}"] for n in ("2-7b-hf", "3.1-8B", "3.2-1B"))
SMOL, MISTRAL = FIRST["HuggingFaceTB/SmolLM2-135M-Instruct"], FIRST["mistralai/Mistral-7B-Instruct-v0.3"]
QWEN25, QWEN3 = FIRST["Qwen/Qwen2.5-0.5B-Instruct"], FIRST["Qwen/Qwen3-0.6B"]
GEMMA, GEMMA2, GEMMA3 = (FIRST[f"google/gemma-{n}"] for n in ("2b", "2-2b-it", "3-1b-it"))
GPT2, OPT, PYTHIA = FIRST["openai-community/gpt2"], FIRST["facebook/opt-125m"], FIRST["EleutherAI/pythia-160m"]
PHI3, PHI35, PHI4 = (FIRST[f"microsoft/Phi-{n}-instruct"] for n in ("3-mini-4k", "3.5-mini", "4-mini"))
GRANITE, OLMO2 = FIRST["ibm-granite/granite-3.1-2b-instruct"], FIRST["allenai/OLMo-2-0425-1B"]


def sizes(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int | None = None) -> dict[str, Any]:
    found = {"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads}
    return found | ({} if kv_heads is None else {"num_key_value_heads": kv_heads})


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


SIBLINGS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-3B": LLAMA32 | sizes(3072, 8192, 28, 24, 8) | {"head_dim": 128},
    "meta-llama/Meta-Llama-3-8B": without(LLAMA31, "mlp_bias")
    | {"eos_token_id": 128001, "max_position_embeddings": 8192, "rope_scaling": None},
    "codellama/CodeLlama-7b-hf": LLAMA2
    | {"max_position_embeddings": 16384, "rope_theta": 1000000, "vocab_size": 32016, "torch_dtype": "bfloat16"},
    "lmsys/longchat-7b-v1.5-32k": LLAMA2
    | {"rope_scaling": {"factor": 8.0, "type": "linear"}, "keys_to_ignore_at_inference": ["past_key_values"]},
    "a Llama 2 stretched as NTK": LLAMA2 | {"rope_scaling": {"factor": 2.0, "type": "dynamic"}},
    "HuggingFaceTB/SmolLM2-360M": SMOL
    | sizes(960, 2560, 32, 15, 5)
    | {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None},
    "HuggingFaceTB/SmolLM2-1.7B": SMOL | sizes(2048, 8192, 24, 32, 32) | {"rope_theta": 130000},
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": LLAMA31 | {"eos_token_id": 128001, "transformers_version": "4.43.0"},
    "mistralai/Mistral-Nemo-Base-2407": MISTRAL
    | sizes(5120, 14336, 40, 32, 8)
    | {"max_position_embeddings": 128000, "vocab_size": 131072, "head_dim": 128},
    "mistralai/Mistral-7B-Instruct-v0.2": without(MISTRAL, "head_dim") | {"vocab_size": 32000},
    "Qwen/Qwen2.5-1.5B": QWEN25
    | sizes(1536, 8960, 28, 12, 2)
    | {"max_position_embeddings": 131072, "max_window_layers": 28, "use_mrope": False, "sliding_window": 131072},
    "Qwen/Qwen2.5-7B": QWEN25
    | sizes(3584, 18944, 28, 28, 4)
    | {"max_position_embeddings": 131072, "sliding_window": 131072, "tie_word_embeddings": False, "vocab_size": 152064},
    "Qwen/Qwen3-4B": QWEN3 | sizes(2560, 9728, 36, 32, 8) | {"max_window_layers": 36},
    "Qwen/Qwen3-8B": QWEN3
    | sizes(4096, 12288, 36, 32, 8)
    | {"max_window_layers": 36, "tie_word_embeddings": False, "rope_scaling": None},
    "microsoft/Phi-3-medium-4k-instruct": PHI3
    | sizes(5120, 17920, 40, 40, 10)
    | {"vocab_size": 32064, "_name_or_path": "Phi-3-medium-4k-instruct"},
    "microsoft/phi-4": without(PHI3, "auto_map")
    | sizes(5120, 17920, 40, 40, 10)
    | {"max_position_embeddings": 16384, "original_max_position_embeddings": 16384, "rope_theta": 250000}
    | {"bos_token_id": 100257, "eos_token_id": 100265, "pad_token_id": 100349, "vocab_size": 100352}
    | {"sliding_window": None},
    "google/gemma-7b": GEMMA | sizes(3072, 24576, 28, 16, 16) | {"hidden_activation": "gelu_pytorch_tanh"},
    "google/gemma-2-9b": GEMMA2 | sizes(3584, 14336, 42, 16, 8) | {"eos_token_id": 1, "sliding_window_size": 4096},
    "google/gemma-2-27b": GEMMA2 | sizes(4608, 36864, 46, 32, 16) | {"head_dim": 128, "query_pre_attn_scalar": 144},
    "openai-community/gpt2-medium": GPT2
    | {"n_embd": 1024, "n_head": 16, "n_layer": 24, "n_special": 0, "predict_special_tokens": True},
    "openai-community/gpt2-large": GPT2 | {"n_embd": 1280, "n_head": 20, "n_layer": 36},
    "openai-community/gpt2-xl": GPT2 | {"n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True},
    "cerebras/Cerebras-GPT-111M": GPT2
    | {"activation_function": "gelu", "n_embd": 768, "n_head": 12, "n_inner": 3072, "n_layer": 10, "n_positions": 2048}
    | {"scale_attn_weights": True, "reorder_and_upcast_attn": False, "scale_attn_by_inverse_layer_idx": False},
    "facebook/opt-1.3b": OPT
    | {"ffn_dim": 8192, "hidden_size": 2048, "num_attention_heads": 32, "num_hidden_layers": 24}
    | {"word_embed_proj_dim": 2048},
    "facebook/galactica-125m": OPT
    | {"activation_function": "gelu", "enable_bias": True, "layer_norm_elementwise_affine": True, "vocab_size": 50000}
    | {"learned_embeddings": True, "scale_embeddings": False, "max_position_embeddings": 2048},
    "EleutherAI/pythia-70m": PYTHIA | sizes(512, 2048, 6, 8),
    "EleutherAI/pythia-410m": PYTHIA | sizes(1024, 4096, 24, 16),
    "EleutherAI/gpt-neox-20b": PYTHIA
    | sizes(6144, 24576, 44, 64)
    | {"attention_probs_dropout_prob": 0, "hidden_act": "gelu_fast", "hidden_dropout_prob": 0, "vocab_size": 50432},
    "databricks/dolly-v2-3b": PYTHIA
    | sizes(2560, 10240, 32, 32)
    | {"custom_pipelines": {"text-generation": {"impl": "instruct_pipeline.InstructionTextGenerationPipeline"}}}
    | {"vocab_size": 50280},
    "microsoft/phi-1": FIRST["microsoft/phi-1_5"] | {"_name_or_path": "microsoft/phi-1"},
    "ibm-granite/granite-3.3-8b-instruct": GRANITE
    | sizes(4096, 12800, 40, 32, 8)
    | {"attention_multiplier": 0.0078125, "logits_scaling": 16.0, "rope_theta": 10000000.0, "vocab_size": 49159},
    "allenai/OLMo-2-1124-7B": OLMO2 | sizes(4096, 11008, 32, 32, 32),
    "Llama-3.1-8B with type for rope_type": LLAMA31
    | {"rope_scaling": {"type": "llama3", **without(LLAMA3_SCALING, "rope_type")}},
}
CONFIGS = FIRST | SIBLINGS

# As the Hub's page or the paper counts them; a tied head is counted once.
NUM_PARAMETERS = {
    "huggyllama/llama-7b": 6_738_415_616,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "codellama/CodeLlama-7b-hf": 6_738_546_688,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "01-ai/Yi-6B": 6_061_035_520,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai/Mistral-Nemo-Base-2407": 12_247_782_400,
    "Qwen/Qwen1.5-0.5B": 463_987_712,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
    "microsoft/Phi-3-medium-4k-instruct": 13_960_238_080,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "microsoft/phi-4": 14_659_507_200,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-7b": 8_537_680_896,
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-270m": 268_098_176,
    "google-bert/bert-base-uncased": 109_514_298,
    "sentence-transformers/all-MiniLM-L6-v2": 22_713_216,
    "distilbert/distilbert-base-uncased": 66_985_530,
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": 66_955_010,
    "FacebookAI/roberta-base": 124_697_433,
    "FacebookAI/xlm-roberta-base": 278_295_186,
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-medium": 354_823_168,
    "openai-community/gpt2-large": 774_030_080,
    "openai-community/gpt2-xl": 1_557_611_200,
    "distilbert/distilgpt2": 81_912_576,
    "cerebras/Cerebras-GPT-111M": 111_050_496,
    "facebook/opt-125m": 125_239_296,
    "facebook/opt-350m": 331_196_416,
    "facebook/opt-1.3b": 1_315_758_080,
    "EleutherAI/pythia-70m": 70_426_624,
    "EleutherAI/pythia-160m": 162_322_944,
    "EleutherAI/pythia-410m": 405_334_016,
    "EleutherAI/gpt-neox-20b": 20_554_567_680,
    "microsoft/phi-1": 1_418_270_720,
    "microsoft/phi-1_5": 1_418_270_720,
    "microsoft/phi-2": 2_779_683_840,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "ibm-granite/granite-3.1-2b-instruct": 2_533_531_648,
    "ibm-granite/granite-3.3-8b-instruct": 8_170_864_640,
    "allenai/OLMo-2-0425-1B": 1_484_916_736,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
}
