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

__all__ = [
    "MIN_OVERLAP",
    "NoOverlap",
    "bjontegaard_rate",
    "common_range",
    "mean_gap",
    "mean_gaps",
    "over_seeds",
    "pareto_front",
    "read_costs",
    "read_curves",
]

Floats = npt.NDArray[np.float64]

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
    common_range(cost_a, cost_b)
    columns = (np.asarray(values, dtype=float)[:, None] for values in (cost_a, value_a, cost_b, value_b))
    return float(mean_gaps(*columns)[0])


def mean_gaps(cost_a: Floats, value_a: Floats, cost_b: Floats, value_b: Floats) -> Floats:
    """Return `mean_gap` of many pairs of curves at once, such as resamples of one pair.

    Parameters
    ----------
    cost_a, value_a, cost_b, value_b
        ``(n, B)`` twice and ``(m, B)`` twice: B pairs of curves.

    Returns
    -------
    numpy.ndarray
        ``(B,)``; NaN where two curves share no computation.
    """
    (x_a, y_a), (x_b, y_b) = _knots(cost_a, value_a), _knots(cost_b, value_b)
    start, end = np.maximum(x_a[0], x_b[0]), np.minimum(x_a[-1], x_b[-1])
    x = np.sort(np.clip(np.concatenate([x_a, x_b]), start, np.maximum(start, end)), axis=0)  # both ends are knots
    difference = _read(x_a, y_a, x) - _read(x_b, y_b, x)
    width = end - start
    with np.errstate(invalid="ignore", divide="ignore"):
        gaps = np.trapezoid(difference, x, axis=0) / width
    gaps = np.where(width < 1e-12, difference[0], gaps)  # a single point; the width of a rounding error is no range
    return np.where(width < 0, np.nan, gaps)


def read_curves(cost: Floats, value: Floats, at: Floats) -> Floats:
    """Return the values of many curves at a computation each, linear over its logarithm.

    Parameters
    ----------
    cost, value
        ``(n, B)``: B curves.
    at
        ``(B,)``: where to read each.

    Returns
    -------
    numpy.ndarray
        ``(B,)``; NaN beyond a curve's points.
    """
    x, y = _knots(cost, value)
    inside = (cost.min(0) * (1 - 1e-9) <= at) & (at <= cost.max(0) * (1 + 1e-9))
    return np.where(inside, _read(x, y, np.log(at)[None])[0], np.nan)


def read_costs(cost: Floats, value: Floats, at: Floats) -> Floats:
    """Return the computation at which many curves reach a value each; its logarithm is linear between points.

    Parameters
    ----------
    cost, value
        ``(n, B)``: B curves.
    at
        ``(B,)``: the value that each is to reach.

    Returns
    -------
    numpy.ndarray
        ``(B,)``; NaN beyond a curve's values.
    """
    x, y = _sorted(value, np.log(cost))
    inside = (value.min(0) <= at) & (at <= value.max(0))
    return np.where(inside, np.exp(_read(x, y, at[None])[0]), np.nan)


def _knots(cost: Floats, value: Floats) -> tuple[Floats, Floats]:
    """Return log-costs, ascending, and the value at each, ``(n, B)``: of points of equal cost, their mean."""
    return _sorted(np.log(cost), value)


def _sorted(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return x, ascending, and y at each, ``(n, B)``: of points of equal x, their mean."""
    order = np.argsort(x, axis=0, kind="stable")
    x, y = (np.take_along_axis(table, order, 0) for table in (x, y))
    same = x[:, None] == x[None]
    return x, np.where(same, y[None], 0).sum(1) / same.sum(1)


def _read(x: Floats, y: Floats, at: Floats) -> Floats:
    """Return curves' values at ``(k, B)`` places: straight between knots, level beyond the ends."""
    if len(x) == 1:
        return np.broadcast_to(y, at.shape)
    right = np.clip((x[:, None] <= at).sum(0), 1, len(x) - 1)
    (x_0, x_1), (y_0, y_1) = ((np.take_along_axis(t, right - 1, 0), np.take_along_axis(t, right, 0)) for t in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(x_1 > x_0, (at - x_0) / (x_1 - x_0), 0)
    return y_0 + np.clip(share, 0, 1) * (y_1 - y_0)


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

    (x_a, y_a), (x_b, y_b) = _distinct(cost_a, value_a), _distinct(cost_b, value_b)
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


def _distinct(cost: npt.ArrayLike, value: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return one curve's log-costs, ascending and distinct, and the mean value at each."""
    x, y = _knots(*(np.asarray(values, dtype=float)[:, None] for values in (cost, value)))
    _, first = np.unique(x[:, 0], return_index=True)
    return x[first, 0], y[first, 0]
