"""The computed shuffle is a permutation, whatever the sizes; a single position agrees with many; seeds differ."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.datasets import Dataset
from martlet.datasets.order import Permutation
from martlet.errors import ArgumentError


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 150), st.integers(-5, 1 << 70), st.integers(0, 3), st.integers(1, 20), st.integers(1, 8))
def test_every_row_comes_once(num_rows, seed, epoch, block, window):
    order = Permutation(num_rows, seed, epoch, block=block, window=window)
    rows = order.rows(np.arange(num_rows))
    assert sorted(rows.tolist()) == list(range(num_rows))
    assert [order.row(position) for position in range(num_rows)] == rows.tolist()
    backwards = np.arange(num_rows)[::-1]
    assert order.rows(backwards).tolist() == rows[::-1].tolist()


def test_seeds_and_epochs_give_other_orders():
    orders = {tuple(Permutation(1000, seed, epoch).rows(np.arange(50))) for seed in range(20) for epoch in range(3)}
    assert len(orders) == 60


def test_places_are_even():
    """Where row 0 of 16 goes over 4,000 seeds: chi-squared with 15 degrees of freedom stays below its 1e-6 quantile."""
    places = [int(np.flatnonzero(Permutation(16, seed).rows(np.arange(16)) == 0)[0]) for seed in range(4000)]
    counts = np.bincount(places, minlength=16)
    assert ((counts - 250) ** 2 / 250).sum() < 57.5


def test_reads_of_a_window_stay_in_its_blocks():
    order = Permutation(10_000, 3, block=100, window=4)
    rows = order.rows(np.arange(400))
    assert len({(row - order._shift) % 10_000 // 100 for row in rows.tolist()}) == 4


def test_a_shuffled_dataset_needs_no_index_and_keeps_its_rows():
    ds = Dataset.from_dict({"a": list(range(3000))})
    shuffled = ds.shuffle(seed=1)
    assert isinstance(shuffled._selection, Permutation)
    assert sorted(shuffled["a"]) == list(range(3000)) and shuffled["a"][:] != ds["a"][:]
    assert shuffled[:5] == ds.shuffle(seed=1)[:5] != ds.shuffle(seed=2)[:5]
    assert [shuffled[i]["a"] for i in (0, 7, -1)] == [shuffled["a"][i] for i in (0, 7, -1)]
    generator = np.random.default_rng(3)
    assert ds.shuffle(generator=generator)[:9] != ds.shuffle(generator=generator)[:9]
    with pytest.raises(ArgumentError, match="not both"):
        ds.shuffle(seed=1, generator=generator)
