"""Searching the sparse-loss weight of equal accuracy, and the named sets of cells."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reports
from benchmark.errors import StoreError
from benchmark.method import discover
from benchmark.search import STEPS, TOLERANCE, make_searches, next_value
from benchmark.selection import Cells, Shift, parameters_of
from benchmark.store import Store
from benchmark.sweep import make_named_sweep
from benchmark.tasks import find_task

COCO = find_task("coco").recipe("mini")


def tried_values(score, target, start=1.0):
    tried = {}
    value = start
    while value is not None and len(tried) < STEPS:
        tried[value] = score(value)
        value = next_value(tried, target)
    return tried


@given(st.floats(0.2, 4.0), st.floats(0.02, 0.1))
def test_the_search_comes_nearer_to_equal_accuracy(best, slope):
    tried = tried_values(lambda gamma: 0.6 - slope * gamma, 0.6 - slope * best)
    distance = [abs(score - (0.6 - slope * best)) for score in tried.values()]
    assert min(distance) <= max(TOLERANCE, distance[0])
    assert len(tried) <= STEPS and len(set(tried)) == len(tried)


def test_the_search_ends_at_once_where_accuracy_is_equal():
    assert list(tried_values(lambda gamma: 0.5, 0.503)) == [1.0]


def test_the_search_brackets_and_then_halves_on_a_logarithmic_scale():
    assert list(tried_values(lambda gamma: 1 - gamma, 0.85)) == [1.0, 0.333, 0.111, 0.192]


def test_cells_are_given_in_terms_of_the_recipe():
    stochastic = discover()["stochastic"]
    (point,) = parameters_of(Cells("coco", "stochastic", {"fill": ("zeros",)}, point=2), stochastic, COCO)
    assert point == {"gamma": COCO.curves["gamma"][2], "fill": "zeros"}
    strides = parameters_of(Cells("coco", "stochastic", {"grid_stride": (Shift(-2), 0)}, point=9), stochastic, COCO)
    assert [each["grid_stride"] for each in strides] == [COCO.parameters["grid_stride"] - 2, 0]
    assert {each["gamma"] for each in strides} == {COCO.curves["gamma"][-1]}
    assert len(parameters_of(Cells("coco", "stochastic"), stochastic, COCO)) == len(COCO.curves["gamma"])


def test_named_sweeps_plan_each_cell_once_and_leave_other_tasks_out(tiny_set):
    cells = reports.cells(["table2", "figure3", "table4"])
    sweep = make_named_sweep("coco", cells, data=tiny_set("coco"))
    ids = [each.cell.id for each in sweep.plans]
    assert len(ids) == len(set(ids))
    points = [each.request.parameters for each in sweep.plans if each.method.name == "stochastic"]
    assert {point.get("fill") for point in points} == {None, "zeros", "reuse", "rbf"}
    assert {each.request.task for each in sweep.plans} == {"coco"}


class Known:
    """A store of scores by cell; None for a cell that failed, an error for a broken record."""

    def __init__(self, scores):
        self.scores = scores

    def find(self, cell):
        if cell.id not in self.scores:
            return None
        score = self.scores[cell.id]
        if isinstance(score, StoreError):
            raise score
        return SimpleNamespace(finished=score is not None, fields={"metric_AP": score})


def test_a_search_waits_for_its_reference_and_asks_for_its_first_value(tiny_set, tmp_path):
    cells = reports.cells(["table1"])
    first, second = make_searches(cells, data=tiny_set("coco"))
    assert {each.template[0].request.parameters["fill"] for each in (first, second)} == {"convolution", "average"}
    assert first.next(Store(tmp_path)) == []
    scores = {first.reference[0].cell.id: 0.5}

    (following,) = first.next(Known(scores))
    assert following.request.parameters["gamma"] == COCO.curves["gamma"][2]
    scores[following.cell.id] = 0.4
    (following,) = first.next(Known(scores))
    assert following.request.parameters["gamma"] == pytest.approx(COCO.curves["gamma"][2] / 3, rel=0.01)
    scores[following.cell.id] = 0.502
    assert first.next(Known(scores)) == []
    assert first.stopped(Known(scores)) == []


@pytest.mark.parametrize("left", [None, StoreError("checksums.sha256 is not there")], ids=["failed", "broken"])
def test_a_search_stops_at_a_cell_without_a_score_and_names_it(tiny_set, left):
    search, _ = make_searches(reports.cells(["table1"]), data=tiny_set("coco"), seeds=(0, 1))
    one, two = search.template
    known = Known({each.cell.id: 0.5 for each in search.reference} | {one.cell.id: left})
    assert [each.cell.id for each in search.next(known)] == [two.cell.id]
    known.scores[two.cell.id] = 0.4
    assert search.next(known) == []
    assert [each.cell.id for each in search.stopped(known)] == [one.cell.id]
