"""Every processor against Hugging Face's class of the same name, on the same random scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet import generation
from martlet.errors import ArgumentError, GenerationError
from martlet.generation.adapters import RowRule
from martlet.generation.config import GenerationConfig
from martlet.generation.processors import build_processors, from_torch_processor, guide

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers.generation.logits_process")

V = 40
PROMPTS = [[5, 6, 7, 5, 6], [1, 2, 3, 1, 9]]

# name, arguments of both classes
CASES = [
    ("MinLengthLogitsProcessor", (9, [2, 4])),
    ("MinLengthLogitsProcessor", (5, 2)),
    ("MinNewTokensLengthLogitsProcessor", (3, 4, [2])),
    ("MinNewTokensLengthLogitsProcessor", (3, 2, 2)),
    ("TemperatureLogitsWarper", (0.3,)),
    ("TemperatureLogitsWarper", (1.7,)),
    ("TopKLogitsWarper", (5,)),
    ("TopKLogitsWarper", (1, -50.0, 3)),
    ("TopKLogitsWarper", (1000,)),
    ("TopPLogitsWarper", (0.8,)),
    ("TopPLogitsWarper", (0.0,)),
    ("TopPLogitsWarper", (1.0,)),
    ("TopPLogitsWarper", (0.05, -1e4, 4)),
    ("TopHLogitsWarper", (0.4,)),
    ("TopHLogitsWarper", (0.97,)),
    ("MinPLogitsWarper", (0.1,)),
    ("MinPLogitsWarper", (0.9, -float("inf"), 3)),
    ("TypicalLogitsWarper", (0.6,)),
    ("TypicalLogitsWarper", (0.1, -9.0, 5)),
    ("EpsilonLogitsWarper", (0.02,)),
    ("EpsilonLogitsWarper", (0.9, -float("inf"), 2)),
    ("EtaLogitsWarper", (0.05,)),
    ("EtaLogitsWarper", (0.9, -float("inf"), 2)),
    ("RepetitionPenaltyLogitsProcessor", (1.4,)),
    ("RepetitionPenaltyLogitsProcessor", (0.6,)),
    ("RepetitionPenaltyLogitsProcessor", (1.4, 2)),
    ("NoRepeatNGramLogitsProcessor", (1,)),
    ("NoRepeatNGramLogitsProcessor", (2,)),
    ("NoRepeatNGramLogitsProcessor", (3,)),
    ("NoRepeatNGramLogitsProcessor", (9,)),
    ("SequenceBiasLogitsProcessor", ([[[7], -3.0], [[5, 6, 8], 2.0], [[1, 9, 30], 4.5], [[6, 7], 1.0]],)),
    ("SequenceBiasLogitsProcessor", ({(7,): -3.0, (6, 39): float("-inf")},)),
    ("NoBadWordsLogitsProcessor", ([[2], [11], [5, 6, 12], [9, 13]], [2])),
    ("NoBadWordsLogitsProcessor", ([[11]],)),
    ("ForcedBOSTokenLogitsProcessor", (3,)),
    ("ForcedEOSTokenLogitsProcessor", (6, [2, 4])),
    ("ForcedEOSTokenLogitsProcessor", (7, 2)),
    ("InfNanRemoveLogitsProcessor", ()),
    ("ExponentialDecayLengthPenalty", ((1, 1.5), [2, 8], 2)),
    ("ExponentialDecayLengthPenalty", ((4, 1.5), 2, 2)),
    ("LogitNormalization", ()),
    ("SuppressTokensLogitsProcessor", ([1, 5, 39],)),
    ("SuppressTokensAtBeginLogitsProcessor", ([1, 5], 5)),
    ("SuppressTokensAtBeginLogitsProcessor", ([1, 5], 4)),
]


def agree(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(theirs))
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


def random_scores(seed, num_rows, num_ids, *, has_holes=False):
    random = np.random.default_rng(seed)
    scores = random.normal(size=(num_rows, num_ids)).astype(np.float32) * random.uniform(0.5, 5)
    if has_holes:
        scores[random.random(scores.shape) < 0.3] = -np.inf
        scores[:, 0] = 0.5
    return scores


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize("num_ids", [V, 3000])
@pytest.mark.parametrize("has_holes", [False, True])
def test_the_class_of_that_name(name, arguments, num_ids, has_holes):
    if has_holes and name == "ExponentialDecayLengthPenalty":
        pytest.skip("Hugging Face makes NaN of -inf there")
    scores = random_scores(num_ids, len(PROMPTS), num_ids, has_holes=has_holes)
    theirs = getattr(hf, name)(*arguments)(torch.tensor(PROMPTS), torch.tensor(scores))
    process = getattr(generation, name)(*arguments)
    given = torch.tensor(scores)
    ours = process(torch.tensor(PROMPTS), given)
    assert isinstance(ours, torch.Tensor) and ours.dtype == torch.float32
    assert torch.equal(given, torch.tensor(scores)), "what was given must stay as it was"
    agree(ours, theirs)
    agree(process(np.array(PROMPTS), scores), theirs)
    for row in range(len(PROMPTS)):  # a row alone is the row among others
        agree(process(np.array(PROMPTS[row : row + 1]), scores[row : row + 1])[0], theirs[row])


@pytest.mark.parametrize("name", ["EncoderRepetitionPenaltyLogitsProcessor", "EncoderNoRepeatNGramLogitsProcessor"])
@pytest.mark.parametrize("value", [2, 3])
def test_rules_over_prompts(name, value):
    prompts = torch.tensor([[5, 6, 11, 5, 6, 12], [1, 9, 3, 9, 1, 9]])
    scores = torch.tensor(random_scores(3, 2, V))
    value = float(value) if "Penalty" in name else value
    theirs = getattr(hf, name)(value, prompts)(torch.tensor(PROMPTS), scores)
    agree(getattr(generation, name)(value, prompts)(torch.tensor(PROMPTS), scores), theirs)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_prefixes(num_beams):
    def allowed(prompt, ids):
        assert isinstance(ids, torch.Tensor) and ids.ndim == 1
        return [prompt + 3, int(ids[-1]), 20]

    rows = torch.tensor(PROMPTS * num_beams)
    scores = torch.tensor(random_scores(4, len(rows), V))
    theirs = hf.PrefixConstrainedLogitsProcessor(allowed, num_beams)(rows, scores)
    agree(generation.PrefixConstrainedLogitsProcessor(allowed, num_beams)(rows, scores), theirs)
    with pytest.raises(GenerationError, match="row 0, position 5: must allow at least one token; found an empty list"):
        generation.PrefixConstrainedLogitsProcessor(lambda prompt, ids: [], 1)(rows, scores)


WARPERS = [
    ("TopPLogitsWarper", st.floats(0.05, 0.99)),
    ("MinPLogitsWarper", st.floats(0.0, 1.0)),
    ("TypicalLogitsWarper", st.floats(0.05, 0.99)),
    ("EpsilonLogitsWarper", st.floats(1e-5, 0.9)),
    ("EtaLogitsWarper", st.floats(1e-5, 0.9)),
    ("TopKLogitsWarper", st.integers(1, 90)),
]


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.sampled_from(WARPERS).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1])), st.data())
def test_warpers_keep_the_same_tokens(case, data):
    name, value = case
    keep = data.draw(st.integers(1, 4))
    seed, num_ids = data.draw(st.integers(0, 10**6)), data.draw(st.sampled_from([4, 31, 257, 1100]))
    scores = random_scores(seed, 1, num_ids, has_holes=data.draw(st.booleans()))
    if name != "TopPLogitsWarper" and keep == 1 and data.draw(st.booleans()):
        scores = np.round(scores)  # ties, where it is not the sort's order that decides which of them stays
    arguments = (value, -np.inf, keep)
    theirs = getattr(hf, name)(*arguments)(None, torch.tensor(scores))
    ours = getattr(generation, name)(*arguments)(np.zeros((1, 1), dtype=np.int64), scores)
    agree(ours, theirs)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.integers(1, 5), st.floats(0.1, 3.0))
def test_rules_over_the_row(ids, size, penalty):
    scores = random_scores(size, 1, 4)
    for name, value in (("NoRepeatNGramLogitsProcessor", size), ("RepetitionPenaltyLogitsProcessor", penalty)):
        theirs = getattr(hf, name)(value)(torch.tensor([ids]), torch.tensor(scores))
        agree(getattr(generation, name)(value)(torch.tensor([ids]), torch.tensor(scores)), theirs)


def test_not_finite_scores_are_repaired_as_hugging_faces_are():
    scores = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]])
    ids = torch.tensor([[1]])
    agree(
        generation.InfNanRemoveLogitsProcessor()(ids, scores),
        hf.InfNanRemoveLogitsProcessor()(ids, scores),
    )


@pytest.mark.parametrize("scale", [1.0, 1.5, 0.4, -1.0])
def test_guidance_moves_log_probabilities(scale):
    logits, unconditional = random_scores(1, 2, V)
    expected = torch.log_softmax(torch.tensor(logits), -1)
    away = torch.log_softmax(torch.tensor(unconditional), -1)
    agree(guide(logits, unconditional, scale), scale * (expected - away) + away)


def test_every_class_that_people_import_is_here():
    theirs = {
        name
        for name in dir(hf)
        if isinstance(getattr(hf, name), type) and issubclass(getattr(hf, name), hf.LogitsProcessor)
    }
    absent = theirs - set(generation.__all__)
    assert {
        name for name in absent if any(word in name for word in ("Whisper", "Bark", "Dia", "Csm", "Synth"))
    } <= absent
    of_other_models = ("Whisper", "Bark", "Dia", "Csm", "SynthID", "Watermark", "Alternating", "Barrier")
    rest = {name for name in absent if not any(word in name for word in of_other_models)}
    assert rest <= {
        "UnbatchedClassifierFreeGuidanceLogitsProcessor",  # it holds a model; guidance_scale is the way
        "ClassifierFreeGuidanceLogitsProcessor",
        "HammingDiversityLogitsProcessor",
    }


# Lists, users' own, errors


def test_a_list_applies_its_members_in_order():
    ids, scores = torch.tensor(PROMPTS), torch.tensor(random_scores(5, 2, V))
    members = [("TemperatureLogitsWarper", 0.5), ("TopKLogitsWarper", 7), ("TopPLogitsWarper", 0.9)]
    ours = generation.LogitsProcessorList(getattr(generation, name)(value) for name, value in members)
    theirs = hf.LogitsProcessorList(getattr(hf, name)(value) for name, value in members)
    agree(ours(ids, scores), theirs(ids, scores))
    mixed = generation.LogitsProcessorList([hf.TemperatureLogitsWarper(0.5), *ours[1:]])
    agree(mixed(ids, scores), theirs(ids, scores))
    assert ours[0].temperature == 0.5 and isinstance(ours, list)


def test_biases_read_as_pairs_are_kept_by_sequence():
    for library in (hf, generation):
        kept = library.SequenceBiasLogitsProcessor([[[4, 7], -0.6], [[8], 1.2]]).sequence_bias
        assert kept == {(4, 7): -0.6, (8,): 1.2}


def test_low_precision_stays_what_it_was():
    scores = torch.tensor(random_scores(6, 2, V)).to(torch.bfloat16)
    shaped = generation.TopKLogitsWarper(3)(torch.tensor(PROMPTS), scores)
    assert shaped.dtype == torch.bfloat16 and (shaped > -torch.inf).sum(dim=-1).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("name", "arguments", "keywords", "text"),
    [
        ("TemperatureLogitsWarper", (0.0,), {}, "temperature: must be a number greater than 0; found 0.0"),
        ("TemperatureLogitsWarper", (), {"temp": 1.0}, "TemperatureLogitsWarper: "),
        ("TopKLogitsWarper", (0,), {}, "top_k: must be an integer of at least 1; found 0"),
        ("TopPLogitsWarper", (1.5,), {}, "top_p: must be a number from 0 to 1; found 1.5"),
        ("MinPLogitsWarper", (0.5,), {"min_tokens_to_keep": 0}, "min_tokens_to_keep: must be"),
        ("NoRepeatNGramLogitsProcessor", (0,), {}, "no_repeat_ngram_size: must be an integer of at least 1"),
        ("NoBadWordsLogitsProcessor", ([],), {}, "bad_words_ids: must be a list of lists"),
        ("SequenceBiasLogitsProcessor", ({(): 1.0},), {}, "sequence_bias: must give each sequence"),
        ("MinLengthLogitsProcessor", (-1, 0), {}, "min_length: must be an integer of at least 0; found -1"),
    ],
)
def test_bad_arguments_are_named(name, arguments, keywords, text):
    with pytest.raises(ArgumentError) as caught:
        getattr(generation, name)(*arguments, **keywords)
    assert str(caught.value).startswith(text)


def test_signatures_say_what_hugging_faces_do():
    import inspect

    for name, _ in CASES:
        theirs = [each for each in inspect.signature(getattr(hf, name)).parameters if each != "device"]
        ours = list(inspect.signature(getattr(generation, name)).parameters)
        assert ours[: len(theirs)] == theirs, name
    assert issubclass(generation.TopKLogitsWarper, RowRule)
    assert generation.TopKLogitsWarper(top_k=3, device="cpu").top_k == 3


def test_the_wrong_shape_out_of_a_users_processor_is_named():
    process = from_torch_processor(lambda ids, scores: scores[:, :3])
    with pytest.raises(ArgumentError, match=r"must return scores of the shape \(1, 40\); found \(1, 3\)"):
        process(np.array([1]), np.zeros(V, dtype=np.float32))


def test_the_abstract_class_says_so():
    with pytest.raises(NotImplementedError, match="Mine must define __call__"):
        type("Mine", (generation.LogitsProcessor,), {})()(None, None)


# What a config asks for, in Hugging Face's order

FIELDS = {
    "sequence_bias": [[[4], 1.5]],
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[11], [5, 6, 12]],
    "min_new_tokens": 3,
    "forced_eos_token_id": 2,
    "exponential_decay_length_penalty": (0, 1.3),
    "suppress_tokens": [3],
    "begin_suppress_tokens": [7],
    "renormalize_logits": True,
}
WARPING = {
    "temperature": 0.7,
    "top_h": 0.9,
    "top_k": 30,
    "top_p": 0.95,
    "min_p": 0.01,
    "typical_p": 0.95,
    "epsilon_cutoff": 1e-3,
    "eta_cutoff": 1e-3,
}


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("fields", [FIELDS, {**FIELDS, **WARPING, "do_sample": True}, {}, {"do_sample": True}])
@pytest.mark.parametrize("num_new", [0, 2, 5])
def test_a_config_builds_hugging_faces_chain(hf_llama, fields, num_beams, num_new):
    transformers = pytest.importorskip("transformers")
    given = {**fields, "num_beams": num_beams, "eos_token_id": 2, "max_new_tokens": 6, "top_k": fields.get("top_k", 50)}
    theirs = transformers.GenerationConfig(
        **{**transformers.GenerationConfig._get_default_generation_params(), **given}
    )
    theirs.max_length = 5 + 6
    theirs._eos_token_tensor = torch.tensor([2])
    prompt = torch.tensor(PROMPTS[:1])
    chain = hf_llama._get_logits_processor(
        generation_config=theirs,
        input_ids_seq_length=5,
        encoder_input_ids=prompt,
        prefix_allowed_tokens_fn=None,
        logits_processor=hf.LogitsProcessorList(),
        device="cpu",
    )
    ids = torch.cat([prompt, torch.tensor([[8, 5, 6, 9, 8][:num_new]], dtype=torch.long)], dim=1)
    scores = torch.tensor(random_scores(num_new, 1, 61))
    ours = build_processors(
        GenerationConfig(**given), prompt_length=5, prompt_ids=np.array(PROMPTS[0]), eos_token_ids=[2]
    )
    shaped = scores[0].numpy().copy()
    for process in ours:
        shaped = process(ids[0].numpy(), shaped)
    agree(shaped, chain(ids, scores)[0])
