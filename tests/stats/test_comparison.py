"""Gaps, rates, tests and verdicts, on curves for which the answer is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.stats import (
    NoOverlap,
    Outcomes,
    Run,
    bjontegaard_rate,
    compare,
    mean_gap,
    mean_gaps,
    read_costs,
    read_curves,
    sign_flip,
)
from benchmark.stats.comparison import interval, resample

COSTS = (1.0, 2.0, 4.0, 8.0)
SCORES = (0.50, 0.58, 0.64, 0.68)


class Hits(Outcomes):
    """Right or wrong by chance, so many of a thousand images."""

    def __init__(self, share, rng):
        self.correct = (rng.random(1000) < share).astype(float)

    def scores(self, weights):
        return weights @ self.correct / weights.sum(1)


def curve(shift=0.0, factor=1.0, seeds=6, noise=0.0, rng=None, images=False):
    rng = rng or np.random.default_rng(0)
    runs = []
    for seed in range(seeds):
        for index, (cost, score) in enumerate(zip(COSTS, SCORES, strict=True)):
            value = score + shift + noise * rng.standard_normal()
            outcomes = Hits(value, rng) if images else None
            runs.append(Run(
                f"point {index}", seed, outcomes.correct.mean() if images else value, cost * factor,
                outcomes, np.full(1000, cost * factor) if images else None,
            ))  # fmt: skip
    return runs


# ----------------------------------------------------------------------------------------------------- gap and rate


@given(
    st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 1)), min_size=2, max_size=6),
    st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 1)), min_size=2, max_size=6),
)
def test_the_gap_is_the_area_between_straight_lines_over_log_computation(one, other):
    sides = [np.array(sorted({round(c, 3): v for c, v in side}.items())).T for side in (one, other)]
    low, high = max(side[0].min() for side in sides), min(side[0].max() for side in sides)
    if low > high:
        with pytest.raises(NoOverlap):
            mean_gap(*sides[0], *sides[1])
        return
    grid = np.linspace(np.log(low), np.log(high), 20001)
    a, b = (np.interp(grid, np.log(side[0]), side[1]) for side in sides)
    assert mean_gap(*sides[0], *sides[1]) == pytest.approx(np.mean(a - b), abs=2e-3)


@given(st.data())
def test_many_gaps_and_readings_at_once_are_those_of_each_pair(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    costs = [rng.choice([0.5, 1.0, 2.0, 3.0, 9.0], (int(rng.integers(1, 5)), 7)) for _ in range(2)]
    values = [rng.random(cost.shape) for cost in costs]
    at = rng.uniform(0.4, 9, 7)
    gaps, readings = mean_gaps(costs[0], values[0], costs[1], values[1]), read_curves(costs[0], values[0], at)
    for index in range(7):
        sides = [table[:, index] for pair in zip(costs, values, strict=True) for table in pair]
        knots, place = np.unique(np.log(sides[0]), return_inverse=True)
        level = np.bincount(place, sides[1]) / np.bincount(place)
        inside = sides[0].min() <= at[index] <= sides[0].max()
        expected = np.interp(np.log(at[index]), knots, level) if inside else np.nan
        assert readings[index] == pytest.approx(expected, nan_ok=True)
        try:
            expected = mean_gap(*sides)
        except NoOverlap:
            expected = np.nan
        assert gaps[index] == pytest.approx(expected, nan_ok=True)


def test_the_computation_of_a_value_is_read_between_points_and_nowhere_else():
    random = np.random.default_rng(0)
    costs, values = random.uniform(0.1, 1, (4, 20)), random.uniform(0.2, 0.8, (4, 20))
    at = random.uniform(0.1, 0.9, 20)
    for read, cost, value, wanted in zip(read_costs(costs, values, at), costs.T, values.T, at, strict=True):
        order = np.argsort(value)
        expected = np.exp(np.interp(wanted, value[order], np.log(cost[order]), np.nan, np.nan))
        np.testing.assert_allclose(read, expected)


def test_a_single_point_is_compared_at_its_own_computation():
    assert mean_gap([2.0], [0.7], COSTS, SCORES) == pytest.approx(0.12)
    with pytest.raises(NoOverlap, match="no computation in common"):
        mean_gap([9.0], [0.7], COSTS, SCORES)


def test_a_curve_that_needs_half_the_computation_has_a_rate_of_minus_a_half():
    assert bjontegaard_rate(np.array(COSTS) / 2, SCORES, COSTS, SCORES) == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("costs", "scores", "why"),
    [
        (COSTS, np.array(SCORES) + 0.1, "share 28.6%"),
        (COSTS, (0.5, 0.6, 0.55, 0.7), "does not rise"),
        (COSTS[:1], SCORES[:1], "single point"),
    ],
)
def test_a_rate_that_would_mean_nothing_is_refused(costs, scores, why):
    with pytest.raises(NoOverlap, match=why):
        bjontegaard_rate(costs, scores, COSTS, SCORES)


# ------------------------------------------------------------------------------------------------------ sign flips


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_the_sign_flip_test_counts_all_patterns(values):
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=len(values))]
    assert sign_flip(values) == pytest.approx(np.mean([s >= abs(sum(values)) * (1 - 1e-12) for s in sums]), abs=1e-9)


def test_many_seeds_are_tested_by_drawn_patterns():
    assert sign_flip(np.ones(20)) < 0.001
    assert sign_flip([1, -1] * 10) == 1


# ---------------------------------------------------------------------------------------------------- comparisons


def test_a_clearly_better_method_is_called_better_and_the_other_worse():
    better, base = curve(0.05, noise=0.002, rng=np.random.default_rng(1)), curve(noise=0.002)
    found = compare(better, base)
    assert (found.verdict, found.resampled, found.seeds) == ("better", "seeds", list(range(6)))
    assert found.gap == pytest.approx(0.05, abs=0.004)
    assert found.low <= found.gap <= found.high and found.p == 0.03125
    assert compare(base, better).verdict == "worse"


def test_a_method_and_itself_are_not_distinguishable():
    base = curve(noise=0.01)
    found = compare(base, base)
    assert (found.gap, found.verdict, found.p) == (0, "not distinguishable", 1)
    assert found.rate == pytest.approx(0)


def test_below_six_seeds_there_is_no_test_and_no_verdict():
    found = compare(curve(0.1, seeds=5, noise=0.001), curve(seeds=5, noise=0.001))
    assert found.p is None and found.verdict == "not distinguishable"
    assert "too few seeds to tell: 5 of 6" in found.reason and "alone says better" in found.reason


def test_one_seed_without_outcomes_has_no_interval():
    found = compare(curve(0.1, seeds=1), curve(seeds=1))
    assert found.gap == pytest.approx(0.1) and found.low is None and found.resampled == ""
    assert "there is no interval" in found.reason


def test_images_are_resampled_for_both_methods_together():
    rng = np.random.default_rng(3)
    base = curve(seeds=2, images=True, rng=rng)
    found = compare(base, base)
    assert found.resampled == "images and seeds"
    assert (found.low, found.high) == (0, 0)  # pairing: whatever is drawn, both have it
    other = compare(curve(seeds=1, images=True, rng=rng), curve(seeds=1, images=True, rng=rng))
    assert other.resampled == "images" and other.low < other.gap < other.high


def test_the_interval_over_images_is_as_wide_as_the_binomial_one():
    rng = np.random.default_rng(4)
    a, b = ([Run("only", 0, (o := Hits(0.7, rng)).correct.mean(), 1.0, o, np.ones(1000))] for _ in range(2))
    found = compare(a, b)
    assert found.high - found.low == pytest.approx(2 * 1.96 * (2 * 0.7 * 0.3 / 1000) ** 0.5, rel=0.15)


def test_only_shared_seeds_and_complete_points_count():
    more = [*curve(0.05, seeds=4), Run("point 9", 0, 0.99, 16.0)]
    found = compare(more, curve(seeds=3))
    assert found.seeds == [0, 1, 2] and found.cost_high == 8.0
    assert found.gap == pytest.approx(0.05)
    with pytest.raises(NoOverlap, match="no seed was run for both"):
        compare([Run("p", 1, 0.5, 1.0)], [Run("p", 0, 0.5, 1.0)])


def test_curves_apart_have_no_gap_and_say_why():
    found = compare(curve(factor=100), curve())
    assert found.gap is None and "no computation in common" in found.reason


def test_the_rate_is_refused_below_three_quarters_of_overlap_and_the_gap_is_not():
    found = compare(curve(0.1), curve())
    assert found.gap == pytest.approx(0.1) and found.rate is None
    assert found.refused == ["no Bjøntegaard delta: the curves share 28.6% of their accuracies, less than 75%"]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held, times = 0, 60
    for trial in range(times):
        rng = np.random.default_rng(100 + trial)
        found = compare(curve(0.02, seeds=10, noise=0.01, rng=rng), curve(seeds=10, noise=0.01, rng=rng), 200)
        held += found.low <= 0.02 <= found.high
    assert held / times >= 0.8


def test_draws_are_the_same_every_time_and_sum_to_what_there_is():
    (images, seeds), again = resample(7, 3, 50), resample(7, 3, 50)
    assert (images.sum(1) == 7).all() and (seeds.sum(1) == 3).all() and (images == again[0]).all()


def test_an_interval_needs_a_value_in_nearly_every_draw():
    assert interval(np.array([np.nan] * 10 + [1.0] * 90)) == (None, None)
    assert interval(np.full(100, 2.0)) == (2.0, 2.0)


# ----------------------------------------------------------------------------------------- curves that are not whole


def test_a_seed_that_lacks_a_point_is_left_out_and_named_and_the_curves_stay_whole():
    ours, others = curve(seeds=6), curve(0.02, seeds=6)
    unfinished = [run for run in ours if (run.point, run.seed) not in {("point 1", 5), ("point 2", 5)}]
    found = compare(unfinished, others)
    assert found.seeds == [0, 1, 2, 3, 4] and found.gap == pytest.approx(-0.02)
    assert "seed 5 left out, some points of which are missing" in found.refused
    assert found.reason.startswith("too few seeds to tell: 5 of 6")


def test_a_missing_point_never_turns_a_verdict_round():
    """Without its middle, a curve that bends lies below itself."""
    better = [Run(f"point {n}", seed, score, cost, None, None) for seed in range(7)
              for n, (cost, score) in enumerate([(1.0, 0.30), (2.0, 0.64), (8.0, 0.68)])]  # fmt: skip
    worse = [Run(f"point {n}", seed, score, cost, None, None) for seed in range(7)
             for n, (cost, score) in enumerate([(1.0, 0.29), (2.0, 0.63), (8.0, 0.67)])]  # fmt: skip
    assert compare(better, worse).verdict == "better"
    for missing in range(7):
        assert compare([run for run in better if (run.point, run.seed) != ("point 1", missing)], worse).gap > 0


def test_a_point_that_few_seeds_have_is_left_out():
    ours = [*curve(seeds=6), Run("a search's", 0, 0.9, 3.0, None, None)]
    found = compare(ours, curve(0.02, seeds=6))
    assert found.seeds == [0, 1, 2, 3, 4, 5] and found.gap == pytest.approx(-0.02) and found.refused == []


def test_two_curves_without_a_whole_seed_are_not_compared():
    ours = [run for run in curve(seeds=2) if (run.point, run.seed) not in {("point 0", 0), ("point 1", 1)}]
    with pytest.raises(NoOverlap, match="run what is missing"):
        compare(ours, curve(seeds=2))
