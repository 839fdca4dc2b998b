"""Curves of accuracy over computation: means over seeds, Pareto fronts, gaps between two curves.

A curve is a handful of measured points. Between them it is a straight line over the logarithm of computation; beyond
them it is nothing. Intervals and verdicts are `benchmark.stats.comparison`'s.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmark.errors import SaibenchError

__all__ = ["MIN_OVERLAP", "NoOverlap", "bjontegaard_rate", "common_range", "mean_gap", "over_seeds", "pareto_front"]

#: Least share of the two curves' accuracies that both must cover for a Bjøntegaard delta.
MIN_OVERLAP = 0.75


class NoOverlap(SaibenchError):
    """Two curves share too little to be compared; the message says how much."""


def over_seeds(cells: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Average cells that differ in nothing but their seed.

    Parameters
    ----------
    cells
        One row a cell.
    by
        Columns that tell configurations apart; a missing value is a value of its own.
    values
        Columns to average; missing values do not count.

    Returns
    -------
    pandas.DataFrame
        One row a configuration, in order of first appearance: `by`, each value's mean under its own name, its
        sample standard deviation as ``<value>_spread`` (missing for one seed), and ``seeds``, the number of
        cells.
    """
    numbers = cells.assign(**{name: pd.to_numeric(cells[name], errors="coerce") for name in values})
    groups = numbers.groupby(list(by), sort=False, dropna=False)
    means = groups[list(values)].mean()
    spreads = groups[list(values)].std(ddof=1).add_suffix("_spread")
    return pd.concat([means, spreads, groups.size().rename("seeds")], axis=1).reset_index()


def pareto_front(cost: npt.ArrayLike, value: npt.ArrayLike, higher_is_better: bool = True) -> npt.NDArray[np.bool_]:
    """Tell which points no other point beats at once in cost and value.

    Parameters
    ----------
    cost, value
        ``(n,)`` each; the lower the cost the better.
    higher_is_better
        Direction of `value`.

    Returns
    -------
    numpy.ndarray
        ``(n,)``, bool. Of equal points all are on the front; a point with a missing number never is.
    """
    costs = np.asarray(cost, dtype=float)
    values = np.asarray(value, dtype=float) * (1 if higher_is_better else -1)
    if costs.shape != values.shape or costs.ndim != 1:
        raise ValueError(f"cost {costs.shape} and value {values.shape} must be vectors of one length")
    front = np.zeros(costs.shape, dtype=bool)
    best, best_cost = -np.inf, np.nan
    for index in np.lexsort((-values, costs)):
        if np.isnan(costs[index]) or np.isnan(values[index]):
            continue
        if values[index] > best or (values[index] == best and costs[index] == best_cost):
            front[index] = True
            best, best_cost = values[index], costs[index]
    return front


def common_range(cost_a: npt.ArrayLike, cost_b: npt.ArrayLike) -> tuple[float, float]:
    """Return the range of computation that two curves share, in the unit of the costs.

    Raises
    ------
    NoOverlap
        If they share none.
    """
    one, other = np.asarray(cost_a, dtype=float), np.asarray(cost_b, dtype=float)
    low, high = max(one.min(), other.min()), min(one.max(), other.max())
    if low > high:
        raise NoOverlap(
            f"no computation in common: {one.min():.4g} to {one.max():.4g} GMACs "
            f"against {other.min():.4g} to {other.max():.4g}"
        )
    return float(low), float(high)


def mean_gap(cost_a: npt.ArrayLike, value_a: npt.ArrayLike, cost_b: npt.ArrayLike, value_b: npt.ArrayLike) -> float:
    """Return how much higher curve A lies than curve B, on average over the common range of log-computation.

    Both curves are linear between their points. The area between them is exact: it is summed over all knots of both.
    A common range of one point, as where one curve is a single point, gives the difference there.

    Parameters
    ----------
    cost_a, cost_b
        ``(n,)`` and ``(m,)``, GMACs, positive, in any order; points of equal cost count as their mean.
    value_a, value_b
        Accuracies, as many.

    Raises
    ------
    NoOverlap
        If the curves share no computation.

    Examples
    --------
    >>> mean_gap([1, 2, 4], [0.5, 0.6, 0.7], [1, 4], [0.4, 0.6])
    0.1
    """
    low, high = common_range(cost_a, cost_b)
    x_a, y_a = _knots(cost_a, value_a)
    x_b, y_b = _knots(cost_b, value_b)
    start, end = np.log(low), np.log(high)
    inner = np.concatenate([x_a, x_b])
    x = np.unique(np.concatenate([[start, end], inner[(inner > start) & (inner < end)]]))
    difference = np.interp(x, x_a, y_a) - np.interp(x, x_b, y_b)
    if end - start < 1e-12:  # a single point; the width of a rounding error is no range
        return float(difference[0])
    return float(np.trapezoid(difference, x) / (end - start))


def _knots(cost: npt.ArrayLike, value: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return log-costs, ascending and distinct, and the mean value at each."""
    costs, place = np.unique(np.log(np.asarray(cost, dtype=float)), return_inverse=True)
    sums = np.bincount(place, np.asarray(value, dtype=float), len(costs))
    return costs, sums / np.bincount(place, minlength=len(costs))


def bjontegaard_rate(
    cost_a: npt.ArrayLike, value_a: npt.ArrayLike, cost_b: npt.ArrayLike, value_b: npt.ArrayLike
) -> float:
    """Return how much more computation A needs than B at equal accuracy, as a share: -0.2 is a fifth less.

    This is the Bjøntegaard delta rate of the package `bjontegaard`, with piecewise cubic interpolation (PCHIP) of
    log-computation over accuracy.

    Raises
    ------
    NoOverlap
        If a curve has fewer than two points, if its accuracy does not rise with its computation, or if the accuracies
        that both reach are less than `MIN_OVERLAP` of all that either reaches.
    """
    import bjontegaard  # here, because it imports pyplot, which takes a second

    x_a, y_a = _knots(cost_a, value_a)
    x_b, y_b = _knots(cost_b, value_b)
    for x, y in ((x_a, y_a), (x_b, y_b)):
        if len(x) < 2:
            raise NoOverlap("a curve is a single point")
        if not (np.diff(y) > 0).all():
            raise NoOverlap("accuracy does not rise with computation all along a curve")
    total = max(y_a[-1], y_b[-1]) - min(y_a[0], y_b[0])
    overlap = max(0.0, min(y_a[-1], y_b[-1]) - max(y_a[0], y_b[0])) / total
    if overlap < MIN_OVERLAP:
        raise NoOverlap(f"the curves share {overlap:.1%} of their accuracies, less than {MIN_OVERLAP:.0%}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the overlap, which is checked above
        percent = bjontegaard.bd_rate(
            np.exp(x_b), y_b, np.exp(x_a), y_a, method="pchip", require_matching_points=False, min_overlap=0
        )
    return float(percent) / 100
