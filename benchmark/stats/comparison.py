"""Two methods compared: over the seeds and images that both have, with an interval, a test and a verdict in words.

The estimate is the mean accuracy gap over the computation that both curves cover, first for each seed and then averaged
over seeds. Its interval resamples images and seeds together; both methods get the same draws, because both were run
with the same seeds on the same images. The sign-flip test looks at the seeds' gaps alone. It is exact, and below six
seeds it cannot reach 5 %: then the verdict says so, whatever the interval.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmark.stats.curves import NoOverlap, bjontegaard_rate, common_range, mean_gap
from benchmark.stats.outcomes import Outcomes

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "SEEDS_TO_TELL",
    "Comparison",
    "Run",
    "compare",
    "estimate",
    "interval",
    "resample",
    "sign_flip",
]

#: Seeds below which no two-sided sign-flip test reaches 5 %: with five, the least p is 2 / 2⁵ = 0.0625.
SEEDS_TO_TELL = 6
#: What an interval leaves out on both sides together, and the size of the test.
LEVEL = 0.05
RESAMPLES = 1000
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
        The seeds that both have.
    resampled
        What the interval covers: "images and seeds", "images", "seeds" or "".
    p
        Of the exact sign-flip test; None below `SEEDS_TO_TELL` seeds.
    verdict
        "better", "worse" or "not distinguishable": A, seen from B.
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
            verdict="not distinguishable",
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
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=count) if images else np.ones((count, 0))
    return drawn.astype(float), rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count).astype(float)


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


def compare(a: Sequence[Run], b: Sequence[Run], resamples: int = RESAMPLES) -> Comparison:
    """Compare two curves of one task, scale and data set.

    Parameters
    ----------
    a, b
        The cells of each curve, all seeds.
    resamples
        Draws for the intervals.

    Raises
    ------
    NoOverlap
        If no seed was run for both.
    """
    seeds, points_a, points_b = _pair(a, b)
    try:
        low, high = common_range([run.cost for run in points_a], [run.cost for run in points_b])
    except NoOverlap as error:
        return Comparison.refuse(seeds, str(error))
    by_images = all(run.outcomes is not None and run.costs is not None for run in (*points_a, *points_b))
    images = len(points_a[0].costs) if by_images and points_a[0].costs is not None else 0
    weights, draws = resample(images, len(seeds), resamples)
    side_a, side_b = (_Side.of(points, seeds, weights if by_images else None) for points in (points_a, points_b))
    gaps = _gaps(side_a, side_b, 0)
    if np.isnan(gaps).any():
        return Comparison.refuse(seeds, f"with seed {seeds[int(np.isnan(gaps).argmax())]}, no computation in common")
    refused: list[str] = []
    rate: float | None = None
    try:
        rate = bjontegaard_rate(*side_a.mean(0, np.ones(len(seeds))), *side_b.mean(0, np.ones(len(seeds))))
    except NoOverlap as error:
        refused.append(f"no Bjøntegaard delta: {error}")
    resampled = " and ".join(filter(None, ["images" if by_images else "", "seeds" if len(seeds) > 1 else ""]))
    bounds: tuple[float | None, float | None] = (None, None)
    rate_bounds = bounds
    if resampled:
        bounds = interval(_resampled_gaps(side_a, side_b, draws, by_images))
        if rate is not None:
            rate_bounds = interval(_resampled_rates(side_a, side_b, draws, by_images))
    p = sign_flip(gaps) if len(seeds) >= SEEDS_TO_TELL else None
    verdict, reason = _judge(bounds, p, len(seeds), resampled)
    return Comparison(
        float(gaps.mean()), *bounds, rate, *rate_bounds, refused, low, high, seeds, resampled, p, verdict, reason
    )


def _pair(a: Sequence[Run], b: Sequence[Run]) -> tuple[list[int], list[Run], list[Run]]:
    """Return the common seeds, and of both curves the runs of the points that have them all.

    Points that lack a common seed are left out; if that leaves no point, seeds that some point lacks are.
    """
    common = {run.seed for run in a} & {run.seed for run in b}
    kept = [_complete(runs, common) for runs in (a, b)]
    if common and not all(kept):
        common = set.intersection(*(_seeds_of_all_points(runs) for runs in (a, b)))
        kept = [_complete(runs, common) for runs in (a, b)]
    if not common or not all(kept):
        raise NoOverlap("no seed was run for both; give both the same --seeds")
    return sorted(common), kept[0], kept[1]


def _complete(runs: Sequence[Run], seeds: set[int]) -> list[Run]:
    there = {(run.point, run.seed) for run in runs}
    return [run for run in runs if run.seed in seeds and all((run.point, seed) in there for seed in seeds)]


def _seeds_of_all_points(runs: Sequence[Run]) -> set[int]:
    points = {run.point for run in runs}
    return set.intersection(*({run.seed for run in runs if run.point == point} for point in points))


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
            costs[place], scores[place] = run.cost, run.score
            if weights is not None and run.outcomes is not None and run.costs is not None:
                costs[place][1:] = weights @ run.costs / weights.sum(1)
                scores[place][1:] = run.outcomes.scores(weights)
        return cls(costs, scores)

    def mean(self, draw: int, repeats: Floats) -> tuple[Floats, Floats]:
        """Return each point's cost and score in a draw, averaged over seeds that count so many times."""
        shares = repeats / repeats.sum()
        return self.costs[:, :, draw].dot(shares), self.scores[:, :, draw].dot(shares)


def _gaps(a: _Side, b: _Side, draw: int) -> Floats:
    """Return each seed's mean gap in a draw; NaN where its own curves share no computation."""
    gaps = np.full(a.costs.shape[1], np.nan)
    for seed in range(len(gaps)):
        sides = [values[:, seed, draw] for side in (a, b) for values in (side.costs, side.scores)]
        with contextlib.suppress(NoOverlap):
            gaps[seed] = mean_gap(*sides)
    return gaps


def _resampled_gaps(a: _Side, b: _Side, draws: Floats, by_images: bool) -> Floats:
    """Return the gap in each draw of seeds, and of images where there are any."""
    measured = range(1, 1 + len(draws)) if by_images else range(1)
    by_seed = np.stack([_gaps(a, b, draw) for draw in measured])
    return np.where(draws > 0, draws * by_seed, 0).sum(1) / draws.sum(1)


def _resampled_rates(a: _Side, b: _Side, draws: Floats, by_images: bool) -> Floats:
    """Return the Bjøntegaard delta rate in each draw; NaN where it is refused."""
    rates = np.full(len(draws), np.nan)
    for index, repeats in enumerate(draws):
        draw = 1 + index if by_images else 0
        with contextlib.suppress(NoOverlap):
            rates[index] = bjontegaard_rate(*a.mean(draw, repeats), *b.mean(draw, repeats))
    return rates


def _judge(bounds: tuple[float | None, float | None], p: float | None, seeds: int, resampled: str) -> tuple[str, str]:
    """Return the verdict and what it rests on."""
    low, high = bounds
    side = ""
    if low is not None and high is not None:
        side = "better" if low > 0 else "worse" if high < 0 else ""
    says = f"the interval over {resampled} " + (f"alone says {side}" if side else "holds zero")
    if not resampled or low is None:
        says = "there is no interval"
    if p is None:
        return "not distinguishable", f"too few seeds to tell: {seeds} of {SEEDS_TO_TELL}; {says}"
    if side and p <= LEVEL:
        return side, f"the interval over {resampled} leaves out zero, sign-flip p = {p:.3g}"
    return "not distinguishable", f"{says}, sign-flip p = {p:.3g}"
