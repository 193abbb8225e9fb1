"""GenerationConfig: read and saved as Hugging Face's, every field of theirs taken or refused by name, layers merged."""

import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.errors import ArgumentError, ConfigError, HubError, JsonError, SaveError, UnsupportedError
from martlet.generation.config import LIBRARY_DEFAULT, GenerationConfig
from martlet.generation.fields import FIELDS, METADATA, UNSUPPORTED

transformers = pytest.importorskip("transformers")

# A value of every field of Hugging Face's that asks for something.
ASKING = {
    "max_length": 30,
    "max_new_tokens": 7,
    "min_length": 3,
    "min_new_tokens": 2,
    "early_stopping": "never",
    "max_time": 2.5,
    "stop_strings": ["a", "b"],
    "do_sample": True,
    "num_beams": 3,
    "use_cache": False,
    "cache_implementation": "static",
    "max_cache_len": 99,
    "prefill_chunk_size": 8,
    "temperature": 0.5,
    "top_k": 9,
    "top_p": 0.7,
    "min_p": 0.1,
    "top_h": 0.4,
    "typical_p": 0.8,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.02,
    "repetition_penalty": 1.2,
    "encoder_repetition_penalty": 1.3,
    "length_penalty": -0.5,
    "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[4], [5, 6]],
    "renormalize_logits": True,
    "forced_bos_token_id": 1,
    "forced_eos_token_id": [2, 3],
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [5, 1.1],
    "suppress_tokens": [7],
    "begin_suppress_tokens": [8],
    "sequence_bias": [[[4, 5], -1.0]],
    "guidance_scale": 1.5,
    "num_return_sequences": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "decoder_start_token_id": 1,
    "is_assistant": True,
    "num_assistant_tokens": 5,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.3,
    "prompt_lookup_num_tokens": 4,
    "max_matching_ngram_size": 3,
    "assistant_lookbehind": 5,
    "target_lookbehind": 6,
    "disable_compile": True,
    # not here
    "assistant_early_exit": 2,
    "assistant_ensemble_weight": 0.5,
    "cache_config": {"nbits": 4},
    "constraints": ["x"],
    "continuous_batching_config": {"a": 1},
    "diversity_penalty": 0.5,
    "dola_layers": "high",
    "force_words_ids": [[1]],
    "low_memory": "yes",
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "speculation_type": "mtp",
    "token_healing": True,
    "use_mtp": True,
    "watermarking_config": {"bias": 2.0},
}
THEIR_FIELDS = sorted(set(transformers.GenerationConfig().to_dict()) - METADATA)


def test_every_field_of_hugging_faces_is_known():
    unknown = [name for name in THEIR_FIELDS if name not in FIELDS and name not in UNSUPPORTED]
    assert unknown == []
    assert set(THEIR_FIELDS) - {"compile_config"} <= set(ASKING)


@pytest.mark.parametrize("name", sorted(ASKING))
def test_a_field_is_supported_or_refused_by_name(name, tmp_path):
    value = ASKING[name]
    if name in UNSUPPORTED:
        with pytest.raises(UnsupportedError) as caught:
            GenerationConfig(**{name: value})
        assert str(caught.value).startswith(f"{name}: is not supported; found {value!r}")
        return
    config = GenerationConfig(**{name: value})
    assert getattr(config, name) == value and config.origin(name) == "call"
    assert config.describe() == [(name, value, "call")]
    if name == "num_return_sequences":  # Hugging Face refuses several greedy sequences when it reads the file
        config = config.but("call", do_sample=True)
    config.save_pretrained(tmp_path)
    assert getattr(GenerationConfig.from_pretrained(tmp_path), name) == value
    theirs = getattr(transformers.GenerationConfig.from_pretrained(tmp_path), name)
    assert theirs == value or list(theirs) == value


def test_unset_fields_of_hugging_faces_change_nothing():
    unset = transformers.GenerationConfig().to_dict()
    assert GenerationConfig.from_dict(unset).describe() == []
    defaults = transformers.GenerationConfig._get_default_generation_params()
    left_open = (
        "max_length",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
    )  # to generate, and the assistant
    left_open += ("assistant_confidence_threshold",)
    config = GenerationConfig.from_dict(defaults)
    for name, value in defaults.items():
        if name in FIELDS:
            assert getattr(config, name) == value, name
            assert getattr(GenerationConfig(), name) == value or name in left_open, name


def test_a_file_that_hugging_face_wrote(tmp_path):
    theirs = transformers.GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[128001, 128009], bos_token_id=128000, pad_token_id=0
    )
    theirs.save_pretrained(tmp_path)
    ours = GenerationConfig.from_pretrained(tmp_path)
    assert (ours.do_sample, ours.temperature, ours.top_p, ours.top_k) == (True, 0.6, 0.9, 50)
    assert ours.eos_token_id == [128001, 128009] and ours.transformers_version == transformers.__version__
    assert ours.origin("temperature") == "generation_config.json" and ours.origin("top_k") == LIBRARY_DEFAULT
    again = tmp_path / "again"
    ours.save_pretrained(again)
    assert json.loads((again / "generation_config.json").read_text()) == json.loads(
        (tmp_path / "generation_config.json").read_text()
    )


simple = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.01, 5.0),
        "top_k": st.integers(0, 1000),
        "top_p": st.floats(0.01, 1.0),
        "min_p": st.none() | st.floats(0.0, 1.0),
        "do_sample": st.booleans(),
        "max_new_tokens": st.integers(1, 10**6),
        "eos_token_id": st.integers(0, 10**5) | st.lists(st.integers(0, 10**5), min_size=1, max_size=4),
        "stop_strings": st.lists(st.text(min_size=1), max_size=3) | st.text(min_size=1),
        "bad_words_ids": st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3), min_size=1, max_size=3),
        "num_beams": st.integers(1, 9),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "repetition_penalty": st.floats(0.1, 3.0),
    },
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(simple)
def test_saved_and_read_is_the_same(tmp_path_factory, fields):
    folder = tmp_path_factory.mktemp("saved")
    config = GenerationConfig(**fields)
    config.save_pretrained(folder)
    read = GenerationConfig.from_pretrained(folder)
    assert read == config and read.to_dict() == config.to_dict()
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(simple, simple)
def test_the_later_layer_wins(lower, upper):
    merged = GenerationConfig(**lower).but("generate", **upper)
    set_below = {name: value for name, value in lower.items() if value is not None}
    for name in FIELDS:
        if name in upper:
            expected, origin = upper[name], "generate"
        elif name in set_below:
            expected, origin = set_below[name], "call"
        else:
            expected, origin = FIELDS[name].default, LIBRARY_DEFAULT
        assert getattr(merged, name) == expected and merged.origin(name) == origin


def test_none_turns_a_field_off_in_a_call():
    config = GenerationConfig(eos_token_id=2, top_k=7, num_beams=4)
    changed = config.but("generate", eos_token_id=None, top_k=None, num_beams=None)
    assert (changed.eos_token_id, changed.top_k, changed.num_beams) == (None, None, 1)
    assert (config.eos_token_id, config.top_k) == (2, 7)


def test_lengths_that_rival():
    config = GenerationConfig(max_new_tokens=9, min_new_tokens=2)
    assert config.but("generate", max_length=30).max_new_tokens is None
    assert config.but("generate", min_length=3).min_new_tokens is None
    both = config.but("generate", max_length=30, max_new_tokens=4)
    assert (both.max_length, both.max_new_tokens) == (30, 4)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"temprature": 1.0}, "GenerationConfig: there is no field 'temprature'. Did you mean temperature?"),
        ({"max_tokens": 3}, "GenerationConfig: there is no field 'max_tokens'. Did you mean"),
        ({"streamer": None}, "GenerationConfig: streamer is no field of it. Pass it to generate() instead."),
        ({"max_new_tokens": 0}, "max_new_tokens: must be an integer of at least 1; found 0."),
        ({"max_new_tokens": 2.5}, "max_new_tokens: must be an integer of at least 1; found 2.5."),
        ({"max_new_tokens": True}, "max_new_tokens: must be an integer of at least 1; found True."),
        ({"temperature": -1.0}, "temperature: must be a number of at least 0; found -1.0."),
        ({"temperature": float("nan")}, "temperature: must be a number of at least 0; found nan."),
        ({"temperature": 0.0, "do_sample": True}, "temperature: must be greater than 0 to sample; found 0.0. For"),
        ({"top_p": 1.2}, "top_p: must be a number from 0 to 1; found 1.2."),
        ({"top_k": -3}, "top_k: must be an integer of at least 0; found -3."),
        ({"repetition_penalty": 0}, "repetition_penalty: must be a number greater than 0; found 0."),
        ({"early_stopping": "always"}, "early_stopping: must be True or False or one of 'never'; found 'always'."),
        ({"eos_token_id": -5}, "eos_token_id: must be a token id"),
        ({"bad_words_ids": [[1], []]}, "bad_words_ids: must be a list of lists of token ids"),
        ({"bad_words_ids": [5]}, "bad_words_ids: must be a list of lists of token ids; found [5]."),
        ({"sequence_bias": {}}, "sequence_bias: must be a dict"),
        ({"stop_strings": [""]}, "stop_strings: must be a string of at least one character"),
        ({"exponential_decay_length_penalty": (3,)}, "exponential_decay_length_penalty: must be a pair"),
        ({"num_beams": [1, 2]}, "num_beams: must be an integer of at least 1; found [1, 2]."),
        ({"do_sample": 1}, "do_sample: must be True or False; found 1."),
    ],
)
def test_bad_fields_are_named(fields, text):
    with pytest.raises(ArgumentError) as caught:
        GenerationConfig(**fields)
    assert str(caught.value).startswith(text)
    with pytest.raises(ArgumentError):
        GenerationConfig().but("generate", **fields)


def test_a_failed_change_changes_nothing():
    config = GenerationConfig(top_k=7)
    with pytest.raises(ArgumentError):
        config.update(top_k=9, top_p=3.0)
    assert config.top_k == 7
    assert config.update(top_k=9, colour="red") == {"colour": "red"} and config.top_k == 9
    assert config.update(defaults_only=True, top_k=1, top_p=0.5) == {"top_k": 1}
    assert (config.top_k, config.top_p) == (9, 0.5)


def write(folder, text):
    (folder / "generation_config.json").write_text(text)
    return folder


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"generation_config.json: temperature: must be a number of at least 0"):
        GenerationConfig.from_pretrained(write(tmp_path, '{"temperature": -1}'))
    with pytest.raises(ConfigError, match=r"must hold only generation settings; found colour\. Remove the others"):
        GenerationConfig.from_pretrained(write(tmp_path, '{"colour": "red", "top_k": 3}'))
    with pytest.raises(UnsupportedError, match="num_beam_groups: is not supported; found 3"):
        GenerationConfig.from_pretrained(write(tmp_path, '{"num_beam_groups": 3}'))
    for text in ('{"top_k": 3', "[1]", '{"top_k": 3, "top_k": 4}'):
        with pytest.raises(JsonError):
            GenerationConfig.from_pretrained(write(tmp_path, text))
    config = GenerationConfig.from_pretrained(write(tmp_path, '{"_private": 5, "num_beam_groups": 1, "top_k": null}'))
    assert config.describe() == [] and config.to_dict()["_private"] == 5
    (tmp_path / "empty").mkdir()
    with pytest.raises((HubError, OSError)):
        GenerationConfig.from_pretrained(tmp_path / "empty")


def test_keywords_win_over_the_file(tmp_path):
    write(tmp_path, '{"top_k": 3, "pad_token_id": -1}')
    config = GenerationConfig.from_pretrained(tmp_path, top_k=8)
    assert (config.top_k, config.origin("top_k"), config.pad_token_id) == (8, "call", None)
    config, unused = GenerationConfig.from_pretrained(tmp_path, top_k=8, colour="red", return_unused_kwargs=True)
    assert config.top_k == 8 and unused == {"colour": "red"}
    with pytest.raises(ArgumentError, match="there is no field 'colour'"):
        GenerationConfig.from_pretrained(tmp_path, colour="red")


def test_one_value_a_prompt():
    config = GenerationConfig(temperature=[0.5, 2.0], eos_token_id=[[2], [3, 4]], seed=[1, 2], top_k=5)
    rows = [config.row(place, 2) for place in range(2)]
    assert [row.temperature for row in rows] == [0.5, 2.0]
    assert [row.eos_token_id for row in rows] == [[2], [3, 4]]
    assert [row.top_k for row in rows] == [5, 5]
    with pytest.raises(ArgumentError, match="temperature: must have one value for each of 3 prompts; found 2 values"):
        config.row(0, 3)
    with pytest.raises(ArgumentError, match="temperature row 1: must be a number of at least 0; found -1"):
        GenerationConfig(temperature=[1.0, -1])
    with pytest.raises(ArgumentError, match="temperature row 1: must be greater than 0 to sample"):
        GenerationConfig(temperature=[1.0, 0.0], do_sample=True).row(1, 2)


def test_lists_a_prompt_are_not_saved(tmp_path):
    with pytest.raises(ArgumentError, match="temperature: must be a single value to be saved"):
        GenerationConfig(temperature=[0.5, 2.0]).save_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError):
        GenerationConfig(top_k=2).save_pretrained(tmp_path / "file")


def test_settings_in_an_old_model_config():
    config = GenerationConfig.from_model_config(
        {"vocab_size": 5, "eos_token_id": 2, "repetition_penalty": 1.2, "text_config": {"bos_token_id": 1}}
    )
    assert (config.eos_token_id, config.repetition_penalty, config.bos_token_id) == (2, 1.2, 1)
    assert config.origin("eos_token_id") == "config.json" and config._from_model_config is True


def test_it_reads_as_hugging_faces_does():
    config = GenerationConfig(top_k=3, do_sample=True)
    theirs = transformers.GenerationConfig(top_k=3, do_sample=True)
    assert json.loads(config.to_json_string(ignore_metadata=True)) == {"top_k": 3, "do_sample": True}
    assert {name for name in config.to_dict() if name not in theirs.to_dict()} <= {"seed", "compile_config"}
    assert repr(config).startswith("GenerationConfig {")
    assert config.get_generation_mode() == theirs.get_generation_mode() == "sample"
    assert GenerationConfig(num_beams=2).get_generation_mode() == "beam_search"
    with pytest.raises(AttributeError, match="GenerationConfig has no field 'colour'"):
        config.colour  # noqa: B018
    with pytest.raises(ArgumentError, match="there is no field 'colour'"):
        config.colour = 1


def test_every_field_of_hugging_faces_can_be_read():
    theirs, ours = transformers.GenerationConfig(), GenerationConfig()
    unset = {name for name in vars(theirs) if not name.startswith("_") and getattr(ours, name) is None}
    assert {"penalty_alpha", "num_beam_groups", "constraints", "watermarking_config", "token_healing"} <= unset
