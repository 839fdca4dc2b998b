"""Means over seeds and Pareto fronts against brute force."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.stats import over_seeds, pareto_front

numbers = st.integers(0, 6).map(float) | st.just(math.nan)


@given(st.lists(st.tuples(numbers, numbers), max_size=12), st.booleans())
def test_the_front_is_the_points_that_no_other_point_dominates(points, higher_is_better):
    sign = 1 if higher_is_better else -1

    def dominated(cost, value):
        return any(c <= cost and sign * v >= sign * value and (c < cost or sign * v > sign * value) for c, v in points)

    expected = [not any(map(math.isnan, point)) and not dominated(*point) for point in points]
    costs, values = [point[0] for point in points], [point[1] for point in points]
    assert pareto_front(costs, values, higher_is_better).tolist() == expected


def test_the_front_refuses_vectors_of_two_lengths():
    with pytest.raises(ValueError, match="one length"):
        pareto_front([1, 2], [1])


def test_means_and_spread_over_seeds_are_per_configuration():
    cells = pd.DataFrame(
        {
            "method": ["b", "a", "b", "a", "a"],
            "p_gamma": [0.1, None, 0.1, None, 0.2],
            "metric_AP": [0.5, 0.3, 0.7, None, 0.9],
            "gmacs": [1, 2, 3, 4, 5],
        }
    )
    means = over_seeds(cells, ["method", "p_gamma"], ["metric_AP", "gmacs"])
    assert means["method"].tolist() == ["b", "a", "a"]
    assert means["seeds"].tolist() == [2, 2, 1]
    np.testing.assert_allclose(means["metric_AP"], [0.6, 0.3, 0.9])
    np.testing.assert_allclose(means["gmacs"], [2, 3, 5])
    np.testing.assert_allclose(means["gmacs_spread"], [math.sqrt(2), math.sqrt(2), math.nan])
    assert means["metric_AP_spread"].isna().tolist() == [False, True, True]
