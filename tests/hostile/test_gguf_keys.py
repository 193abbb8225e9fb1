"""GGUF metadata that lies, of every family: a GgufError or ConfigError that names the key, never another exception."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.errors import ConfigError, GgufError, MartletError, UnknownFamilyError
from martlet.families import Config, find_gguf_family, load_families
from martlet.formats.tensors import TensorInfo, TensorSource

NAMES = sorted(name for family in load_families().values() if family.gguf for name in family.gguf.names)
SIZES = {
    "block_count": 4,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 48,
    "attention.head_count": 4,
    "attention.head_count_kv": 4,
}
NUMBERS = {"attention.layer_norm_rms_epsilon": 1e-5, "attention.layer_norm_epsilon": 1e-5, "rope.freq_base": 10000.0}


class Tensors(TensorSource):
    """Float32 tensors in memory."""

    def __init__(self, metadata: dict[str, Any], **arrays: Any) -> None:
        self.metadata, self.paths = metadata, ()
        self.arrays = {name.replace("__", "."): np.asarray(value, np.float32) for name, value in arrays.items()}

    def names(self) -> tuple[str, ...]:
        return tuple(self.arrays)

    def info(self, name: str) -> TensorInfo:
        array = self.arrays[name]
        return TensorInfo(name, "F32", array.shape, array.nbytes)

    def raw(self, name: str) -> np.ndarray:
        return np.frombuffer(self.arrays[name].tobytes(), np.uint8)

    def close(self) -> None:
        pass


def metadata_of(name: str, **changes: Any) -> dict[str, Any]:
    """Sound metadata of an architecture; in `changes`, __ stands for a dot."""
    values = SIZES | NUMBERS | {key.replace("__", "."): value for key, value in changes.items()}
    if name == "gpt2":
        del values["rope.freq_base"]
    return {"general.architecture": name} | {f"{name}.{key}": value for key, value in values.items()}


def arch_of(metadata: dict[str, Any], **arrays: Any) -> Any:
    source = Tensors(metadata, **{"token_embd__weight": np.zeros((96, 32)), **arrays})
    family = find_gguf_family(str(metadata.get("general.architecture")))
    assert family.gguf is not None
    return Config(family.gguf.config(metadata, source)).arch


@pytest.mark.parametrize("name", NAMES)
def test_sound_metadata_is_read(name: str) -> None:
    arch = arch_of(metadata_of(name))
    assert (arch.num_layers, arch.hidden_size, arch.vocab_size, arch.intermediate_size) == (4, 32, 96, 48)
    assert arch.norm_eps == 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [None, "4", True, 4.0, -1, 2**40, [4, 4], np.array([4, 2, 4, 4])], ids=repr)
def test_what_is_no_size(name: str, wrong: Any) -> None:
    for key in SIZES.keys() - {"attention.head_count_kv"}:
        with pytest.raises(GgufError, match=f"{name}.{key}: must be a whole number; found ") as caught:
            arch_of(metadata_of(name) | {f"{name}.{key}": wrong})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_of_nothing(name: str) -> None:
    for key in SIZES.keys() - {"attention.head_count_kv"}:
        with pytest.raises((GgufError, ConfigError), match=r"must (be|divide)"):
            arch_of(metadata_of(name) | {f"{name}.{key}": 0})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", ["1e-5", float("nan"), float("inf"), True, [1e-5]], ids=repr)
def test_what_is_no_number(name: str, wrong: Any) -> None:
    refused = 0
    for key in NUMBERS:
        try:
            arch_of(metadata_of(name) | {f"{name}.{key}": wrong})
        except GgufError as error:
            assert str(error).startswith(f"{name}.{key}: must be a number; found ")
            refused += 1
    assert refused >= 1  # each family reads one of the two epsilons


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_count", 8),
        ("attention.clamp_kqv", 8.0),
        ("attention.max_alibi_bias", 8.0),
        ("rope.dimension_sections", np.array([16, 24, 24, 0])),
        ("swin_norm", True),
        ("classifier.output_labels", ["yes", "no"]),
    ],
)
def test_a_key_nobody_reads_is_named(name: str, key: str, value: Any) -> None:
    with pytest.raises(
        GgufError, match=f"{name}.{key}: is not a key this family reads, and may change the maths; found"
    ):
        arch_of(metadata_of(name) | {f"{name}.{key}": value})


@pytest.mark.parametrize("name", NAMES)
def test_the_same_keys_at_nothing_are_as_if_they_were_not_there(name: str) -> None:
    off = {"expert_count": 0, "attention.clamp_kqv": 0.0, "swin_norm": False, "attention.max_alibi_bias": 0.0}
    assert arch_of(metadata_of(name) | {f"{name}.{key}": value for key, value in off.items()}) == arch_of(
        metadata_of(name)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_size_for_each_layer_that_is_one_size(name: str) -> None:
    ones = {f"{name}.feed_forward_length": np.full(4, 48, np.int32)}
    assert arch_of(metadata_of(name) | ones) == arch_of(metadata_of(name))


def test_windows_that_old_phi3_files_do_not_say() -> None:
    """As llama.cpp takes them, since Microsoft's own first files lack the key. 0 says that there is none."""
    mini = {"block_count": 32, "context_length": 4096}
    assert {layer.window for layer in arch_of(metadata_of("phi3", **mini)).layers} == {2047}
    assert {layer.window for layer in arch_of(metadata_of("phi3", **mini, attention__sliding_window=0)).layers} == {0}
    assert {layer.window for layer in arch_of(metadata_of("phi3", block_count=32, context_length=16384)).layers} == {0}


@pytest.mark.parametrize("name", NAMES)
def test_no_embedding_table(name: str) -> None:
    family = find_gguf_family(name)
    assert family.gguf is not None
    with pytest.raises(GgufError, match=r"a tensor token_embd\.weight must be there; found none"):
        family.gguf.config(metadata_of(name), Tensors({}))


@pytest.mark.parametrize("name", ["llama4", "qwen2moe", "gemma3n", "", "None"])
def test_an_unknown_architecture_names_what_is_supported(name: str) -> None:
    with pytest.raises(UnknownFamilyError, match=r"general\.architecture must be one martlet has") as caught:
        find_gguf_family(name)
    assert all(known in str(caught.value) for known in NAMES) and f"found {name!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"attention__key_length": 8, "attention__value_length": 16}, "llama.attention.value_length: must equal atten"),
        ({"attention__causal": False}, "llama.attention.causal: must be true; found False"),
        ({"attention__causal": 1}, "llama.attention.causal: must be true or false; found 1"),
        (
            {"rope__scaling__type": "spiral"},
            "must be none, linear or yarn where no tensor has the factors; found 'spir",
        ),
        (
            {"rope__scaling__type": "longrope"},
            "must be none, linear or yarn where no tensor has the factors; found 'lo",
        ),
        ({"rope__scaling__type": "linear"}, "llama.rope.scaling.factor: must be a number; found nothing"),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": -1.0}, "rope factor must be above 0; found -1.0"),
        (
            {"rope__dimension_count": 7},
            r"the rotated part of head_dim \(8\) must be even; found 7|supported at 1.0 only",
        ),
        ({"rope__dimension_count": 4}, "partial_rotary_factor is supported at 1.0 only; found 0.5"),
    ],
)
def test_impossible(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises((GgufError, ConfigError), match=rule):
        arch_of(metadata_of("llama", **changes))


@pytest.mark.parametrize("divisors", [[], [1.0], [0.0] * 4, [-1.0] * 4, [float("nan")] * 4, [1e38] * 4, [1.0] * 5])
def test_rotary_tables_that_cannot_be(divisors: list[float]) -> None:
    if divisors == [1e38] * 4:  # odd, and yet a rotation
        assert arch_of(metadata_of("llama"), rope_freqs__weight=divisors).layers[0].rope.short_factor
        return
    with pytest.raises((GgufError, ConfigError)):
        arch_of(metadata_of("llama"), rope_freqs__weight=divisors)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES |= st.lists(st.integers(-3, 3), max_size=3).map(lambda items: np.array(items, np.int32))
VALUES |= st.lists(st.text(max_size=3), max_size=3)
KEYS = [*SIZES, *NUMBERS, "attention.key_length", "attention.value_length", "rope.dimension_count", "rope.scaling.type"]
KEYS += ["rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.scale_linear"]
KEYS += ["attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa", "attention.scale"]
KEYS += ["attn_logit_softcapping", "final_logit_softcapping", "embedding_scale", "residual_scale", "logit_scale"]
KEYS += ["use_parallel_residual", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_attn_factor", "attention.causal"]
TABLES = st.lists(st.floats(width=32), max_size=5) | st.just([1.0] * 4)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    kind=st.sampled_from([None, "linear", "yarn", "none"]),
    tables=st.dictionaries(
        st.sampled_from(["rope_freqs__weight", "rope_factors_long__weight", "rope_factors_short__weight"]), TABLES
    ),
)
def test_any_values_at_all(name: str, changes: dict[str, Any], kind: str | None, tables: dict[str, Any]) -> None:
    metadata = metadata_of(name) | {f"{name}.{key}": value for key, value in changes.items()}
    if kind:
        metadata[f"{name}.rope.scaling.type"] = kind
    try:
        arch = arch_of(metadata, **tables)
    except MartletError as error:
        assert str(error)
        return
    assert arch.num_layers >= 1 and arch.head_dim >= 1
