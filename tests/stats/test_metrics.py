"""Metrics: a task says what its own are, its records repeat it, and the reports need no more."""

import pytest

from benchmark.listing import task_names
from benchmark.metric import Metric, describe_metrics
from benchmark.stats import find_metric, task_metrics
from benchmark.tasks import find_task


@pytest.mark.parametrize("task", task_names())
def test_records_and_the_task_say_the_same(task):
    metrics = list(find_task(task).metrics)
    assert task_metrics(task) == metrics
    assert task_metrics("a task that is not there", describe_metrics(metrics)) == metrics


def test_what_a_record_says_counts_more_than_what_the_task_says_today():
    said = [Metric("error", "error", higher_is_better=False, unit="px")]
    assert task_metrics("coco", describe_metrics(said)) == said


def test_a_task_that_nothing_is_known_of_has_no_metrics():
    assert task_metrics("kitti") == []


def test_a_metric_that_is_not_described_is_taken_as_it_is():
    assert find_metric([Metric.percent("AP")], "AP").title == "AP (%)"
    assert find_metric([], "something_new") == Metric("something_new", "something_new", higher_is_better=True)
