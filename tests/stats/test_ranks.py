"""Orders of methods: Kendall's tau against brute force and scipy, intervals against cases that are known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmark.stats import order_agreement, rank_agreement
from benchmark.stats.ranks import taus


def brute_force(one, other):
    """Count pairs: those that both order alike, less those that they order differently, over those that each orders."""
    agree = ties_one = ties_other = pairs = 0
    for i, j in itertools.combinations(range(len(one)), 2):
        pairs += 1
        a, b = np.sign(one[i] - one[j]), np.sign(other[i] - other[j])
        agree += a * b
        ties_one += a == 0
        ties_other += b == 0
    below = ((pairs - ties_one) * (pairs - ties_other)) ** 0.5
    return agree / below if below else np.nan


values = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=8)


@given(st.lists(values.filter(lambda rows: len(rows) == 5), min_size=1, max_size=3) | values.map(lambda rows: [rows]))
def test_many_taus_at_once_are_those_of_brute_force_and_of_scipy(lists):
    one, other = np.moveaxis(np.array(lists, dtype=float), 2, 0)
    found = taus(one, other)
    for index in range(len(lists)):
        assert found[index] == pytest.approx(brute_force(one[index], other[index]), nan_ok=True)
        assert found[index] == pytest.approx(stats.kendalltau(one[index], other[index]).statistic, nan_ok=True)


def test_the_same_order_agrees_fully_and_the_reverse_not_at_all():
    one = np.arange(8.0)[:, None] + np.zeros((8, 6))
    assert rank_agreement(one, 3 * one[:, :3]).value == 1
    found = rank_agreement(one, -one)
    assert (found.value, found.low, found.high, found.methods) == (-1, -1, -1, 8)


def test_noise_of_seeds_and_few_methods_widen_the_interval():
    rng = np.random.default_rng(0)
    order = np.arange(6.0)[:, None]
    calm, wild = (order + noise * rng.standard_normal((6, 6)) for noise in (0.01, 6.0))
    tight, wide = rank_agreement(calm, calm), rank_agreement(calm, wild)
    assert tight.low > 0.9 and wide.high - wide.low > 0.4


def test_three_methods_have_no_interval_and_one_no_order():
    assert rank_agreement(np.arange(3.0)[:, None], np.arange(3.0)[:, None]).low is None
    assert np.isnan(rank_agreement(np.ones((1, 2)), np.ones((1, 2))).value)


@given(st.data())
def test_agreement_with_known_pairs_counts_them(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores = rng.integers(0, 4, (5, 3)).astype(float)
    pairs = [(i, j) for i, j in itertools.permutations(range(5), 2) if rng.random() < 0.4]
    found = order_agreement(pairs, scores, 20)
    means = scores.mean(1)
    right = sum(means[i] > means[j] for i, j in pairs) - sum(means[i] < means[j] for i, j in pairs)
    assert found.value == pytest.approx(right / len(pairs) if pairs else np.nan, nan_ok=True)
    assert found.methods == len(pairs) and (found.low is None) == (len(pairs) < 4)
