"""native/sampling chooses what generation's Python path chooses: same ids for the same scores, seeds and settings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet import engine
from martlet.errors import NonFiniteLogitsError
from martlet.generation.choice import read_choice
from martlet.generation.exponential import exponential
from martlet.generation.processors import MinLength, MinNewTokens, RepetitionPenalty
from martlet.generation.rows import Request
from martlet.generation.sampling import log_probabilities, uniforms
from martlet.generation.stopping import EosToken, MaxLength, MaxTime
from martlet.generation.warpers import MinP, Temperature, TopK, TopP, Typical

pytestmark = pytest.mark.skipif(not engine.is_built(), reason="the native engine was not compiled")


def chooser(choice, stream, ids, vocab_size):
    from martlet.engine.chooser import EngineChooser

    return EngineChooser(choice, stream, np.array(ids, np.int64), vocab_size)


@st.composite
def cases(draw):
    vocab = draw(st.sampled_from([1, 2, 15, 16, 17, 33, 500, 3000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "flat", "ties", "peaked", "banned"]))
    logits = rng.normal(size=vocab).astype(np.float32) * {"flat": 1e-3, "peaked": 30}.get(kind, 3)
    if kind == "ties":
        logits = np.round(logits)
    if kind == "banned":
        logits[rng.random(vocab) < 0.5] = -np.inf
        logits[rng.integers(vocab)] = 0.5
    prompt = rng.integers(0, vocab, draw(st.integers(1, 30))).tolist()
    processors = []
    ends = draw(st.lists(st.integers(0, vocab - 1), max_size=2))
    if draw(st.booleans()):
        processors.append(RepetitionPenalty(draw(st.floats(0.3, 3))))
    if ends and draw(st.booleans()):
        processors.append(MinLength(draw(st.integers(0, 40)), ends))
    if ends and draw(st.booleans()):
        processors.append(MinNewTokens(len(prompt), draw(st.integers(0, 5)), ends))
    seed = draw(st.none() | st.integers(0, 2**63 - 1) | st.integers(2**64, 2**100))
    if seed is not None:
        if draw(st.booleans()):
            processors.append(Temperature(draw(st.floats(0.05, 5))))
        if draw(st.booleans()):
            processors.append(TopK(draw(st.integers(1, 2 * vocab))))
        if draw(st.booleans()):
            processors.append(TopP(draw(st.floats(0, 1))))
        if draw(st.booleans()):
            processors.append(MinP(draw(st.floats(0, 1))))
    return logits, prompt, processors, ends, seed, draw(st.integers(0, 100))


@settings(max_examples=400, deadline=None)
@given(cases())
def test_the_same_ids(case):
    logits, prompt, processors, ends, seed, stream = case
    stops = [EosToken(ends)] if ends else []
    request = Request(0, np.array(prompt), end=10**6, processors=processors, stops=stops, seed=seed)
    choice, is_watched = read_choice(processors, stops, seed, request.end)
    assert choice is not None and not is_watched
    ours = chooser(choice, stream, prompt, len(logits))
    ids = list(prompt)
    for _ in range(4):  # chosen ids count for the penalty
        array = np.array(ids)
        try:
            scores = request.shape_scores(array, logits.copy(), None)
        except NonFiniteLogitsError:
            assert ours.choose(logits.copy(), len(ids)).failure == "nothing left"
            return
        want = request.choose(array, scores, stream)
        assert ours.choose(logits.copy(), len(ids)).token == want
        ids.append(want)


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_the_same_random_numbers(seed, stream, position):
    words = (seed % 2**64, seed >> 64)
    from martlet.engine.extension import native

    assert native().uniform(words, stream, position) == uniforms(seed, stream, position)[0]


def test_exp():
    x = np.concatenate([-np.logspace(-300, np.log10(708), 3000), -np.arange(709.0), [0.0, -0.0]])
    want = np.exp(x)
    assert (np.abs(exponential(x) - want) <= 2 * np.spacing(want)).all()
    assert exponential(np.array([-709.0, -1e308, -np.inf])).tolist() == [0, 0, 0]
    assert np.isnan(exponential(np.array([np.nan]))).all()


@pytest.mark.parametrize(
    ("logits", "failure"),
    [
        ([0, np.nan, 1], "not finite"),
        ([0, np.inf, 1], "not finite"),
        ([-np.inf] * 3, "not finite"),
        ([-np.inf, 0, -np.inf], "nothing left"),
    ],
)
def test_nothing_to_choose(logits, failure):
    stops = [EosToken([1])]
    choice, _ = read_choice([MinLength(9, [1])], stops, None, 99)
    assert chooser(choice, 0, [0], 3).choose(np.array(logits, np.float32), 1) == (-1, failure, None)


def test_a_temperature_that_leaves_nothing():
    choice, _ = read_choice([Temperature(1e-44)], [], 7, 99)
    assert chooser(choice, 0, [0], 2).choose(np.array([1, 2], np.float32), 1).failure == "nothing left"


def test_log_probabilities():
    logits = np.random.default_rng(0).normal(size=50).astype(np.float32)
    choice, _ = read_choice([RepetitionPenalty(2.0)], [], 5, 99, num_logprobs=3)
    token, _, (logprob, likeliest) = chooser(choice, 0, [4, 5], 50).choose(logits.copy(), 2)
    want = log_probabilities(logits)
    assert np.isclose(np.exp(want).sum(), 1) and logprob == want[token]
    assert likeliest == [(at, want[at]) for at in np.argsort(-logits)[:3]]


def test_what_is_left_to_python():
    def told(processors, stops=()):
        return read_choice(processors, stops, 0, 99)

    assert told([Typical(0.5)])[0] is None
    assert told([TopP(0.5), TopK(3)])[0] is None, "another order is another result"
    assert told([TopK(3, min_tokens_to_keep=2)])[0] is None
    assert told([MinLength(3, [1])], [EosToken([2])])[0] is None
    assert told([], [MaxTime(1.0)])[1] and not told([], [MaxLength(5), EosToken([2])])[1]
    assert told([MinNewTokens(4, 2, [2]), Temperature(0.5)], [EosToken([2])])[0].shortest == 6
