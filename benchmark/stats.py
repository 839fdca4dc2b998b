"""What reports compute from records: metrics and their directions, means over seeds, Pareto fronts.

It knows metrics by name and nothing of how they came about; it draws and prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["COSTS", "METRICS", "TASK_METRICS", "Metric", "find_metric", "over_seeds", "pareto_front"]


@dataclass(frozen=True)
class Metric:
    """A number that cells are compared by.

    Attributes
    ----------
    name
        The record's field, without ``metric_``.
    label
        For axes and table heads.
    higher_is_better
        Its direction.
    scale
        Factor from the record's value to the printed one.
    unit
        Unit of the printed value.
    """

    name: str
    label: str
    higher_is_better: bool
    scale: float = 1.0
    unit: str = ""

    @property
    def title(self) -> str:
        """Label and unit: ``AP (%)``."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def _percent(name: str, label: str) -> Metric:
    return Metric(name, label, higher_is_better=True, scale=100.0, unit="%")


#: Accuracies by name. Records hold them as shares, from 0 to 1; they are printed in per cent, as the paper
#: does.
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        _percent("AP", "AP"),
        _percent("AP50", "AP50"),
        _percent("AP75", "AP75"),
        _percent("APs", "APs"),
        _percent("APm", "APm"),
        _percent("APl", "APl"),
        _percent("mIoU", "mean IoU"),
        _percent("mIoU_category", "category IoU"),
        _percent("top1", "top-1"),
        _percent("top5", "top-5"),
    )
}

#: The metrics of each task, the main one first.
TASK_METRICS: Mapping[str, Sequence[str]] = {
    "coco": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "cityscapes": ("mIoU", "mIoU_category"),
    "imagenet": ("top1", "top5"),
}

#: Costs by the record's field.
COSTS: Mapping[str, Metric] = {
    "gmacs_measured_mean": Metric("gmacs_measured_mean", "measured", higher_is_better=False, unit="GMACs"),
    "gmacs_paper": Metric("gmacs_paper", "paper's convention", higher_is_better=False, unit="GMACs"),
}


def find_metric(name: str) -> Metric:
    """Return a metric by name; one that is not known is taken as it is, the higher the better."""
    return METRICS.get(name) or COSTS.get(name) or Metric(name, name, higher_is_better=True)


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
