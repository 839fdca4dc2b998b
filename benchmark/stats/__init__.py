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
    Statistic,
    compare,
    estimate,
    interval,
    measure,
    over_seeds_alone,
    resample,
    sign_flip,
    verdict,
)
from benchmark.stats.curves import (
    MIN_OVERLAP,
    NoOverlap,
    bjontegaard_rate,
    common_range,
    mean_gap,
    mean_gaps,
    over_seeds,
    pareto_front,
    read_costs,
    read_curves,
)
from benchmark.stats.metrics import find_metric, task_metrics
from benchmark.stats.outcomes import OUTCOMES, Outcomes, read_outcomes
from benchmark.stats.ranks import METHODS_TO_TELL, Agreement, order_agreement, rank_agreement

__all__ = [
    "METHODS_TO_TELL",
    "MIN_OVERLAP",
    "OUTCOMES",
    "SEEDS_TO_TELL",
    "Agreement",
    "Comparison",
    "Measured",
    "Metric",
    "NoOverlap",
    "Outcomes",
    "Run",
    "Statistic",
    "bjontegaard_rate",
    "common_range",
    "compare",
    "estimate",
    "find_metric",
    "interval",
    "mean_gap",
    "mean_gaps",
    "measure",
    "order_agreement",
    "over_seeds",
    "over_seeds_alone",
    "pareto_front",
    "rank_agreement",
    "read_costs",
    "read_curves",
    "read_outcomes",
    "resample",
    "sign_flip",
    "task_metrics",
    "verdict",
]
