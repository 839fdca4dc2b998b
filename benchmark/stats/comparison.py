"""Two methods compared: over the seeds and images that both have, with an interval, a test and a verdict in words.

The estimate is the mean accuracy gap over the computation that both curves cover, first for each seed and then averaged
over seeds. Its interval resamples images and seeds together; both methods get the same draws, because both were run
with the same seeds on the same images. The sign-flip test looks at the seeds' gaps alone. It is exact, and below six
seeds it cannot reach 5 %: then the verdict says so, whatever the interval.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmark.stats.curves import NoOverlap, bjontegaard_rate, common_range, mean_gaps
from benchmark.stats.outcomes import Outcomes

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "SEEDS_TO_TELL",
    "Comparison",
    "Measured",
    "Run",
    "Statistic",
    "compare",
    "estimate",
    "interval",
    "measure",
    "over_seeds_alone",
    "resample",
    "sign_flip",
    "verdict",
]

#: Seeds below which no two-sided sign-flip test reaches 5 %: with five, the least p is 2 / 2⁵ = 0.0625.
SEEDS_TO_TELL = 6
#: What an interval leaves out on both sides together, and the size of the test.
LEVEL = 0.05
RESAMPLES = 1000
#: Of these, how many have a Bjøntegaard delta computed: each takes the package most of a millisecond.
RATE_RESAMPLES = 200
_EXACT_UP_TO = 16  # seeds whose 2ⁿ signs are all tried

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One trained and evaluated cell of a curve.

    Attributes
    ----------
    point
        Which point of the curve: equal for cells that differ in their seed alone.
    seed
        Seed of everything random.
    score, cost
        The main metric, as a share, and mean GMACs an image.
    outcomes
        Outcomes of single images; None where the record keeps none.
    costs
        ``(N,)``: GMACs of each image, in the order of `outcomes`.
    """

    point: str
    seed: int
    score: float
    cost: float
    outcomes: Outcomes | None = field(default=None, repr=False)
    costs: Floats | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Comparison:
    """Method A against method B.

    Attributes
    ----------
    gap
        Mean accuracy of A minus that of B over the common range of log-computation, as a share; None without one.
    low, high
        Its 95 % interval; None where there is nothing to resample.
    rate
        Bjøntegaard delta rate: computation of A over that of B at equal accuracy, minus 1; None where refused.
    rate_low, rate_high
        Its 95 % interval; None where a resample in twenty or more has no rate.
    refused
        Why there is no gap or no rate.
    cost_low, cost_high
        The common range, GMACs; None without one.
    seeds
        The seeds of which both have all points.
    resampled
        What the interval covers: "images and seeds", "images", "seeds" or "".
    p
        Of the exact sign-flip test; None below `SEEDS_TO_TELL` seeds.
    verdict
        "better", "worse" or "not distinguishable": A, seen from B; "not comparable" where there is no gap.
    reason
        What the verdict rests on, in words.
    """

    gap: float | None
    low: float | None
    high: float | None
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    refused: Sequence[str]
    cost_low: float | None
    cost_high: float | None
    seeds: Sequence[int]
    resampled: str
    p: float | None
    verdict: str
    reason: str

    @classmethod
    def refuse(cls, seeds: Sequence[int], reason: str) -> Comparison:
        """Return the comparison of curves that have no gap."""
        missing = ("gap", "low", "high", "rate", "rate_low", "rate_high", "cost_low", "cost_high", "p")
        return cls(
            **dict.fromkeys(missing),
            refused=[reason],
            seeds=seeds,
            resampled="",
            verdict="not comparable",
            reason=reason,
        )


def sign_flip(differences: npt.ArrayLike) -> float:
    """Return the two-sided p of an exact sign-flip test of paired differences.

    If neither side is better, each difference could as well have the other sign. p is the share of all sign patterns
    whose sum is at least as far from zero. For more than 16 differences, patterns are drawn instead, 65536 of them.

    Examples
    --------
    >>> sign_flip([1, 1, 1, 1, 1, 1])
    0.03125
    """
    values = np.asarray(differences, dtype=float)
    observed = abs(values.sum())
    if len(values) <= _EXACT_UP_TO:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))))
        return float(np.mean(np.abs(signs @ values) >= observed * (1 - 1e-12)))
    signs = np.random.default_rng(0).choice((1, -1), size=(1 << _EXACT_UP_TO, len(values)))
    extreme = int(np.sum(np.abs(signs @ values) >= observed * (1 - 1e-12)))
    return (1 + extreme) / (1 + len(signs))  # the observed pattern is one of them


def resample(images: int, seeds: int, count: int = RESAMPLES, seed: int = 0) -> tuple[Floats, Floats]:
    """Draw images and seeds with replacement.

    Returns
    -------
    images, seeds : numpy.ndarray
        ``(count, images)`` and ``(count, seeds)``: how often each is drawn; rows sum to the number there are.
    """
    rng = np.random.default_rng(seed)
    repeats = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count).astype(float)
    return _images(images, count, seed), repeats


@functools.cache
def _images(images: int, count: int, seed: int) -> Floats:
    """Draw images: one array for all comparisons on as many images, so that cells remember their scores under it."""
    rng = np.random.default_rng([seed, 1])
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=count) if images else np.ones((count, 0))
    return drawn.astype(float)


def interval(values: Floats) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval of resampled values; None where one in twenty or more has no value."""
    there = values[~np.isnan(values)]
    if len(there) <= (1 - LEVEL) * len(values):
        return None, None
    low, high = np.quantile(there, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def estimate(
    runs: Sequence[Run], value: str = "score", resamples: int = RESAMPLES
) -> tuple[float, float | None, float | None]:
    """Return the mean over seeds of one point's cells, and its interval over images and seeds.

    Parameters
    ----------
    runs
        The cells of one point, all seeds.
    value
        "score" or "cost".

    Returns
    -------
    mean, low, high : float
        The bounds are None where there is nothing to resample: one seed, and no outcomes of single images.
    """
    seeds = [run.seed for run in runs]
    by_images = all(run.outcomes is not None and run.costs is not None for run in runs)
    images = len(runs[0].costs) if by_images and runs[0].costs is not None else 0
    weights, draws = resample(images, len(seeds), resamples)
    side = _Side.of([dataclasses.replace(run, point="") for run in runs], seeds, weights if by_images else None)
    values = (side.scores if value == "score" else side.costs)[0]
    mean = float(values[:, 0].mean())
    if not by_images and len(seeds) < 2:
        return mean, None, None
    drawn = values[:, 1:].T if by_images else values[:, 0][None]
    return mean, *interval((draws * drawn).sum(1) / draws.sum(1))


def compare(a: Sequence[Run], b: Sequence[Run], resamples: int = RESAMPLES, rates: bool = True) -> Comparison:
    """Compare two curves of one task, scale and data set.

    Parameters
    ----------
    a, b
        The cells of each curve, all seeds.
    resamples
        Draws for the intervals.
    rates
        Whether to compute the Bjøntegaard delta, too; it takes much longer than the rest.

    Raises
    ------
    NoOverlap
        If no seed was run for both.
    """
    pair = _Pair.of(a, b, resamples)
    try:
        low, high = common_range(pair.a.costs[:, :, 0].ravel(), pair.b.costs[:, :, 0].ravel())
        gap = _measure(pair, mean_gaps)
    except NoOverlap as error:
        return Comparison.refuse(pair.seeds, str(error))
    refused = _left_out(a, b, pair.seeds)
    rate, rate_bounds = _rate(pair, refused) if rates else (None, (None, None))
    p, word, reason = verdict(gap)
    return Comparison(
        gap.value, gap.low, gap.high, rate, *rate_bounds, refused, low, high, gap.seeds, gap.resampled, p, word, reason
    )


def _rate(pair: _Pair, refused: list[str]) -> tuple[float | None, tuple[float | None, float | None]]:
    """Return the Bjøntegaard delta rate of the means over seeds and its interval, or add why there is none."""
    once = np.ones(len(pair.seeds))
    try:
        rate = bjontegaard_rate(*pair.a.mean(0, once), *pair.b.mean(0, once))
    except NoOverlap as error:
        refused.append(f"no Bjøntegaard delta: {error}")
        return None, (None, None)
    return rate, interval(_resampled_rates(pair)) if pair.resampled else (None, None)


@dataclass(frozen=True)
class Measured:
    """One number that tells two curves apart.

    Attributes
    ----------
    value
        Its mean over seeds.
    low, high
        Its 95 % interval; None where there is nothing to resample.
    by_seed
        Its value for each seed.
    seeds
        The seeds that both curves have.
    resampled
        What the interval covers: "images and seeds", "images", "seeds" or "".
    """

    value: float
    low: float | None
    high: float | None
    by_seed: Sequence[float]
    seeds: Sequence[int]
    resampled: str


#: From costs and scores of curve A, ``(n, B)`` each, and those of curve B, ``(m, B)``, to ``(B,)`` numbers: B times the
#: same two curves, resampled. NaN where two of them have no such number.
Statistic = Callable[[Floats, Floats, Floats, Floats], Floats]


def measure(a: Sequence[Run], b: Sequence[Run], statistic: Statistic, resamples: int = RESAMPLES) -> Measured:
    """Compute a number from two curves for each seed, and its interval over images and seeds.

    Raises
    ------
    NoOverlap
        If no seed was run for both, or a seed's curves have no such number.
    """
    return _measure(_Pair.of(a, b, resamples), statistic)


def over_seeds_alone(values: Sequence[float]) -> Measured:
    """Return numbers that there is one of for each seed, with the interval of their mean; NaN is left out."""
    there = np.array([value for value in values if not np.isnan(value)])
    if not len(there):
        return Measured(float("nan"), None, None, [], [], "")
    _, repeats = resample(0, len(there))
    low, high = interval(repeats @ there / len(there)) if len(there) > 1 else (None, None)
    return Measured(float(there.mean()), low, high, there.tolist(), list(range(len(there))), "seeds")


def _measure(pair: _Pair, statistic: Statistic) -> Measured:
    sides = [table for side in (pair.a, pair.b) for table in (side.costs, side.scores)]
    draws = sides[0].shape[2]
    flat = statistic(*(table.reshape(len(table), -1) for table in sides))
    values = np.asarray(flat, dtype=float).reshape(len(pair.seeds), draws)  # as measured, then resampled
    missing = np.isnan(values[:, 0])
    if missing.any():
        ranges = (f"{cost[:, missing, 0].min():.4g} to {cost[:, missing, 0].max():.4g}" for cost in sides[::2])
        raise NoOverlap(
            f"with seed {pair.seeds[int(missing.argmax())]}, curves over {' and over '.join(ranges)} GMACs do not meet"
        )
    bounds: tuple[float | None, float | None] = (None, None)
    if pair.resampled:
        drawn = values[:, pair.drawn.start :].T if len(pair.drawn) > 1 else values[:, :1].T
        bounds = interval(np.where(pair.repeats > 0, pair.repeats * drawn, 0).sum(1) / pair.repeats.sum(1))
    measured = values[:, 0]
    return Measured(float(measured.mean()), *bounds, measured.tolist(), pair.seeds, pair.resampled)


def _resampled_rates(pair: _Pair) -> Floats:
    """Return the Bjøntegaard delta rate in some of the draws; NaN where it is refused."""
    count = min(len(pair.repeats), RATE_RESAMPLES)
    rates = np.full(count, np.nan)
    draws = list(pair.drawn)[:count] if len(pair.drawn) > 1 else [0] * count
    for index, (draw, repeats) in enumerate(zip(draws, pair.repeats[:count], strict=True)):
        with contextlib.suppress(NoOverlap):
            rates[index] = bjontegaard_rate(*pair.a.mean(draw, repeats), *pair.b.mean(draw, repeats))
    return rates


@dataclass(frozen=True)
class _Pair:
    """Two curves over their common seeds, and the draws that both get.

    Attributes
    ----------
    drawn
        Which of the sides' draws are resampled images: all but the first, or the first where images are not.
    repeats
        ``(draws, seeds)``: how often each seed counts.
    """

    seeds: list[int]
    a: _Side
    b: _Side
    drawn: range
    repeats: Floats
    resampled: str

    @classmethod
    def of(cls, a: Sequence[Run], b: Sequence[Run], resamples: int) -> _Pair:
        seeds, points_a, points_b = _pair(a, b)
        by_images = all(run.outcomes is not None and run.costs is not None for run in (*points_a, *points_b))
        images = len(points_a[0].costs) if by_images and points_a[0].costs is not None else 0
        weights, repeats = resample(images, len(seeds), resamples)
        one, other = (_Side.of(points, seeds, weights if by_images else None) for points in (points_a, points_b))
        resampled = " and ".join(filter(None, ["images" if by_images else "", "seeds" if len(seeds) > 1 else ""]))
        return cls(seeds, one, other, range(1, 1 + resamples) if by_images else range(1), repeats, resampled)


def _pair(a: Sequence[Run], b: Sequence[Run]) -> tuple[list[int], list[Run], list[Run]]:
    """Return the common seeds whose curves are whole, and the runs of both curves at the same points for each of them.

    A point that half of the common seeds have belongs to its curve, and a seed that lacks it is left out: without a
    point in its middle a curve is another one, and one missing cell could turn a verdict round. Points that fewer have,
    such as a search's, are left out.
    """
    common = _common(a, b)
    if not common:
        raise NoOverlap("no seed was run for both; give both the same --seeds")
    kept = [_at_points_of_most(runs, common) for runs in (a, b)]
    seeds = set.intersection(*(_seeds_of_all_points(runs) for runs in kept))
    if not seeds:
        raise NoOverlap("no seed was run at all points of both; run what is missing")
    one, other = ([run for run in runs if run.seed in seeds] for runs in kept)
    return sorted(seeds), one, other


def _common(a: Sequence[Run], b: Sequence[Run]) -> set[int]:
    return {run.seed for run in a} & {run.seed for run in b}


def _at_points_of_most(runs: Sequence[Run], seeds: set[int]) -> list[Run]:
    """Return these seeds' runs at points that half of them have or, where no point has so many, at those of most."""
    there = [run for run in runs if run.seed in seeds]
    having = Counter(point for point, _ in {(run.point, run.seed) for run in there})
    least = min(math.ceil(len(seeds) / 2), max(having.values()))
    return [run for run in there if having[run.point] >= least]


def _seeds_of_all_points(runs: Sequence[Run]) -> set[int]:
    points = {run.point for run in runs}
    return set.intersection(*({run.seed for run in runs if run.point == point} for point in points))


def _left_out(a: Sequence[Run], b: Sequence[Run], seeds: Sequence[int]) -> list[str]:
    """Say which common seeds a comparison leaves out, in one line or none."""
    out = sorted(_common(a, b) - set(seeds))
    if not out:
        return []
    return [f"seed{'s' if len(out) > 1 else ''} {', '.join(map(str, out))} left out, some points of which are missing"]


@dataclass(frozen=True)
class _Side:
    """A curve as measured and as resampled: costs and scores ``(points, seeds, 1 + draws)``, as measured first."""

    costs: Floats
    scores: Floats

    @classmethod
    def of(cls, runs: Sequence[Run], seeds: Sequence[int], weights: Floats | None) -> _Side:
        points = list(dict.fromkeys(run.point for run in runs))
        shape = (len(points), len(seeds), 1 + (0 if weights is None else len(weights)))
        costs, scores = np.empty(shape), np.empty(shape)
        for run in runs:
            place = points.index(run.point), seeds.index(run.seed)
            costs[place][0], scores[place][0] = run.cost, run.score
            if weights is not None and run.outcomes is not None and run.costs is not None:
                costs[place][1:] = run.outcomes.remembered_mean(run.costs, weights)
                scores[place][1:] = run.outcomes.remembered(weights)
        return cls(costs, scores)

    def mean(self, draw: int, repeats: Floats) -> tuple[Floats, Floats]:
        """Return each point's cost and score in a draw, averaged over seeds that count so many times."""
        shares = repeats / repeats.sum()
        return self.costs[:, :, draw].dot(shares), self.scores[:, :, draw].dot(shares)


def verdict(found: Measured) -> tuple[float | None, str, str]:
    """Judge whether a difference of two curves is above or below zero.

    Returns
    -------
    p, verdict, reason
        p of the exact sign-flip test, None below `SEEDS_TO_TELL` seeds; "better", "worse" or "not distinguishable"; and
        what that rests on, in words.
    """
    seeds, resampled = len(found.seeds), found.resampled
    p = sign_flip(found.by_seed) if seeds >= SEEDS_TO_TELL else None
    side = ""
    if found.low is not None and found.high is not None:
        side = "better" if found.low > 0 else "worse" if found.high < 0 else ""
    says = f"interval over {resampled} " + (f"alone says {side}" if side else "with zero")
    if not resampled or found.low is None:
        says = "there is no interval"
    if p is None:
        return p, "not distinguishable", f"too few seeds to tell: {seeds} of {SEEDS_TO_TELL}; {says}"
    if side and p <= LEVEL:
        return p, side, f"interval over {resampled} without zero, sign-flip p = {p:.3g}"
    return p, "not distinguishable", f"{says}, sign-flip p = {p:.3g}"
