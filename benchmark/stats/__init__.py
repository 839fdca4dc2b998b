"""What reports compute from records: metrics by name, curves, outcomes of single images, comparisons with intervals.

It knows no method and no report, and draws and prints nothing.
"""

from __future__ import annotations

from benchmark.metric import Metric
from benchmark.stats.comparison import (
    SEEDS_TO_TELL,
    Comparison,
    Measured,
    Run,
    compare,
    estimate,
    interval,
    measure,
    resample,
    sign_flip,
)
from benchmark.stats.curves import (
    MIN_OVERLAP,
    NoOverlap,
    bjontegaard_rate,
    common_range,
    mean_gap,
    over_seeds,
    pareto_front,
)
from benchmark.stats.metrics import find_metric, task_metrics
from benchmark.stats.outcomes import OUTCOMES, Outcomes, read_outcomes

__all__ = [
    "MIN_OVERLAP",
    "OUTCOMES",
    "SEEDS_TO_TELL",
    "Comparison",
    "Measured",
    "Metric",
    "NoOverlap",
    "Outcomes",
    "Run",
    "bjontegaard_rate",
    "common_range",
    "compare",
    "estimate",
    "find_metric",
    "interval",
    "mean_gap",
    "measure",
    "over_seeds",
    "pareto_front",
    "read_outcomes",
    "resample",
    "sign_flip",
    "task_metrics",
]
