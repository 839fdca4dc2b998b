"""Whether two orders of methods agree: Kendall's rank correlation, with an interval over methods and seeds.

Two sets of cells, such as a small scale and real images, order the same methods. Their seeds have nothing to do with
each other, so each side's are resampled alone. The methods are resampled for both together, because another choice of
methods would have given another number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.stats.comparison import RESAMPLES, interval

__all__ = ["METHODS_TO_TELL", "Agreement", "order_agreement", "rank_agreement", "taus"]

#: Methods below which there is no interval: with three, no order can be told from chance (least two-sided p is 1/3).
METHODS_TO_TELL = 4

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How far two orders agree.

    Attributes
    ----------
    value
        1 where they are the same, -1 where one is the other reversed, 0 where they have nothing to do with each other;
        NaN where a side has no order.
    low, high
        Its 95 % interval; None where there is too little to resample.
    methods
        How many methods, or pairs of them, it rests on.
    seeds
        How many seeds the side with fewer has.
    """

    value: float
    low: float | None
    high: float | None
    methods: int
    seeds: int


def taus(one: Floats, other: Floats) -> Floats:
    """Return Kendall's tau-b of many pairs of lists.

    Parameters
    ----------
    one, other
        ``(B, M)``: B lists of M values.

    Returns
    -------
    numpy.ndarray
        ``(B,)``; NaN where all values of a list are equal.
    """
    signs = [np.sign(values[:, :, None] - values[:, None, :]) for values in (one, other)]
    untied = [np.abs(sign).sum((1, 2)) for sign in signs]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (signs[0] * signs[1]).sum((1, 2)) / np.sqrt(untied[0] * untied[1])


def rank_agreement(one: Floats, other: Floats, resamples: int = RESAMPLES) -> Agreement:
    """Return Kendall's tau-b of two orders of the same methods.

    Parameters
    ----------
    one, other
        ``(M, S)`` and ``(M, T)``: a value for each method and seed, the higher the better.
    resamples
        Draws for the interval.
    """
    methods, seeds = len(one), min(one.shape[1], other.shape[1])
    value = float(taus(one.mean(1)[None], other.mean(1)[None])[0]) if methods > 1 else float("nan")
    if methods < METHODS_TO_TELL:
        return Agreement(value, None, None, methods, seeds)
    rng = np.random.default_rng(0)
    chosen = rng.integers(methods, size=(resamples, methods))
    drawn = [np.take_along_axis(_over_seeds(values, resamples, rng), chosen, 1) for values in (one, other)]
    return Agreement(value, *interval(taus(*drawn)), methods, seeds)


def order_agreement(pairs: Sequence[tuple[int, int]], values: Floats, resamples: int = RESAMPLES) -> Agreement:
    """Return how far values agree with an order of which some pairs are known.

    Parameters
    ----------
    pairs
        ``(better, worse)``: places of two methods in `values`.
    values
        ``(M, S)``: a value for each method and seed, the higher the better.
    resamples
        Draws for the interval, of pairs and seeds.

    Returns
    -------
    Agreement
        Pairs in the order stated minus pairs in the other, over all: Kendall's tau on the pairs that are known.
    """
    if not pairs:
        return Agreement(float("nan"), None, None, 0, 0)
    better, worse = (np.array(side) for side in zip(*pairs, strict=True))
    means = values.mean(1)
    value = float(np.sign(means[better] - means[worse]).mean())
    if len(pairs) < METHODS_TO_TELL:
        return Agreement(value, None, None, len(pairs), values.shape[1])
    rng = np.random.default_rng(0)
    drawn = _over_seeds(values, resamples, rng)
    signs = np.sign(drawn[:, better] - drawn[:, worse])
    chosen = rng.integers(len(pairs), size=signs.shape)
    bounds = interval(np.take_along_axis(signs, chosen, 1).mean(1))
    return Agreement(value, *bounds, len(pairs), values.shape[1])


def _over_seeds(values: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return means over resampled seeds, ``(count, M)``; every method gets the same seeds."""
    seeds = values.shape[1]
    repeats = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
    return repeats @ values.T / seeds
