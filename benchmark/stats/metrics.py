"""Metrics by task and by name, as records or the tasks themselves describe them."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.listing import task_names
from benchmark.metric import Metric, parse_metrics

__all__ = ["find_metric", "task_metrics"]


def task_metrics(task: str, said: str | None = None) -> list[Metric]:
    """Return the metrics of a task, the main one first; none for a task that nothing is known of.

    Parameters
    ----------
    task
        Name of the task.
    said
        What one of its records says of them. Records of older versions say nothing: then the task itself is asked,
        which imports PyTorch.
    """
    if said:
        return parse_metrics(said)
    if task not in task_names():
        return []
    from benchmark.tasks import find_task

    return list(find_task(task).metrics)


def find_metric(metrics: Iterable[Metric], name: str) -> Metric:
    """Return the metric of a name; one that is not among them is taken as it is, the higher the better."""
    return next((metric for metric in metrics if metric.name == name), Metric(name, name, higher_is_better=True))
