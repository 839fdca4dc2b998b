"""The clock: paired rounds.

In each round all variants run one after the other, a ratio is taken within its round, and the median over rounds is
reported with its spread. So a machine that other work slows down slows both sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binom

from benchmark.engines import Result

Progress = Callable[[int, int, str], None]

PERCENTILES = {"seconds_p10": 10, "seconds_p90": 90}
"""Fields of a row beside the median, and the percentiles over its rounds that they hold."""


@dataclass
class Variant:
    """Something that is timed once a round."""

    name: str
    call: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
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


def time_rounds(variants: list[Variant], rounds: int, steps: Steps, what: str) -> dict[str, list[dict[str, float]]]:
    """Time all variants once a round; return each round's seconds by kind of layer for the engine's own."""
    tallies: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds + 1):
        for variant in variants:
            steps.next(f"{variant.name}, {what}, round {number} of {rounds}")
            start = time.perf_counter()
            variant.result = variant.call()
            seconds = time.perf_counter() - start
            if number == 0 or variant.result is None:
                continue  # warm-up: buffers grow and pages are touched for the first time
            variant.seconds.append(seconds)
            if isinstance(variant.result, Result):
                tallies.setdefault(variant.name, []).append(_by_kind(variant.result))
    return tallies


def _by_kind(result: Result) -> dict[str, float]:
    """Sum seconds over the blocks of a stage by layer: ``layer3.conv2``, and so on."""
    seconds: dict[str, float] = {}
    for layer, row in result.tally.items():
        parts = layer.split(".")
        kind = f"{parts[0]}.{parts[2]}" if layer.startswith("layer") and len(parts) > 2 else parts[0]
        seconds[kind] = seconds.get(kind, 0.0) + row.seconds
    return seconds


def median_interval(values: Any) -> tuple[float, float]:
    """Return the 95 % interval of a median: two order statistics; the range of five values and fewer.

    How many values lie below the median is binomial, whatever their distribution.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    out = max(int(binom.ppf(0.025, len(ordered), 0.5)) - 1, 0)
    return float(ordered[out]), float(ordered[-1 - out])


def statistics(seconds: Any) -> dict[str, Any]:
    """Return median, least, percentiles, spread between the quartiles, and number of the times of some rounds."""
    values = np.asarray(seconds, dtype=float)
    low, high = np.percentile(values, [25, 75])
    return {
        "seconds": float(np.median(values)),
        "seconds_min": float(values.min()),
        "seconds_iqr": float(high - low),
        **{name: float(np.percentile(values, share)) for name, share in PERCENTILES.items()},
        "rounds": len(values),
    }
