"""Hostile requests to generate: each gets an error of ours that names it, or what was asked for; never another
exception, a hang, or a row that another row changed."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))

from generation_fakes import hashed_logits, hashed_model

from martlet.errors import (
    ArgumentError,
    EmptyPromptError,
    GenerationError,
    MartletError,
    NonFiniteLogitsError,
    PromptTooLongError,
    TokenRangeError,
    UnsupportedError,
)
from martlet.generation import GenerationConfig
from martlet.generation import settings as module
from martlet.generation.fields import FIELDS
from martlet.generation.generate import generate

torch = pytest.importorskip("torch")

VOCAB, CONTEXT = 29, 40
REASONS = {"eos", "length", "stop_string", "time", "criteria", "context", "exhausted"}


def model_with(logits_of=None):
    model = hashed_model(VOCAB, max_length=CONTEXT)
    model.logits_of = logits_of or model.logits_of
    model.generation_config = None
    return model


@pytest.mark.parametrize(
    ("inputs", "kind", "text"),
    [
        ([], EmptyPromptError, "input_ids: there must be at least one row; found none."),
        ([[]], EmptyPromptError, "input_ids row 0: a prompt must have at least one token; found an empty row."),
        (torch.zeros(2, 0, dtype=torch.long), EmptyPromptError, "input_ids row 0: a prompt must have at least one"),
        ([[1], [1, 29]], TokenRangeError, "prompt row 1, position 1: ids must be from 0 to 28"),
        (
            [[1, -1]],
            TokenRangeError,
            "prompt row 0, position 1: ids must be from 0 to 28 for a vocabulary of 29; found -1.",
        ),
        (np.array([[2**64 - 1]], dtype=np.uint64), TokenRangeError, "prompt row 0, position 0"),
        ([[2**70]], ArgumentError, "input_ids row 0: must hold integer token ids"),
        ([1, None], ArgumentError, "input_ids: each row must be a flat list of ids"),
        (["text"], ArgumentError, "input_ids: must hold token ids; found text. Text goes through a tokenizer first."),
        ([[1.0]], ArgumentError, "input_ids row 0: must hold integer token ids; found values of type float64."),
        (5, ArgumentError, "input_ids: must be a tensor, an array, a list of ids or a list of rows; found int."),
        (torch.tensor(5), ArgumentError, "input_ids: must have the shape (rows, tokens); found ()."),
        (
            [[1] * 41],
            PromptTooLongError,
            "prompt row 0: a prompt must fit the model's context of 40 tokens; found 41 tokens.",
        ),
    ],
)
def test_prompts(inputs, kind, text):
    model = model_with()
    with pytest.raises(kind) as caught:
        generate(model, inputs)
    assert str(caught.value).startswith(text)
    assert model.calls.steps == [] and model.calls.num_live == 0


def test_a_prompt_and_its_answer_that_are_longer_than_the_context(caplog):
    module._said.clear()
    with caplog.at_level(logging.WARNING, "martlet"):
        output = generate(model_with(), [[1] * 38], max_new_tokens=9, return_dict_in_generate=True)
    assert (output.finish_reasons, output.num_new_tokens) == (["context"], [2])
    assert caplog.records[0].message.endswith(
        "context of 40 tokens: after a prompt of 38 there was room for 2 new tokens"
    )


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"attention_mask": [[1, 0, 1]]}, ArgumentError, "attention_mask row 0: must have its ones together"),
        ({"attention_mask": [[0, 0, 0]]}, EmptyPromptError, "input_ids row 0: .* found 3 ids, all padding"),
        ({"attention_mask": [[1, 2, 1]]}, ArgumentError, "attention_mask row 0: must be 1 at tokens and 0 at padding"),
        ({"attention_mask": [["a", 1, 1]]}, ArgumentError, "attention_mask row 0: must be 1 at tokens"),
        ({"attention_mask": np.array([[1, np.nan, 1]])}, ArgumentError, "attention_mask row 0: must be 1 at tokens"),
        ({"attention_mask": torch.ones(1, 1, 3, 3)}, ArgumentError, "attention_mask: must have one number for each id"),
        ({"attention_mask": "ones"}, ArgumentError, "attention_mask: must be a tensor"),
        ({"max_length": 2}, ArgumentError, r"max_length \(2\) counts the prompt and must be greater than its 3 tokens"),
        (
            {"max_new_tokens": 3, "min_new_tokens": 9},
            ArgumentError,
            "min_new_tokens: asks for 9 new tokens, and at most 3 are allowed. Raise max_new_tokens",
        ),
        ({"max_new_tokens": 3, "min_length": 9}, ArgumentError, "min_length: asks for 6 new tokens, and at most 3"),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            ArgumentError,
            r"num_return_sequences: must be at most num_beams \(2\)",
        ),
        ({"num_return_sequences": 3}, ArgumentError, "num_return_sequences: must be 1 for greedy decoding"),
        ({"num_beams": 2, "prompt_lookup_num_tokens": 3}, ArgumentError, "num_beams: must be 1 with an assistant"),
        ({"do_sample": True, "temperature": 0.0}, ArgumentError, "temperature: must be greater than 0 to sample"),
        ({"do_sample": True, "top_p": 0.0}, ArgumentError, "top_p: must be greater than 0 to sample"),
        (
            {"temperature": [1.0, 2.0]},
            ArgumentError,
            "temperature: must have one value for each of 1 prompts; found 2 values",
        ),
        ({"bad_words_ids": [[99]]}, ArgumentError, "bad_words_ids: ids must be from 0 to 28; found 99"),
        ({"sequence_bias": {(3, 99): 1.0}}, ArgumentError, "sequence_bias: ids must be from 0 to 28; found 99"),
        (
            {"forced_eos_token_id": 99, "max_new_tokens": 1},
            ArgumentError,
            r"forced tokens: ids must be .* found \[99\]",
        ),
        (
            {"exponential_decay_length_penalty": (0, 2.0)},
            ArgumentError,
            "exponential_decay_length_penalty: needs an eos",
        ),
        (
            {"suppress_tokens": list(range(29))},
            NonFiniteLogitsError,
            "row 0, position 3: the logits processors left no token",
        ),
        (
            {"suppress_tokens": list(range(29)), "num_beams": 3},
            NonFiniteLogitsError,
            "left no token that can be chosen",
        ),
        (
            {"prefix_allowed_tokens_fn": lambda row, ids: []},
            GenerationError,
            "position 3: must allow at least one token",
        ),
        (
            {"prefix_allowed_tokens_fn": lambda row, ids: None},
            GenerationError,
            "must return a list of token ids; found None",
        ),
        (
            {"prefix_allowed_tokens_fn": lambda row, ids: [99]},
            GenerationError,
            "ids must be from 0 to 28; found \\[99\\]",
        ),
        ({"prefix_allowed_tokens_fn": 3}, ArgumentError, "prefix_allowed_tokens_fn: must be a function; found int"),
        (
            {"logits_processor": lambda ids, scores: scores},
            ArgumentError,
            "logits_processor: must be a list; found function",
        ),
        ({"logits_processor": [3]}, ArgumentError, "logits_processor 0: must be a function; found int"),
        ({"logits_processor": [lambda ids, scores: None]}, ArgumentError, r"must return scores of the shape \(1, 29\)"),
        ({"logits_processor": [lambda ids, scores: scores * float("nan")]}, NonFiniteLogitsError, "row 0, position 3"),
        (
            {"stopping_criteria": [lambda ids, scores: None]},
            ArgumentError,
            "must return one True or False .* found None",
        ),
        ({"stopping_criteria": 3}, ArgumentError, "stopping_criteria: must be a list; found int"),
        ({"assistant_model": 3}, ArgumentError, "assistant_model: must be a model loaded by martlet; found int"),
        ({"streamer": 3}, ArgumentError, "streamer: must have the methods put and end; found int"),
        (
            {"generation_config": "x"},
            ArgumentError,
            "generation_config: must be a GenerationConfig or a dict; found str",
        ),
        ({"negative_prompt_ids": [[99]], "guidance_scale": 2.0}, TokenRangeError, "negative prompt row 0, position 0"),
        (
            {"negative_prompt_ids": [[]], "guidance_scale": 2.0},
            EmptyPromptError,
            "a prompt must have at least one token",
        ),
        ({"position_ids": [[0]]}, UnsupportedError, "generate: position_ids is not supported"),
        ({"synced_gpus": True}, UnsupportedError, "generate: synced_gpus is not supported"),
        ({"top_kk": 3}, ArgumentError, "there is no field 'top_kk'. Did you mean top_k?"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_settings(fields, kind, text):
    model = model_with()
    with pytest.raises(kind, match=text):
        generate(model, [[1, 2, 3]], **fields)
    assert model.calls.num_closed == 1 or not model.calls.steps


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["one", "all", "later"])
@pytest.mark.parametrize(
    "fields", [{}, {"do_sample": True, "seed": 1}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 2}]
)
def test_a_model_that_gives_no_numbers(bad, place, fields):
    hashed = hashed_logits(VOCAB)

    def logits_of(ids):
        logits = hashed(ids)
        if place != "later" or len(ids) > 4:
            logits[slice(None) if place == "all" else 3] = bad
        return logits

    model = model_with(logits_of)
    position = 5 if place == "later" else 2
    with pytest.raises(
        NonFiniteLogitsError, match=f"row 0, position {position}: the model gave logits with NaN or inf"
    ):
        generate(model, [[1, 1]], **fields)
    assert model.calls.num_closed == 1
    repaired = generate(model, [[1, 1]], remove_invalid_values=True, max_new_tokens=6, **fields)
    assert len(repaired[0]) == 8


def test_some_negative_infinities_are_no_fault():
    hashed = hashed_logits(VOCAB)

    def logits_of(ids):
        logits = hashed(ids)
        logits[: VOCAB - 2] = -np.inf
        return logits

    for fields in ({}, {"do_sample": True, "top_p": 0.5, "typical_p": 0.5, "eta_cutoff": 0.1}, {"num_beams": 2}):
        [row] = generate(model_with(logits_of), [[1, 1]], max_new_tokens=5, **fields)
        assert set(row[2:]) <= {VOCAB - 1, VOCAB - 2}


def test_seeds_that_are_none_among_seeds():
    """A row whose own seed is None is drawn anew, and never greedy."""
    fields = {"do_sample": True, "seed": [None, 3], "max_new_tokens": 12, "temperature": 3.0}
    first, second = (generate(model_with(), [[1], [1]], **fields) for _ in range(2))
    assert first[1] == second[1] and first[0] != second[0]


def test_settings_that_change_nothing_are_said(caplog):
    module._said.clear()
    with caplog.at_level(logging.WARNING, "martlet"):
        generate(model_with(), [[1]], output_scores=True, negative_prompt_ids=[[2]], max_new_tokens=1)
        config = GenerationConfig(min_new_tokens=9, eos_token_id=3)
        generate(model_with(), [[1]], generation_config=config, max_new_tokens=2)
    assert [record.message for record in caplog.records] == [
        "generate: output_scores given, but only return_dict_in_generate=True returns them",
        "generate: negative_prompt_ids given, but without a guidance_scale other than 1 they change nothing",
        "min_new_tokens asks for 9 new tokens, and at most 2 are allowed",
    ]


# Anything at all

scalars = st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.text(max_size=3)
garbage = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner), max_leaves=8)


@settings(deadline=None, max_examples=400, derandomize=True)
@given(
    st.sampled_from(sorted(FIELDS)), garbage | st.dictionaries(st.tuples(st.integers(-1, 40)), st.floats(), max_size=2)
)
def test_any_value_of_any_field(name, value):
    try:
        config = GenerationConfig(**{name: value})
    except MartletError as error:
        assert name in str(error)
        return
    assert config.row(0, 1) is not None if not FIELDS[name].is_per_row(value) or len(value) == 1 else True


@settings(deadline=None, max_examples=300, derandomize=True)
@given(garbage | st.lists(st.lists(st.integers(0, 28), max_size=4), max_size=3), st.none() | garbage)
def test_any_prompt_and_mask(inputs, mask):
    try:
        rows = generate(model_with(), inputs, attention_mask=mask, max_new_tokens=2, pad_token_id=0)
    except MartletError:
        return
    assert all(isinstance(row, list) and len(row) >= 2 for row in rows)


settings_of_a_row = {
    "max_new_tokens": st.integers(1, 9),
    "do_sample": st.booleans(),
    "temperature": st.floats(0.1, 4.0),
    "top_k": st.integers(0, 40),
    "top_p": st.floats(0.01, 1.0),
    "min_p": st.floats(0.0, 1.0),
    "typical_p": st.floats(0.01, 1.0),
    "epsilon_cutoff": st.floats(0.0, 0.9),
    "eta_cutoff": st.floats(0.0, 0.9),
    "top_h": st.floats(0.1, 1.0),
    "repetition_penalty": st.floats(0.2, 3.0),
    "encoder_repetition_penalty": st.floats(0.2, 3.0),
    "no_repeat_ngram_size": st.integers(0, 3),
    "encoder_no_repeat_ngram_size": st.integers(0, 3),
    "suppress_tokens": st.lists(st.integers(0, 40), max_size=6),
    "begin_suppress_tokens": st.lists(st.integers(0, 40), max_size=6),
    "bad_words_ids": st.lists(st.lists(st.integers(0, 28), min_size=1, max_size=2), min_size=1, max_size=4),
    "sequence_bias": st.dictionaries(
        st.lists(st.integers(0, 28), min_size=1, max_size=2).map(tuple), st.floats(-9, 9), min_size=1, max_size=4
    ),
    "forced_bos_token_id": st.integers(0, 28),
    "forced_eos_token_id": st.integers(0, 28),
    "eos_token_id": st.lists(st.integers(0, 28), min_size=1, max_size=4),
    "min_new_tokens": st.integers(0, 3),
    "min_length": st.integers(0, 5),
    "renormalize_logits": st.booleans(),
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 3), st.floats(0.5, 2.0)),
    "guidance_scale": st.floats(0.5, 2.0),
    "seed": st.just(5),
}
settings_of_a_call = {
    "num_beams": st.integers(1, 4),
    "num_return_sequences": st.integers(1, 3),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "length_penalty": st.floats(-2.0, 2.0),
    "prompt_lookup_num_tokens": st.integers(1, 4),
    "prefill_chunk_size": st.integers(1, 4),
}
prompts = st.lists(st.lists(st.integers(0, 28), min_size=1, max_size=6), min_size=1, max_size=3)


@settings(deadline=None, max_examples=120, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    prompts,
    st.fixed_dictionaries({}, optional=settings_of_a_row),
    st.fixed_dictionaries({}, optional=settings_of_a_call),
)
def test_any_settings_together(rows, of_row, of_call):
    fields = {"seed": 5, "pad_token_id": 0, **of_row, **of_call, "return_dict_in_generate": True}
    fields["seed"] = [5] * len(rows)  # a row's own, so that its place does not count
    model = model_with()
    try:
        output = generate(model, rows, **fields)
    except MartletError:
        assert model.calls.num_closed == 1 or not model.calls.steps
        return
    assert set(output.finish_reasons) <= REASONS
    assert model.calls.num_closed == 1 and model.calls.num_live == 0
    count = fields.get("num_return_sequences", 1)
    assert len(output.sequences) == count * len(rows)
    for place, row in enumerate(rows):
        alone = generate(model_with(), [row], **{**fields, "seed": [5]})
        assert output.sequences[place * count : (place + 1) * count] == alone.sequences
        assert output.finish_reasons[place * count : (place + 1) * count] == alone.finish_reasons
