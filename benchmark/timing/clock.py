"""The clock: paired rounds.

In each round all variants run one after the other, so that a machine that other work slows down slows both sides. A
row has the median of each side over its own rounds, and a ratio is one of two medians that stand in the row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binom

from benchmark.engines import Result
from benchmark.timing.energy import Meter

Progress = Callable[[int, int, str], None]

PERCENTILES = {"seconds_p10": 10, "seconds_p90": 90}
"""Fields of a row beside the median, and the percentiles over its rounds that they hold."""

BETWEEN = "between"
"""Where a run's time goes that no layer of the engine has: between the kernels."""


@dataclass
class Variant:
    """Something that is timed once a round.

    Attributes
    ----------
    name, call
        What it is called in a progress bar, and what is timed.
    seconds
        Of each timed round.
    parts
        Of each timed round of an engine's: seconds by kind of layer, and `BETWEEN` them; together the round's.
    joules
        Of each timed round, where the machine exposes its energy.
    result
        Of the last round.
    """

    name: str
    call: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    result: Any = None


class Steps:
    """Counts steps for a progress bar."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.done, self.progress = total, 0, progress

    def next(self, what: str) -> None:
        """Report the next step, and count it."""
        if self.progress is not None:
            self.progress(self.done, self.total, what)
        self.done += 1


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_rounds(variants: list[Variant], rounds: int, steps: Steps, what: str) -> None:
    """Time all variants once a round, after a round that is not timed."""
    meter = Meter()
    for number in range(rounds + 1):
        for variant in variants:
            steps.next(f"{variant.name}, {what}, round {number} of {rounds}")
            energy = meter.read()
            start = time.perf_counter()
            variant.result = variant.call()
            seconds = time.perf_counter() - start
            joules = meter.joules(energy, meter.read())
            if number == 0 or variant.result is None:
                continue  # warm-up: buffers grow and pages are touched for the first time
            variant.seconds.append(seconds)
            if joules is not None:
                variant.joules.append(joules)
            if isinstance(variant.result, Result):
                variant.parts.append(_by_kind(variant.result, seconds))


def _by_kind(result: Result, whole: float) -> dict[str, float]:
    """Sum seconds over the blocks of a stage by layer, ``layer3.conv2`` and so on, and name the rest."""
    seconds: dict[str, float] = {}
    for layer, row in result.tally.items():
        parts = layer.split(".")
        kind = f"{parts[0]}.{parts[2]}" if layer.startswith("layer") and len(parts) > 2 else parts[0]
        seconds[kind] = seconds.get(kind, 0.0) + row.seconds
    return {**seconds, BETWEEN: whole - sum(seconds.values())}


def middle_parts(variant: Variant) -> dict[str, float]:
    """Return the seconds by kind of layer of the round whose time is the median; the mean of the two in the middle.

    So the parts add up to the row's time, which the medians of each kind over all rounds do not.
    """
    order = np.argsort(variant.seconds)
    middle = order[(len(order) - 1) // 2 : len(order) // 2 + 1]
    kinds = dict.fromkeys(kind for parts in variant.parts for kind in parts)
    return {kind: float(np.mean([variant.parts[number].get(kind, 0.0) for number in middle])) for kind in kinds}


def median_interval(values: Any) -> tuple[float, float]:
    """Return the 95 % interval of a median: two order statistics; the range of five values and fewer.

    How many values lie below the median is binomial, whatever their distribution.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    out = max(int(binom.ppf(0.025, len(ordered), 0.5)) - 1, 0)
    return float(ordered[out]), float(ordered[-1 - out])


def statistics(variant: Variant) -> dict[str, Any]:
    """Return a row's times over its rounds: median, least, percentiles, quartiles' distance; energy; and how many."""
    values = np.asarray(variant.seconds, dtype=float)
    low, high = np.percentile(values, [25, 75])
    return {
        "seconds": float(np.median(values)),
        "seconds_min": float(values.min()),
        "seconds_iqr": float(high - low),
        **{name: float(np.percentile(values, share)) for name, share in PERCENTILES.items()},
        "rounds": len(values),
        "disagreement": disagreement(values),
        "joules": float(np.mean(variant.joules)) if variant.joules else None,
    }


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of two medians of the same rounds, and an interval of 95 %.

    The interval is that of the median of the ratios within a round. It is widened to the ratio of the medians, which
    may lie outside where the machine's speed drifts.
    """
    value = float(np.median(slow) / np.median(fast))
    low, high = median_interval(np.asarray(slow) / np.asarray(fast))
    return value, min(low, value), max(high, value)


def disagreement(*series: Any) -> float:
    """Return how far rounds differ: from the tenth to the ninetieth percentile, over the median; the worst of several.

    Above `UNSTEADY`, the numbers say more about the machine's other work than about what was timed.
    """
    spreads = [np.percentile(values, [10, 50, 90]) for values in series]
    return max(float((high - low) / middle) for low, middle, high in spreads)


UNSTEADY = 0.5
"""`disagreement` from which on the command says so."""

STATISTICS = tuple(statistics(Variant("", lambda: None, [1.0])))
"""The fields of `statistics`, which are None in the row of what did not run."""
