"""Configs that cannot be: each is a ConfigError that names the key, what it must be and what was found."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sibling_configs import CONFIGS, without

from martlet.errors import ConfigError, MartletError, UnknownFamilyError
from martlet.families import Config, load_families

# One real config a family.
OF_FAMILY = {values["model_type"]: values for values in reversed(CONFIGS.values())}
LLAMA = CONFIGS["meta-llama/Llama-3.2-1B"]


def refuse(values: Any, match: str) -> ConfigError:
    with pytest.raises(ConfigError, match=match) as caught:
        Config(values).arch  # noqa: B018
    assert "\n" not in str(caught.value)
    return caught.value


def test_every_family_has_a_real_config() -> None:
    assert OF_FAMILY.keys() == load_families().keys()


# Families


@pytest.mark.parametrize(
    ("model_type", "near"), [("qwen4", "qwen3, qwen2"), ("gemma4_text", "gemma3_text"), ("llamma", "llama")]
)
def test_an_unknown_model_type_names_the_nearest_and_what_is_supported(model_type: str, near: str) -> None:
    with pytest.raises(UnknownFamilyError) as caught:
        Config(LLAMA | {"model_type": model_type}).arch  # noqa: B018
    text = str(caught.value)
    assert f"found '{model_type}'" in text and f"Nearest: {near}" in text
    assert all(family in text for family in load_families())
    assert "docs/add-a-family.md" in text and "auto_map" not in text


def test_an_unknown_family_with_code_of_its_own_says_that_none_was_run() -> None:
    own = {"model_type": "deepseek_v3", "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"}}
    with pytest.raises(UnknownFamilyError, match=r"code of its own \(auto_map\); none of it was run"):
        Config(LLAMA | own).arch  # noqa: B018


@pytest.mark.parametrize("model_type", [None, 5, [], ["llama"], {"llama": 1}, ""])
def test_a_model_type_that_is_no_name(model_type: Any) -> None:
    with pytest.raises(UnknownFamilyError, match="model_type must be one martlet has"):
        Config({"model_type": model_type}).arch  # noqa: B018


def test_a_multimodal_config_says_so() -> None:
    with pytest.raises(UnknownFamilyError, match=r"multimodal checkpoint \(it has a text_config\)"):
        Config({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}).arch  # noqa: B018


# Keys


@pytest.mark.parametrize("model_type", sorted(OF_FAMILY))
@pytest.mark.parametrize(
    "extra",
    [
        {"attention_sinks": 4},
        {"logit_scale": 0.5},
        {"num_experts": 8},
        {"clip_qkv": 8.0},
        {"alibi": True},
        {"use_qk_norm": True},
        {"dual_chunk_attention_config": {"chunk_size": 262144}},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_key_nobody_reads_is_named(model_type: str, extra: dict[str, Any]) -> None:
    (key,) = extra
    error = refuse(OF_FAMILY[model_type] | extra, f"key '{key}' is not one this family reads, and may change the maths")
    assert error.subject == f"{model_type} config" and f"harmless_config_keys=['{key}']" in str(error)
    assert Config(OF_FAMILY[model_type] | extra, harmless_config_keys=[key]).arch == Config(OF_FAMILY[model_type]).arch


@pytest.mark.parametrize("model_type", sorted(OF_FAMILY))
def test_harmless_keys_are_harmless_everywhere(model_type: str) -> None:
    harmless = {"use_cache": True, "torch_dtype": "float16", "pad_token_id": 7, "id2label": {"0": "x"}, "dropout": 0.3}
    harmless |= {"temperature": 0.7, "_name_or_path": "x/y", "attention_dropout": 0.1, "task_specific_params": {"a": 1}}
    if model_type.endswith("roberta"):
        del harmless["pad_token_id"]  # positions are counted from it
    assert Config(OF_FAMILY[model_type] | harmless).arch == Config(OF_FAMILY[model_type]).arch


def test_a_misspelt_key_is_pointed_at() -> None:
    refuse(without(LLAMA, "vocab_size") | {"vocabsize": 5}, r"vocab_size is missing\. Is 'vocabsize' meant\?")
    refuse(LLAMA | {"rms_norm_epsilon": 1e-5}, r"key 'rms_norm_epsilon' .* Is 'rms_norm_eps' meant\?")


# Numbers

SIZES = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"}
SIZES |= {"num_key_value_heads", "max_position_embeddings", "n_embd", "n_head", "n_layer", "n_positions", "ffn_dim"}
NO_SIZE = [-1, 1.5, "8", True, [8], {"8": 8}, 2**31, 1e400, float("nan"), -0.5]


@pytest.mark.parametrize("model_type", sorted(OF_FAMILY))
@pytest.mark.parametrize("wrong", NO_SIZE, ids=repr)
def test_what_is_no_size(model_type: str, wrong: Any) -> None:
    for key in SIZES & OF_FAMILY[model_type].keys():
        refuse(OF_FAMILY[model_type] | {key: wrong}, f"{key} must be ")


@pytest.mark.parametrize("model_type", sorted(OF_FAMILY))
def test_sizes_of_nothing(model_type: str) -> None:
    for key in SIZES & OF_FAMILY[model_type].keys():
        refuse(OF_FAMILY[model_type] | {key: 0}, r"must be (at least 1|1 to 10000|a multiple of)")


@pytest.mark.parametrize("model_type", sorted(OF_FAMILY.keys() - {"opt"}))
def test_a_negative_epsilon(model_type: str) -> None:
    for key in {"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"} & OF_FAMILY[model_type].keys():
        refuse(OF_FAMILY[model_type] | {key: -1e-5}, "the epsilon of norms must not be negative; found -1e-05")


@pytest.mark.parametrize("model_type", sorted(OF_FAMILY))
@pytest.mark.parametrize(
    "wrong", ["1e-5", True, [1e-5], float("inf"), float("nan"), 10**400], ids=lambda x: repr(x)[:8]
)
def test_what_is_no_number(model_type: str, wrong: Any) -> None:
    numbers = {"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "query_pre_attn_scalar"}
    numbers |= {"partial_rotary_factor", "rotary_pct", "embedding_multiplier", "logits_scaling"}
    for key in numbers & OF_FAMILY[model_type].keys():
        refuse(OF_FAMILY[model_type] | {key: wrong}, f"{key} must be a number")


@pytest.mark.parametrize("wrong", [0, 1, "true", "false", [True]], ids=repr)
def test_what_is_no_flag(wrong: Any) -> None:
    refuse(LLAMA | {"tie_word_embeddings": wrong}, "tie_word_embeddings must be true or false; found")
    refuse(LLAMA | {"attention_bias": wrong}, "attention_bias must be true or false; found")


IMPOSSIBLE = [
    (
        LLAMA | {"num_attention_heads": 30},
        r"num_attention_heads \(30\) must be a multiple of num_key_value_heads \(8\)",
    ),
    (without(LLAMA, "head_dim") | {"hidden_size": 2047}, r"hidden_size \(2047\) must be a multiple of num_attention_h"),
    (LLAMA | {"head_dim": 63}, r"rotated part of head_dim \(63\) must be even"),
    (LLAMA | {"num_hidden_layers": 10**9}, "num_hidden_layers must be 1 to 10000; found 1000000000"),
    (LLAMA | {"hidden_act": "mish"}, "hidden_act must be one of silu, .*; found 'mish'"),
    (LLAMA | {"hidden_act": 3}, "hidden_act must be a string; found 3"),
    (LLAMA | {"rope_theta": 0}, "rope rope_theta must be above 1; found 0|rope_theta"),
    (LLAMA | {"rope_theta": -10000.0}, "rope_theta must be above 1"),
    (LLAMA | {"rope_scaling": [1]}, r"rope_parameters must be an object; found \[1\]"),
    (LLAMA | {"rope_scaling": {"rope_type": "spiral"}}, "rope type must be one of default, .*; found 'spiral'"),
    (LLAMA | {"rope_scaling": {"rope_type": "linear"}}, "rope factor is missing"),
    (LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope factor must be above 0; found 0"),
    (LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": "8"}}, "rope factor must be a number; found '8'"),
    (LLAMA | {"rope_scaling": {"rope_type": "linear", "factr": 8.0}}, "has a key 'factr', which is not understood"),
    (LLAMA | {"rope_scaling": LLAMA["rope_scaling"] | {"high_freq_factor": 1.0}}, "high_freq_factor must be above 1"),
    (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor is supported at 1.0 only; found 0.5"),
    (OF_FAMILY["phi"] | {"partial_rotary_factor": 1.5}, "partial_rotary_factor must be above 0 and at most 1"),
    (OF_FAMILY["phi"] | {"qk_layernorm": True}, "qk_layernorm is supported at False only; found True"),
    (
        CONFIGS["microsoft/Phi-3.5-mini-instruct"] | {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 48}},
        "rope short_factor must be 48 numbers above 0; found None|rope short_factor must be 48 numbers above 0",
    ),
    (OF_FAMILY["mistral"] | {"sliding_window": 0}, "sliding_window must be at least 1, or null; found 0"),
    (
        OF_FAMILY["gemma2"] | {"layer_types": ["full_attention"]},
        "layer_types must be 26 of sliding_attention, full_att",
    ),
    (OF_FAMILY["gemma2"] | {"attn_logit_softcapping": -1.0}, "attn_logit_softcapping must be above 0, or null; found"),
    (OF_FAMILY["gemma2"] | {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be above 0; found 0"),
    (OF_FAMILY["gemma2"] | {"sliding_window_size": 512}, "sliding_window_size is supported at 4096 only; found 512"),
    (
        OF_FAMILY["gpt2"] | {"scale_attn_by_inverse_layer_idx": True},
        "scale_attn_by_inverse_layer_idx is supported at F",
    ),
    (OF_FAMILY["opt"] | {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine is supported at True"),
    (OF_FAMILY["smollm3"] | {"no_rope_layers": [1, 0]}, "no_rope_layers must be 36 of 0 and 1"),
    (OF_FAMILY["granite"] | {"logits_scaling": 0}, "logits_scaling must be above 0; found 0"),
]


@pytest.mark.parametrize(("values", "rule"), IMPOSSIBLE, ids=[rule[:40] for _, rule in IMPOSSIBLE])
def test_impossible(values: dict[str, Any], rule: str) -> None:
    refuse(values, rule)


@pytest.mark.parametrize("values", [None, [], "llama", 3, [("model_type", "llama")]])
def test_a_config_that_is_no_object(values: Any) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: must be an object; found"):
        Config(values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
TABLE_KEYS = ["rope_type", "factor", "rope_theta", "short_factor", "long_factor", "beta_fast", "attention_factor"]
TABLE_KEYS += ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "mscale", "truncate"]
KINDS = st.sampled_from(["linear", "dynamic", "llama3", "yarn", "longrope", "default"])
TABLES = st.builds(
    lambda kind, rest: {"rope_type": kind, **rest}, KINDS, st.dictionaries(st.sampled_from(TABLE_KEYS[1:]), JSON)
)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), model_type=st.sampled_from(sorted(OF_FAMILY)))
def test_any_values_at_all_are_an_arch_or_a_martlet_error(data: st.DataObject, model_type: str) -> None:
    values = OF_FAMILY[model_type]
    keys = st.sampled_from([*sorted(values), "layer_types", "rope_parameters", "sliding_window", "head_dim"])
    changes = data.draw(st.dictionaries(keys, JSON, max_size=4))
    if data.draw(st.booleans()):
        changes["rope_scaling"] = data.draw(TABLES)
    try:
        arch = Config(values | changes).arch
    except MartletError as error:
        assert str(error)
        return
    assert arch.num_layers >= 1 and arch.head_dim >= 1 and arch.vocab_size >= 1
