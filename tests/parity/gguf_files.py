"""GGUF files of Hugging Face models, laid out as by llama.cpp's converter and written by the gguf package."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

Array = np.ndarray
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "phi": gguf.MODEL_ARCH.PHI2,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "starcoder2": gguf.MODEL_ARCH.STARCODER2,
}
PAIRED = ("llama", "mistral", "smollm3", "granite")  # llama.cpp turns neighbouring rows of q and k
PLUS_ONE = ("gemma", "gemma2", "gemma3_text")
Quantize = Callable[[str, Array], tuple[Array, gguf.GGMLQuantizationType] | None]


def make_model(model_type: str, keywords: dict[str, Any], seed: int = 0) -> Any:
    """Hugging Face's model of these keywords, with random weights."""
    return fill_random(transformers.AutoConfig.for_model(model_type, **copy.deepcopy(keywords)), 0.3, seed)


def fill_random(config: Any, std: float, seed: int, kind: Any = transformers.AutoModelForCausalLM) -> Any:
    """Hugging Face's model of a config in float32, every weight random, norms and biases too."""
    torch.manual_seed(seed)
    model = kind.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, std)
        else:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model


def write_gguf(model: Any, path: Path, quantize: Quantize | None = None, **more: Any) -> Path:
    """`quantize(name, array)` may give the bytes and block type of a tensor; `more` are further keys, __ for a dot."""
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture])
    _SETTINGS.get(config.model_type, _write_common)(writer, config)
    for key, value in more.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{writer.arch}.{key.replace('__', '.')}", value)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, array in converted(model):
        packed = quantize(name, array) if quantize else None
        if packed:
            writer.add_tensor(name, packed[0], raw_dtype=packed[1])
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def converted(model: Any) -> Iterator[tuple[str, Array]]:
    """Every tensor under llama.cpp's name and in its layout, a tied head left out."""
    config = model.config
    kind, layers = config.model_type, config.num_hidden_layers
    names = gguf.get_tensor_name_map(ARCHITECTURES[kind], layers)
    for name, tensor in model.state_dict().items():
        if name in ("lm_head.weight", "embed_out.weight") and config.tie_word_embeddings:
            continue
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new_name is not None, name
        yield new_name, _laid_out(config, name, tensor.detach().numpy())
    yield from _rope_tables(config)


def _laid_out(config: Any, name: str, array: Array) -> Array:
    heads = config.num_attention_heads
    if config.model_type in PAIRED:
        part = name.split(".")[-2]
        if part in ("q_proj", "k_proj"):
            return interleave(array, heads if part == "q_proj" else config.num_key_value_heads)
    if config.model_type in PLUS_ONE and name.endswith("norm.weight"):
        return array + np.float32(1)
    if config.model_type == "gpt2" and array.ndim == 2 and name.split(".")[-2] in ("c_attn", "c_proj", "c_fc"):
        return array.T
    if ".query_key_value." in name:
        by_head = array.reshape(heads, 3, -1, *array.shape[1:])
        return by_head.swapaxes(0, 1).reshape(array.shape)
    return array


def interleave(array: Array, heads: int) -> Array:
    """Rows of each head so that the two of a rotated pair, half a head apart for Hugging Face, are neighbours."""
    halves = array.reshape(heads, 2, -1, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _rope_tables(config: Any) -> Iterator[tuple[str, Array]]:
    table = getattr(config, "rope_parameters", None) or {}
    if table.get("long_factor"):
        yield "rope_factors_long.weight", np.array(table["long_factor"], np.float32)
        yield "rope_factors_short.weight", np.array(table["short_factor"], np.float32)
    if table.get("rope_type") == "llama3":
        yield "rope_freqs.weight", llama3_divisors(table, _head_dim(config))


def llama3_divisors(table: dict[str, Any], head_dim: int) -> Array:
    """What each frequency is divided by: 1 for fast ones, the factor for slow ones, a ramp between the bounds."""
    turns = 1.0 / table["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    periods = table["original_max_position_embeddings"] * turns / (2 * math.pi)
    low, high = table["low_freq_factor"], table["high_freq_factor"]
    ramp = np.clip((periods - low) / (high - low), 0, 1)
    return (1 / ((1 - ramp) / table["factor"] + ramp)).astype(np.float32)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _write_sizes(writer: gguf.GGUFWriter, config: Any, ffn: int) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(config.num_attention_heads)


def _write_common(writer: gguf.GGUFWriter, config: Any) -> None:
    """Llama, and what is like it."""
    _write_sizes(writer, config, config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    if config.model_type == "starcoder2":
        writer.add_layer_norm_eps(config.norm_epsilon)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    table = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(table["rope_theta"])
    if table["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(table["rope_type"]))
        writer.add_rope_scaling_factor(table["factor"])
    if table["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(table["original_max_position_embeddings"])
        for key, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if table.get(key) is not None:
                add(table[key])
    if getattr(config, "head_dim", None) and config.model_type != "granite":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.model_type in PAIRED:
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(_head_dim(config))


def _write_granite(writer: gguf.GGUFWriter, config: Any) -> None:
    _write_common(writer, config)
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def _write_gemma(writer: gguf.GGUFWriter, config: Any) -> None:
    """No rope.freq_base: 10,000 goes without saying."""
    _write_sizes(writer, config, config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)


def _write_gemma3(writer: gguf.GGUFWriter, config: Any) -> None:
    _write_common(writer, config)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])


def _write_phi3(writer: gguf.GGUFWriter, config: Any) -> None:
    """The tables of longrope are tensors; a window of 0 stands for none."""
    _write_sizes(writer, config, config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    table = config.rope_parameters
    trained, fraction = config.original_max_position_embeddings, table.get("partial_rotary_factor", 1.0)
    writer.add_rope_scaling_orig_ctx_len(trained)
    writer.add_rope_dimension_count(int(fraction * config.hidden_size) // config.num_attention_heads)
    writer.add_rope_freq_base(table["rope_theta"])
    writer.add_sliding_window(config.sliding_window or 0)
    if table.get("long_factor"):
        scale = config.max_position_embeddings / trained
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(trained)) if scale > 1 else 1.0)


def _write_gpt2(writer: gguf.GGUFWriter, config: Any) -> None:
    _write_sizes(writer, config, 4 * config.n_embd)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _write_gpt_neox(writer: gguf.GGUFWriter, config: Any) -> None:
    _write_sizes(writer, config, config.intermediate_size)
    writer.add_rope_dimension_count(int(config.rope_parameters["partial_rotary_factor"] * _head_dim(config)))
    writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_layer_norm_eps(config.layer_norm_eps)


def _write_phi(writer: gguf.GGUFWriter, config: Any) -> None:
    """The converter takes the MLP for four times as wide as the stream."""
    _write_sizes(writer, config, 4 * config.hidden_size)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    fraction = config.rope_parameters["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(fraction * config.hidden_size) // config.num_attention_heads)


_SETTINGS: dict[str, Callable[[gguf.GGUFWriter, Any], None]] = {
    "granite": _write_granite,
    "gemma": _write_gemma,
    "gemma2": _write_gemma,
    "gemma3_text": _write_gemma3,
    "phi3": _write_phi3,
    "gpt2": _write_gpt2,
    "gpt_neox": _write_gpt_neox,
    "phi": _write_phi,
}


# Where a block's float16 scales lie, in bytes from its start.
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def random_blocks(block_type: str, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Bytes of a packed matrix, (rows, bytes of a row): every bit random but for scales, which are sane."""
    kind = gguf.GGMLQuantizationType[block_type]
    per_block, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // per_block, num_bytes), dtype=np.uint8)
    spread = float(np.abs(gguf.quants.dequantize(_with_scales(blocks, block_type, 1.0), kind)).max())
    scaled = _with_scales(blocks, block_type, 0.2 / spread)
    return scaled.reshape(shape[0], -1)


def _with_scales(blocks: Array, block_type: str, scale: float) -> Array:
    out = blocks.copy()
    for start in SCALES[block_type]:
        out[..., start : start + 2] = np.array([scale], np.float16).view(np.uint8)
    return out


def pack(model: Any, block_type: str, seed: int = 0) -> Quantize:
    """Packed bytes for every matrix, for `write_gguf`; the model is given the values these stand for."""
    rng, kind = np.random.default_rng(seed), gguf.GGMLQuantizationType[block_type]
    packed: dict[str, Array] = {}
    names = gguf.get_tensor_name_map(ARCHITECTURES[model.config.model_type], model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        if parameter.ndim != 2:
            continue
        places = _laid_out(model.config, name, np.arange(parameter.numel()).reshape(parameter.shape))
        if block_type in SCALES:
            data = random_blocks(block_type, places.shape, rng)
        else:
            data = gguf.quants.quantize(rng.normal(0, 0.1, places.shape).astype(np.float32), kind)
        values = np.empty(parameter.numel(), np.float32)
        values[places.reshape(-1)] = gguf.quants.dequantize(data, kind).reshape(-1)
        parameter.data = torch.from_numpy(values.reshape(parameter.shape))
        packed[names.get_name(name, try_suffixes=(".weight",))] = data
    model.tie_weights()
    return lambda name, array: (packed[name], kind) if name in packed else None
