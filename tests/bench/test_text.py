"""Perplexity and divergence, against their formulas."""

import numpy as np
import pytest

from martlet.bench import text
from martlet.errors import ArgumentError, EmptyPromptError


def test_scores_are_what_the_formulas_say():
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 11, 70).tolist()
    ours, true = (rng.standard_normal((70, 11)).astype(np.float32) * 3 for _ in range(2))
    score = text.Score()
    text.add_window(score, ours, ids, true)
    p = np.exp(ours.astype(float)) / np.exp(ours.astype(float)).sum(1, keepdims=True)
    q = np.exp(true.astype(float)) / np.exp(true.astype(float)).sum(1, keepdims=True)
    following = ids[1:]
    assert score.tokens == 69
    assert score.perplexity == pytest.approx(np.exp(-np.log(p[np.arange(69), following]).mean()))
    apart = (q * np.log(q / p)).sum(1)[:69]
    assert score.mean_divergence == pytest.approx(apart.mean())
    assert score.largest == pytest.approx(apart.max())
    assert score.agreements == (p[:69].argmax(1) == q[:69].argmax(1)).sum()


def test_equal_logits_do_not_diverge_and_a_constant_changes_nothing():
    logits = np.random.default_rng(4).standard_normal((9, 5)).astype(np.float32)
    score = text.Score()
    text.add_window(score, logits + np.float32(64), [0] * 9, logits)
    assert abs(score.mean_divergence) < 1e-10
    assert score.agreements == 8


class Letters:
    def encode(self, words, add_special_tokens):
        assert not add_special_tokens
        return [ord(letter) for letter in words]


def test_windows(tmp_path):
    file = tmp_path / "text"
    file.write_text("abcdefghij")
    assert [len(each) for each in text.read_windows(Letters(), file, 9, 4)] == [4, 4]  # one token foretells nothing
    assert [len(each) for each in text.read_windows(Letters(), file, 100, 4)] == [4, 4, 2]
    file.write_text("a")
    with pytest.raises(EmptyPromptError):
        text.read_windows(Letters(), file, 9, 4)
    file.write_bytes(b"a\xff")
    with pytest.raises(ArgumentError, match="damage at byte 1"):
        text.read_windows(Letters(), file, 9, 4)
