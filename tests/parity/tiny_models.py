"""A tiny config of every family, as keywords of Hugging Face's config classes."""

from typing import Any

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA = {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 12}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 1.5, 2.5, 4.0],
}

# name -> (model_type, keywords)
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL),
    "llama-3.1": ("llama", SMALL | {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-biased": ("llama", SMALL | {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "mistral": ("mistral", SMALL | {"sliding_window": 5}),
    "qwen2": ("qwen2", SMALL | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", SMALL | {"head_dim": 16}),
    "phi3": ("phi3", SMALL),
    "phi3-long": ("phi3", SMALL | {"rope_parameters": LONG, "original_max_position_embeddings": 24}),
    "gemma2": ("gemma2", SMALL | GEMMA | {"num_hidden_layers": 4}),
    "gemma3": ("gemma3_text", SMALL | GEMMA | {"num_hidden_layers": 7}),
    "gpt2": ("gpt2", {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, **IDS}),
    "opt": (
        "opt",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            **IDS,
        },
    ),
    "opt-350m": (
        "opt",
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 16,
            "do_layer_norm_before": False,
            **IDS,
        },
    ),
    "gpt_neox": ("gpt_neox", {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    "gpt_neox-serial": (
        "gpt_neox",
        {k: v for k, v in SMALL.items() if k != "num_key_value_heads"} | {"use_parallel_residual": False},
    ),
    "phi": ("phi", SMALL),
    "smollm3": ("smollm3", SMALL | {"num_hidden_layers": 5}),
    "gemma": ("gemma", SMALL | {"head_dim": 16}),
    "granite": (
        "granite",
        SMALL
        | {
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
    ),
    "olmo2": ("olmo2", SMALL),
}

SMALL_BERT: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
# encoders, name -> (model_type, keywords)
TINY_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", SMALL_BERT),
    "bert-new-gelu": (
        "bert",
        SMALL_BERT | {"hidden_act": "gelu_new", "type_vocab_size": 3},
    ),
    "roberta": ("roberta", SMALL_BERT | {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": ("xlm-roberta", SMALL_BERT | {"pad_token_id": 1, "type_vocab_size": 1}),
    "distilbert": (
        "distilbert",
        {
            "vocab_size": 96,
            "dim": 32,
            "hidden_dim": 48,
            "n_layers": 3,
            "n_heads": 4,
            "max_position_embeddings": 40,
            "pad_token_id": 0,
        },
    ),
}
