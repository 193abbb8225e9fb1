"""Every field of GenerationConfig means on the engine what it means on torch; drafts change no token."""

import numpy as np
import pytest
import torch
import transformers

import martlet
from martlet import engine

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")
load = martlet.AutoModelForCausalLM.from_pretrained
rng = np.random.default_rng(1)
PROMPTS = [rng.integers(3, 96, size).tolist() for size in (3, 11, 1, 33)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(path)
    return load(path, backend="native"), load(path, backend="torch"), load(path, backend="native", quantize="int4")


def only_even(ids, scores):
    scores[1::2] = -np.inf
    return scores


only_even.takes_numpy = True

FIELDS = [
    {},
    {"repetition_penalty": 1.4},
    {"min_length": 9, "eos_token_id": list(range(0, 96, 3))},
    {"min_new_tokens": 3, "eos_token_id": list(range(0, 96, 3))},
    {"max_length": 40, "max_new_tokens": None},
    {"no_repeat_ngram_size": 1},
    {"encoder_repetition_penalty": 1.5},
    {"encoder_no_repeat_ngram_size": 1},
    {"bad_words_ids": [[5], [7, 9], [60]]},
    {"sequence_bias": [[[4], 3.0], [[5, 6], -2.0]]},
    {"suppress_tokens": list(range(40))},
    {"begin_suppress_tokens": list(range(0, 96, 2))},
    {"forced_eos_token_id": 2},
    {"exponential_decay_length_penalty": (2, 1.3), "eos_token_id": 5},
    {"guidance_scale": 1.7},
    {"renormalize_logits": True},
    {"remove_invalid_values": True},
    {"prefill_chunk_size": 4},
    {"logits_processor": [only_even]},
    {"prefix_allowed_tokens_fn": lambda row, ids: [len(ids) % 90, 5 + row]},
    {"num_beams": 3, "length_penalty": 0.5},
    {"num_beams": 3, "early_stopping": True, "num_return_sequences": 2, "eos_token_id": list(range(0, 96, 5))},
    {"prompt_lookup_num_tokens": 3},
]
SAMPLED = [
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.8, "top_k": 0},
    {"min_p": 0.1},
    {"typical_p": 0.7},
    {"epsilon_cutoff": 0.01},
    {"eta_cutoff": 0.01},
    {"top_h": 0.5},
    {"repetition_penalty": 1.2, "temperature": 1.5, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
    {"num_return_sequences": 3, "seed": [1, 2, 3, 4]},
    {"temperature": [0.5, 1.0, 2.0, 0.9], "top_k": [1, 5, 50, 2]},
    {"num_beams": 2},
]


@pytest.mark.parametrize(
    "fields", FIELDS + [{"do_sample": True, **each} for each in SAMPLED], ids=lambda each: "-".join(each)
)
def test_both_backends(models, fields):
    asked = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, "seed": 3, **fields}
    if fields.get("num_beams", 1) > 1 and "num_return_sequences" not in fields:
        asked["num_return_sequences"] = 1
    native, plain, _ = models
    if asked.get("do_sample") is False:
        asked.pop("seed")
    assert native.generate(PROMPTS, **asked) == plain.generate(PROMPTS, **asked)


@pytest.mark.parametrize("sampling", [{"do_sample": False}, {"do_sample": True, "seed": 5, "top_k": 8}], ids=str)
def test_drafts_change_nothing(models, sampling, monkeypatch):
    native, _, other = models
    asked = {"max_new_tokens": 40, "eos_token_id": None, "pad_token_id": 0, **sampling}
    want = native.generate(PROMPTS, **asked)
    widths = []
    plain = engine.EngineSession.step

    def step(session, batch, **keywords):
        if session.model is native.engine:
            widths.append(max(len(tokens) for _, tokens in batch))
        return plain(session, batch, **keywords)

    monkeypatch.setattr(engine.EngineSession, "step", step)
    assert native.generate(PROMPTS, assistant_model=other, num_assistant_tokens=4, **asked) == want
    assert max(widths[1:]) > 1 and len(widths) < 40, "several tokens of a row were checked at once"
    for num_tokens in (1, 5):
        assert native.generate(PROMPTS, prompt_lookup_num_tokens=num_tokens, **asked) == want


def test_scores_and_logits_are_kept(models):
    native, plain, _ = models
    asked = {"max_new_tokens": 3, "do_sample": True, "seed": 1, "top_k": 4, "eos_token_id": None}
    kept = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    ours, theirs = (model.generate(PROMPTS, **asked, **kept) for model in (native, plain))
    assert ours.sequences == theirs.sequences
    for mine, other in zip((*ours.scores, *ours.logits), (*theirs.scores, *theirs.logits), strict=True):
        assert np.array_equal(np.isfinite(mine), np.isfinite(other))
        np.testing.assert_allclose(mine[np.isfinite(mine)], other[np.isfinite(other)], atol=2e-2, rtol=2e-2)
