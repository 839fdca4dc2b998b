"""Metrics by name: what they are called, which direction is better, and in which unit they are printed.

How a metric is computed is the task's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["COSTS", "METRICS", "TASK_METRICS", "Metric", "find_metric"]


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
