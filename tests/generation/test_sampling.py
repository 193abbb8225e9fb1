import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.errors import ArgumentError
from martlet.generation import sampling


def test_a_draw_depends_on_seed_stream_and_position_only():
    draw = sampling.uniforms(3, 1, 5, 4)
    sampling.uniforms(9, 9, 9, 9)
    np.random.seed(0)
    assert np.array_equal(draw, sampling.uniforms(3, 1, 5, 4))
    others = [sampling.uniforms(*place, 4) for place in [(4, 1, 5), (3, 2, 5), (3, 1, 6), (3 + 2**64, 1, 5)]]
    assert all(not np.intersect1d(draw, other).size for other in others)
    assert ((draw > 0) & (draw < 1)).all()


def test_draws_never_change_between_versions():
    assert sampling.uniforms(42, 0, 7, 2).tolist() == PINNED


PINNED = [0.17180808711771628, 0.16797315877983005]


def test_sampling_follows_the_softmax():
    scores = np.log(np.array([0.1, 0.0001, 0.4, 0.4999], np.float32))
    picks = [sampling.choose_sampled(scores, float(sampling.uniforms(1, 0, at)[0])) for at in range(4000)]
    shares = np.bincount(picks, minlength=4) / 4000
    assert np.abs(shares - np.exp(scores)).max() < 0.03  # 3.5 standard deviations


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30), st.floats(0, 1, exclude_max=True), st.data())
@settings(max_examples=200, deadline=None)
def test_an_impossible_id_is_never_sampled(values, uniform, data):
    scores = np.array(values, np.float32)
    banned = data.draw(st.sets(st.integers(0, len(values) - 1), max_size=len(values) - 1))
    scores[list(banned)] = -np.inf
    choice = sampling.choose_sampled(scores, uniform)
    assert choice not in banned and 0 <= choice < len(values)


def test_the_far_end_of_the_cumulative_sum_is_a_possible_id():
    scores = np.array([5.0, 1.0, -np.inf, -np.inf], np.float32)
    assert sampling.choose_sampled(scores, 1.0 - 2.0**-54) == 1
    assert sampling.choose_sampled(np.array([-np.inf, 0.0, -400.0], np.float32), 1.0) == 1


def test_ties_go_to_the_lowest_id():
    assert sampling.choose_greedy(np.array([1, 3, 3, 2], np.float32)) == 1
    assert sampling.highest(np.array([1, 3, 3, 2, 3], np.float32), 3).tolist() == [1, 2, 4]
    many = np.zeros(100, np.float32)
    many[[40, 7]] = 1
    assert sampling.highest(many, 4).tolist() == [7, 40, 0, 1]


def test_draws_without_replacement_differ_and_follow_the_softmax():
    scores = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    picks = [sampling.choose_without_replacement(scores, sampling.uniforms(5, 0, at, 3), 2) for at in range(4000)]
    assert all(len(set(pick.tolist())) == 2 for pick in picks)
    firsts = np.bincount([pick[0] for pick in picks], minlength=3) / 4000
    assert np.abs(firsts - [0.5, 0.3, 0.2]).max() < 0.03
    after_first = [pick[1] for pick in picks if pick[0] == 0]
    assert abs(np.mean(np.array(after_first) == 1) - 0.6) < 0.04


def test_set_seed_resets_every_generator():
    torch = pytest.importorskip("torch")
    rounds = []
    for _ in range(2):
        sampling.set_seed(11)
        rounds.append((sampling.draw_seed(), random.random(), float(np.random.rand()), float(torch.rand(1))))
    assert rounds[0] == rounds[1]
    assert sampling.draw_seed() != sampling.draw_seed()


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "7", True])
def test_set_seed_refuses(seed):
    with pytest.raises(ArgumentError, match="seed must be an integer from 0"):
        sampling.set_seed(seed)
