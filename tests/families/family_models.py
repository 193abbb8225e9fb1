"""Small random Hugging Face models of every family, and their weights as numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

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
SMALL_GPT2 = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SMALL_OPT = {key: value for key, value in SMALL.items() if key not in ("intermediate_size", "num_key_value_heads")} | {
    "ffn_dim": 48
}
SMALL_NEOX = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}

# (model_type, config keys): each family, and each of its variants that names other tensors or other choices
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL),
    "llama-tied": ("llama", SMALL | {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-biased": ("llama", SMALL | {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "mistral": ("mistral", SMALL | {"sliding_window": 8}),
    "mistral-full": ("mistral", SMALL | {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", SMALL),
    "qwen2-sliding": ("qwen2", SMALL | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("qwen3", SMALL | {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-biased": ("qwen3", SMALL | {"head_dim": 16, "attention_bias": True}),
    "phi3": ("phi3", SMALL | {"sliding_window": 8}),
    "gemma": ("gemma", SMALL | {"head_dim": 16}),
    "gemma2": ("gemma2", SMALL | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 24}),
    "gemma3_text": (
        "gemma3_text",
        SMALL | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 24, "sliding_window_pattern": 2},
    ),
    "gpt2": ("gpt2", SMALL_GPT2),
    "gpt2-unscaled": ("gpt2", SMALL_GPT2 | {"scale_attn_weights": False, "n_inner": 40, "tie_word_embeddings": False}),
    "opt": ("opt", SMALL_OPT),
    "opt-350m": ("opt", SMALL_OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "opt-unbiased": (
        "opt",
        SMALL_OPT | {"enable_bias": False, "activation_function": "gelu", "tie_word_embeddings": False},
    ),
    "gpt_neox": ("gpt_neox", SMALL_NEOX),
    "gpt_neox-serial": (
        "gpt_neox",
        SMALL_NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0, "attention_bias": False},
    ),
    "phi": ("phi", SMALL),
    "smollm3": ("smollm3", SMALL | {"no_rope_layer_interval": 2}),
    "granite": (
        "granite",
        SMALL
        | {
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.0625,
        },
    ),
    "olmo2": ("olmo2", SMALL),
}


def hf_config(name: str) -> Any:
    from transformers import AutoConfig

    model_type, keys = CASES[name]
    return AutoConfig.for_model(model_type, **keys)


def hf_model(name: str) -> Any:
    """A causal LM whose every weight is random, norms and biases too."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(hf_config(name), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model.eval()


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """The state dict as numpy arrays, a tied head left out as `save_pretrained` leaves it out."""
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    return {name: tensor.numpy() for name, tensor in model.state_dict().items() if name not in tied}
