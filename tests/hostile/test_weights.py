"""Checkpoints whose tensors are not those of their config.json: each is a WeightsError that names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.arch import Parts, whole
from martlet.checkpoint import open_checkpoint
from martlet.errors import WeightsError
from martlet.families import Config
from martlet.formats.files import write_json
from martlet.formats.safetensors import save_safetensors
from martlet.weights import Assembly, assemble, check, check_tied, locate

SIZES = {"vocab_size": 12, "max_position_embeddings": 16}
LLAMA = SIZES | {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 12, "n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "tied": LLAMA | {"tie_word_embeddings": True},
    "phi3": LLAMA | {"model_type": "phi3", "pad_token_id": 0},
    "gpt2": GPT2,
    "gpt_neox": {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    | {"model_type": "gpt_neox", "rotary_pct": 0.5},
}
Weights = dict[str, np.ndarray]
K0, Q1 = "model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.q_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def weights_of(config: dict[str, Any]) -> Weights:
    """A whole checkpoint of this config, under its family's names."""
    from martlet.arch import tensors

    opened = Config(config)
    rng = np.random.default_rng(0)
    ours = {name: rng.random(shape, np.float32) for name, shape in tensors(opened.arch).items()}
    made: dict[str, Assembly] = assemble(ours, opened.family.rules, opened.arch)
    return {name: assembly.build(ours.__getitem__, np.concatenate) for name, assembly in made.items()}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Weights]:
    """Writes config.json and these tensors, and takes every tensor as a model would; the overrides are the user's."""

    def load(config: dict[str, Any], weights: Weights, *, head: bool = True, **overrides: Any) -> Weights:
        write_json(tmp_path / "config.json", config)
        arrays = {name: np.ascontiguousarray(tensor) for name, tensor in weights.items()}
        stored = {name: ("F32", tensor.shape, tensor.tobytes()) for name, tensor in arrays.items()}
        save_safetensors(tmp_path / "model.safetensors", stored)
        opened = open_checkpoint(tmp_path, overrides=overrides)
        with opened.open_weights() as source:
            pieces = opened.locate(source, Parts(lm_head=head))
            if head:
                check_tied(source, pieces, opened.arch)
        return {name: piece.take(weights[piece.source]) for name, piece in pieces.items()}

    return load


def refused(load: Callable[..., Weights], config: dict[str, Any], weights: Weights, **keywords: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        load(config, weights, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_whole_ones_load(load: Callable[..., Weights], name: str) -> None:
    weights = weights_of(CONFIGS[name])
    assert load(CONFIGS[name], weights)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_missing_tensor_is_named(load: Callable[..., Weights], name: str) -> None:
    """Under our name: of a fused tensor, its parts."""
    config, whole = CONFIGS[name], weights_of(CONFIGS[name])
    opened = Config(config)
    for gone in whole:
        left = {key: tensor for key, tensor in whole.items() if key != gone}
        parts = locate([gone], opened.family.rules, opened.arch)
        text = refused(load, config, left)
        assert all(part in text for part in parts), gone
        if HEAD not in parts:
            assert f"{len(parts)} of " in text and "tensors missing" in text
            assert "Is the download complete, and config.json from the same checkpoint?" in text


def test_many_missing_tensors_are_counted(load: Callable[..., Weights]) -> None:
    only = {name: tensor for name, tensor in weights_of(LLAMA).items() if ".layers." not in name}
    text = refused(load, LLAMA, only)
    assert "18 of 21 tensors missing: model.layers.0.self_attn.q_proj.weight, " in text and "and 12 more" in text
    assert len(text) < 600


def test_an_empty_checkpoint(load: Callable[..., Weights]) -> None:
    assert "21 of 21 tensors missing" in refused(load, LLAMA, {})


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "extra", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.mlp.experts.0.w1.weight", "score.weight", "x"]
)
def test_surplus_tensors_are_named(load: Callable[..., Weights], name: str, extra: str) -> None:
    text = refused(load, CONFIGS[name], weights_of(CONFIGS[name]) | {extra: np.zeros((2, 2), np.float32)})
    assert f"1 tensors that this architecture does not use: {extra}" in text


def test_a_bias_that_the_config_denies(load: Callable[..., Weights]) -> None:
    bias = {"model.layers.0.self_attn.q_proj.bias": np.zeros(8, np.float32)}
    assert "does not use: model.layers.0.self_attn.q_proj.bias" in refused(load, LLAMA, weights_of(LLAMA) | bias)
    text = refused(load, LLAMA | {"attention_bias": True}, weights_of(LLAMA) | bias)
    assert "7 of 29 tensors missing: model.layers.0.self_attn.k_proj.bias" in text


def test_a_changed_name_is_pointed_at(load: Callable[..., Weights]) -> None:
    whole = weights_of(LLAMA)
    whole["model.layers.1.self_attn.query_proj.weight"] = whole.pop(Q1)
    text = refused(load, LLAMA, whole)
    assert f"1 of 21 tensors missing: {Q1}; 1 tensors" in text
    assert "Did a name change (model.layers.1.self_attn.query_proj.weight)?" in text


def test_two_names_of_one_tensor(load: Callable[..., Weights]) -> None:
    whole = weights_of(GPT2)
    text = refused(
        load,
        GPT2,
        whole
        | {"transformer.wte.weight": whole["transformer.wte.weight"], "wte.weight": whole["transformer.wte.weight"]},
    )
    assert "wte.weight" in text


@pytest.mark.parametrize("name", CONFIGS)
def test_each_misshapen_tensor_is_named(load: Callable[..., Weights], name: str) -> None:
    config, whole = CONFIGS[name], weights_of(CONFIGS[name])
    for bent, tensor in whole.items():
        for wrong in (
            tensor[:-1],
            tensor[..., :-1],
            tensor[None],
            np.concatenate([tensor, tensor]),
            tensor.reshape(-1, 1),
        ):
            text = refused(load, config, whole | {bent: wrong})
            assert text.startswith(f"tensor {bent}: config.json asks for ") and str(list(wrong.shape)) in text
            assert text.endswith("Is config.json from the same checkpoint?")


def test_a_scalar_and_an_empty_tensor(load: Callable[..., Weights]) -> None:
    for config in CONFIGS.values():
        for name in weights_of(config):
            for wrong in (np.float32(1).reshape(()), np.zeros(0, np.float32), np.zeros((0, 0), np.float32)):
                assert refused(load, config, weights_of(config) | {name: wrong}).startswith(f"tensor {name}: ")


def test_another_models_config(load: Callable[..., Weights]) -> None:
    """The vocabulary was made longer, and config.json was not."""
    longer = LLAMA | {"vocab_size": 14}
    text = refused(load, LLAMA, weights_of(longer))
    assert text.startswith(("tensor model.embed_tokens.weight: ", "tensor lm_head.weight: "))
    assert "of shape [12, 8]; found a tensor of shape [14, 8]" in text


# The head


def test_a_head_that_should_be_there(load: Callable[..., Weights]) -> None:
    headless = {name: tensor for name, tensor in weights_of(LLAMA).items() if name != HEAD}
    text = refused(load, LLAMA, headless)
    assert "tie_word_embeddings is false, so lm_head.weight must be there" in text
    assert "pass tie_word_embeddings=True" in text
    assert HEAD not in load(LLAMA, headless, tie_word_embeddings=True)
    assert HEAD not in load(LLAMA, headless, head=False)


def test_a_tied_head_may_be_there_twice_if_it_is_the_same(load: Callable[..., Weights]) -> None:
    tied, whole = CONFIGS["tied"], weights_of(CONFIGS["tied"])
    assert load(tied, whole | {HEAD: whole[EMBEDDING]})
    other = whole | {HEAD: whole[EMBEDDING] + np.float32(1e-3)}
    text = refused(load, tied, other)
    assert text.startswith(
        "tensor lm_head.weight: config.json says tie_word_embeddings is true, so it must equal model."
    )
    assert "pass tie_word_embeddings=False" in text
    assert np.array_equal(load(tied, other, tie_word_embeddings=False)[HEAD], other[HEAD])
    assert load(tied, other, head=False)


def test_a_tied_table_under_the_heads_name(load: Callable[..., Weights]) -> None:
    tied, whole = CONFIGS["tied"], weights_of(CONFIGS["tied"])
    table = whole.pop(EMBEDDING)
    assert np.array_equal(load(tied, whole | {HEAD: table})[EMBEDDING], table)
    assert "1 of 20 tensors missing: model.embed_tokens.weight" in refused(load, tied, whole)


def test_a_head_bias_that_is_not_used(load: Callable[..., Weights]) -> None:
    text = refused(load, LLAMA, weights_of(LLAMA) | {"lm_head.bias": np.zeros(12, np.float32)})
    assert "does not use: lm_head.bias" in text


# Any names and shapes at all

NAMES = st.sampled_from([*weights_of(LLAMA), *weights_of(GPT2), "wte.weight", "lm_head.bias"]) | st.text(max_size=40)
SHAPES = st.lists(st.integers(0, 40), max_size=3).map(tuple)


@settings(max_examples=300, deadline=None)
@given(shapes=st.dictionaries(NAMES, SHAPES, max_size=40), name=st.sampled_from(sorted(CONFIGS)))
def test_any_names_and_shapes_are_refused_in_words(shapes: dict[str, tuple[int, ...]], name: str) -> None:
    opened = Config(CONFIGS[name])
    with pytest.raises(WeightsError):
        pieces = locate(shapes, opened.family.name_rules(list(shapes)), opened.arch)
        check(pieces, shapes, opened.arch, whole(opened.arch))
