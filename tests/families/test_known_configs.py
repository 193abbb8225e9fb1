"""Configs of well-known checkpoints: each reads, and says of the model what Hugging Face's config object says."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from sibling_configs import CONFIGS, NUM_PARAMETERS

from martlet.arch import Arch, Norm, Placement, QKNorm, num_parameters, tensors
from martlet.families import Config
from martlet.families.decoder import ACTIVATIONS
from martlet.rope import frequencies

transformers = pytest.importorskip("transformers")


def hugging_face(values: dict[str, Any]) -> Any:
    kept = {key: value for key, value in copy.deepcopy(values).items() if key != "model_type"}
    if (kept.get("rope_scaling") or {}).get("type") == "su":
        kept["rope_scaling"]["type"] = "longrope"  # transformers 5 no longer reads the old name
    return transformers.AutoConfig.for_model(values["model_type"], **kept)


def first(config: Any, *names: str, default: Any = None) -> Any:
    """The value of the first of these attributes that is there and not None."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), default)


@pytest.fixture(params=CONFIGS, ids=[name.split("/")[-1] for name in CONFIGS])
def pair(request: pytest.FixtureRequest) -> tuple[Arch, Any]:
    values = CONFIGS[request.param]
    return Config(values).arch, hugging_face(values)


def test_sizes(pair: tuple[Arch, Any]) -> None:
    arch, config = pair
    heads = config.num_attention_heads
    assert arch.vocab_size == config.vocab_size
    assert arch.hidden_size == config.hidden_size
    assert arch.num_layers == config.num_hidden_layers
    assert arch.num_attention_heads == heads
    assert arch.num_key_value_heads == first(config, "num_key_value_heads", default=heads)
    assert arch.head_dim == first(config, "head_dim", default=config.hidden_size // heads)
    unused = config.pad_token_id + 1 if config.model_type.endswith("roberta") else 0
    assert arch.max_position_embeddings == config.max_position_embeddings - unused
    ffn = first(config, "intermediate_size", "ffn_dim", "hidden_dim", "n_inner", default=4 * config.hidden_size)
    assert arch.intermediate_size == ffn
    assert arch.token_vector_size == first(config, "word_embed_proj_dim", default=config.hidden_size)
    assert arch.tied == config.tie_word_embeddings


def test_choices(pair: tuple[Arch, Any]) -> None:
    arch, config = pair
    eps = first(
        config,
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        default=1e-12 if config.model_type == "distilbert" else 1e-5,
    )
    assert arch.norm_eps == eps
    name = first(config, "hidden_activation", "hidden_act", "activation_function", "activation")
    assert arch.activation is ACTIVATIONS[name]
    scalar = first(config, "query_pre_attn_scalar", default=arch.head_dim)
    assert arch.score_scale == first(config, "attention_multiplier", default=scalar**-0.5)
    assert arch.attn_softcap == first(config, "attn_logit_softcapping", default=0.0)
    assert arch.logit_softcap == first(config, "final_logit_softcapping", default=0.0)
    assert arch.logit_scale == 1 / first(config, "logits_scaling", default=1.0)
    assert arch.residual_scale == first(config, "residual_multiplier", default=1.0)
    gemma = config.model_type.startswith("gemma")
    assert arch.embed_scale == (
        config.hidden_size**0.5 if gemma else first(config, "embedding_multiplier", default=1.0)
    )


def test_windows(pair: tuple[Arch, Any]) -> None:
    arch, config = pair
    window = first(config, "sliding_window", default=0)
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * arch.num_layers
    assert [layer.window for layer in arch.layers] == [window if kind == "sliding_attention" else 0 for kind in types]


def test_rotation(pair: tuple[Arch, Any]) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    arch, config = pair
    table = getattr(config, "rope_parameters", None)
    if not table:
        assert all(layer.rope is None for layer in arch.layers)
        return
    for index, layer in enumerate(arch.layers):
        if not getattr(config, "no_rope_layers", [1] * arch.num_layers)[index]:
            assert layer.rope is None
            continue
        kind = config.layer_types[index] if "full_attention" in table else None
        own = table[kind] if kind else table
        assert layer.rope is not None
        for length in (16, config.max_position_embeddings):
            if own["rope_type"] == "default":
                rotated = int(arch.head_dim * own.get("partial_rotary_factor", 1.0))
                wanted, factor = 1 / own["rope_theta"] ** (np.arange(0, rotated, 2) / rotated), 1.0
            else:
                config.head_dim = arch.head_dim
                wanted, factor = ROPE_INIT_FUNCTIONS[own["rope_type"]](
                    config, "cpu", seq_len=length, **({"layer_type": kind} if kind else {})
                )
            np.testing.assert_allclose(frequencies(layer.rope, arch.head_dim, length), np.asarray(wanted), rtol=1e-6)
            assert layer.rope.attention_factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_transformers_writes_of_it_reads_alike(name: str) -> None:
    config = hugging_face(CONFIGS[name])
    for use_diff in (True, False):
        assert Config(json.loads(config.to_json_string(use_diff=use_diff))).arch == Config(CONFIGS[name]).arch


def test_structure() -> None:
    """What no key of a config says."""
    arch = {name.split("/")[-1]: Config(values).arch for name, values in CONFIGS.items()}
    assert arch["gemma-2-2b-it"].norm is Norm.RMS_PLUS_ONE
    assert arch["gemma-2-2b-it"].placement is Placement.SANDWICH
    assert arch["gemma-2-2b-it"].qk_norm is QKNorm.NONE
    assert arch["gemma-3-270m"].qk_norm is QKNorm.HEAD
    assert arch["gemma-2b"].placement is Placement.PRE
    assert arch["Qwen3-0.6B"].qk_norm is QKNorm.HEAD and not arch["Qwen3-0.6B"].qkv_bias
    assert arch["Qwen2.5-0.5B-Instruct"].qkv_bias and not arch["Qwen2.5-0.5B-Instruct"].out_bias
    assert arch["gpt2"].norm is Norm.LAYER and arch["gpt2"].position_table == 1024 and not arch["gpt2"].gated
    assert arch["opt-125m"].position_table == 2050 and arch["opt-125m"].position_offset == 2
    assert arch["opt-350m"].placement is Placement.POST and not arch["opt-350m"].final_norm
    assert arch["opt-350m"].embedding_size == 512
    assert arch["pythia-160m"].placement is Placement.PARALLEL
    assert arch["phi-2"].placement is Placement.PARALLEL_SHARED and arch["phi-2"].head_bias
    assert arch["OLMo-2-0425-1B"].placement is Placement.OUTPUT
    assert arch["OLMo-2-0425-1B"].qk_norm is QKNorm.FULL


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_parameters_as_published(name: str) -> None:
    config = Config(CONFIGS[name])
    assert num_parameters(config.arch, tensors(config.arch, config.parts)) == NUM_PARAMETERS[name]
