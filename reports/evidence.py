"""How a claim is judged: from curves and intervals to one of four words, by rules that are stated beside each result.

- Of two methods, A is better where `benchmark.stats.compare` says so: an interval without zero, and six seeds.
- A number is below a limit where its whole interval is, and above it where its whole interval is. That takes three
  seeds.
- Two are similar where the whole interval of their difference lies within a margin, and not similar where it lies
  outside of it.

Whatever lies between is inconclusive. A claim of several parts is reproduced where all are, contradicted where one is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.stats import Measured, NoOverlap, Run, Statistic, compare, measure, read_costs, read_curves, verdict
from reports.comparison import find_line, runs_of
from reports.curves import Panel, Series

__all__ = [
    "APART",
    "CONTRADICTED",
    "FEW",
    "INCONCLUSIVE",
    "NOT_RUN",
    "REPRODUCED",
    "ROUNDS",
    "SEEDS",
    "STATUSES",
    "TRADED",
    "WIDE",
    "Finding",
    "above",
    "better",
    "combine",
    "cost_of_equal_score",
    "cost_ratio",
    "gap_at_share",
    "kept_open",
    "limited",
    "line_of",
    "low_end_gap",
    "measured",
    "missing",
    "score_gap",
    "signed",
    "similar",
]

REPRODUCED, CONTRADICTED, INCONCLUSIVE, NOT_RUN = STATUSES = (
    "reproduced", "contradicted", "inconclusive", "not run",
)  # fmt: skip
#: What may keep a finding from being settled: seeds; an interval narrow enough; points of both at one computation;
#: rows that are equal in one of accuracy and computation; rounds of a timing.
LACKS = FEW, WIDE, APART, TRADED, ROUNDS, RECIPE = ("seeds", "width", "overlap", "equality", "rounds", "recipe")
#: Seeds below which a number is not held against a limit.
SEEDS = 3


@dataclass(frozen=True)
class Finding:
    """What the records say about a claim, or a part of it.

    Attributes
    ----------
    status
        One of `STATUSES`.
    text
        The numbers that it rests on.
    seeds
        How many seeds they come from; the fewest of any part. 0 for what has none, such as timings.
    lacks
        What keeps it from being settled: of `LACKS`, or nothing.
    """

    status: str
    text: str
    seeds: int = 0
    lacks: frozenset[str] = frozenset()


def combine(findings: Sequence[Finding]) -> Finding:
    """Return the finding of a claim that says all of several things."""
    statuses = [finding.status for finding in findings]
    for status in (CONTRADICTED, NOT_RUN, INCONCLUSIVE):
        if status in statuses:
            break
    else:
        status = REPRODUCED
    there = [finding.seeds for finding in findings if finding.status != NOT_RUN]
    lacks = frozenset().union(*(finding.lacks for finding in findings if finding.status == INCONCLUSIVE))
    return Finding(status, "; ".join(finding.text for finding in findings), min(there, default=0), lacks)


def missing(what: str) -> Finding:
    """Return the finding where cells are not there."""
    return Finding(NOT_RUN, f"no finished cells of {what}")


def line_of(panel: Panel, method: str) -> Series | None:
    """Return a method's usual line with points, or its only one."""
    lines = find_line(panel, method)
    return lines[0] if lines else None


def better(panel: Panel, a: str, b: str) -> Finding:
    """Judge that method A is better than method B."""
    lines = [line_of(panel, name) for name in (a, b)]
    for name, line in zip((a, b), lines, strict=True):
        if line is None:
            return missing(name)
    return better_runs(panel, *((line.label, runs_of(panel, line)) for line in lines if line is not None))


def better_runs(panel: Panel, a: tuple[str, Sequence[Run]], b: tuple[str, Sequence[Run]]) -> Finding:
    """Judge that some cells, with their name, are better than others."""
    (name_a, runs_a), (name_b, runs_b) = a, b
    try:
        result = compare(runs_a, runs_b, rates=False)
    except NoOverlap as error:
        return Finding(INCONCLUSIVE, f"{name_a} and {name_b}: {error}", 0, frozenset({FEW}))
    status = {"better": REPRODUCED, "worse": CONTRADICTED}.get(result.verdict, INCONCLUSIVE)
    gap = "no gap" if result.gap is None else _points(result.gap, result.low, result.high, panel.metric.scale)
    lacks = APART if result.gap is None else FEW if result.p is None else WIDE
    text = f"{name_a} against {name_b}: {gap} ({result.reason})"
    return Finding(status, text, len(result.seeds), kept_open(status, lacks))


def kept_open(status: str, lacks: str) -> frozenset[str]:
    """Return what keeps a finding open, where it is."""
    return frozenset({lacks}) if status == INCONCLUSIVE else frozenset()


def limited(name: str, found: Measured, limit: float, scale: float = 100.0, unit: str = " points") -> Finding:
    """Judge that a number is at most a limit."""
    bound = f"{limit * scale:g}"
    words = (f"at most the claimed {bound}", f"more than the claimed {bound}", f"claimed at most {bound}")
    return _bounded(f"{name} {_interval(found, scale, unit)}", found, (-math.inf, limit), words)


def similar(name: str, found: Measured, margin: float, scale: float = 100.0, unit: str = " points") -> Finding:
    """Judge that a difference is within a margin on both sides."""
    bound = f"±{margin * scale:g}"
    words = (f"similar: within {bound}", f"not similar: beyond {bound}", f"similar would be within {bound}")
    return _bounded(f"{name} {_interval(found, scale, unit)}", found, (-margin, margin), words)


def _bounded(text: str, found: Measured, claimed: tuple[float, float], words: tuple[str, str, str]) -> Finding:
    """Judge that a number lies where it is claimed, with words for inside, outside, and where that is open."""
    inside, outside, still_open = words
    if len(found.seeds) < SEEDS or found.low is None or found.high is None:
        few = f"{text}, {still_open}; {_few(found)}"
        return Finding(INCONCLUSIVE, few, len(found.seeds), frozenset({FEW}))
    lowest, highest = claimed
    if lowest <= found.low and found.high <= highest:
        return Finding(REPRODUCED, f"{text}, {inside}", len(found.seeds))
    if found.low > highest or found.high < lowest:
        return Finding(CONTRADICTED, f"{text}, {outside}", len(found.seeds))
    return Finding(INCONCLUSIVE, f"{text}, {still_open}", len(found.seeds), frozenset({WIDE}))


def signed(name: str, found: Measured, scale: float = 1.0, unit: str = "") -> Finding:
    """Judge that a number is above zero."""
    text = f"{name} {_interval(found, scale, unit)}"
    if len(found.seeds) < SEEDS or found.low is None or found.high is None:
        return Finding(INCONCLUSIVE, f"{text}; {_few(found)}", len(found.seeds), frozenset({FEW}))
    status = REPRODUCED if found.low > 0 else CONTRADICTED if found.high < 0 else INCONCLUSIVE
    return Finding(status, text, len(found.seeds), kept_open(status, WIDE))


def above(name: str, found: Measured, scale: float = 100.0, unit: str = " points") -> Finding:
    """Judge that one of two methods is above the other in a number, by the rules for two methods."""
    p, word, reason = verdict(found)
    status = {"better": REPRODUCED, "worse": CONTRADICTED}.get(word, INCONCLUSIVE)
    text = f"{name} {_interval(found, scale, unit)} ({reason})"
    return Finding(status, text, len(found.seeds), kept_open(status, FEW if p is None else WIDE))


def measured(a: Sequence[Run], b: Sequence[Run], statistic: Statistic, judge: Callable[[Measured], Finding]) -> Finding:
    """Measure a number of two curves and judge it; inconclusive where the curves have no such number."""
    try:
        return judge(measure(a, b, statistic))
    except NoOverlap as error:
        return Finding(INCONCLUSIVE, str(error), 0, frozenset({APART}))


def gap_at_share(share: float) -> Statistic:
    """Return a statistic: accuracy of A at a share of B's computation, minus that of B, where B is one point."""

    def statistic(cost_a: np.ndarray, score_a: np.ndarray, cost_b: np.ndarray, score_b: np.ndarray) -> np.ndarray:
        return read_curves(cost_a, score_a, share * cost_b[0]) - score_b[0]

    return statistic


def low_end_gap(cost_a: np.ndarray, score_a: np.ndarray, cost_b: np.ndarray, score_b: np.ndarray) -> np.ndarray:
    """Return how much larger the gap of A over B is at the low end of the common range than at its high end."""
    low, high = np.maximum(cost_a.min(0), cost_b.min(0)), np.minimum(cost_a.max(0), cost_b.max(0))
    gaps = [read_curves(cost_a, score_a, at) - read_curves(cost_b, score_b, at) for at in (low, high)]
    return np.where(low < high, gaps[0] - gaps[1], np.nan)


def score_gap(cost_a: np.ndarray, score_a: np.ndarray, cost_b: np.ndarray, score_b: np.ndarray) -> np.ndarray:
    """Return accuracy of A minus that of B, where both are one point."""
    del cost_a, cost_b
    return score_a[0] - score_b[0]


def cost_ratio(cost_a: np.ndarray, score_a: np.ndarray, cost_b: np.ndarray, score_b: np.ndarray) -> np.ndarray:
    """Return how much more computation B takes than A, as a share, where both are one point."""
    del score_a, score_b
    return cost_b[0] / cost_a[0] - 1


def cost_of_equal_score(cost_a: np.ndarray, score_a: np.ndarray, cost_b: np.ndarray, score_b: np.ndarray) -> np.ndarray:
    """Return how much more computation B's curve takes than A to be as accurate, as a share, where A is one point."""
    return read_costs(cost_b, score_b, score_a[0]) / cost_a[0] - 1


def _interval(found: Measured, scale: float, unit: str) -> str:
    return _points(found.value, found.low, found.high, scale, unit)


def _points(value: float, low: float | None, high: float | None, scale: float = 100.0, unit: str = " points") -> str:
    bounds = ""
    if low is not None and high is not None:
        ends = sorted((low * scale, high * scale))  # an error's scale turns them round
        bounds = f" [{ends[0]:+.2f}, {ends[1]:+.2f}]"
    return f"{value * scale:+.2f}{bounds}{unit}"


def _few(found: Measured) -> str:
    seeds = len(found.seeds)
    return f"too few seeds to tell: {seeds} of {SEEDS}" if seeds < SEEDS else "no interval"
