"""Searching the trade-off parameter until accuracy equals a reference's (the paper's Table 1).

A search has no state of its own: what was tried is in the store, so an interrupted one resumes, and a finished one
asks for nothing more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.cells import Plan, Request, plan
from benchmark.errors import StoreError
from benchmark.hardware import ONE, Hardware
from benchmark.method import resolve
from benchmark.selection import Cells, parameters_of
from benchmark.store import Record, Store
from benchmark.tasks import find_task

__all__ = ["STEPS", "TOLERANCE", "Search", "make_searches", "next_value"]

#: Values tried at most, the first included.
STEPS = 4
#: Accuracies that differ by less are equal: half a point.
TOLERANCE = 0.005
_FACTOR = 3.0  # from the first value to one on its other side


@dataclasses.dataclass(frozen=True)
class Search:
    """One search.

    Attributes
    ----------
    reference
        The cells whose mean accuracy is to be reached, one a seed.
    template
        The cells to vary, one a seed, at the first value.
    parameter
        The trade-off parameter: the higher, the less computation and accuracy.
    metric
        The task's main metric.
    """

    reference: Sequence[Plan]
    template: Sequence[Plan]
    parameter: str
    metric: str

    def next(self, store: Store) -> list[Plan]:
        """Return the cells to run next; none where the search has ended, or cannot go on."""
        return [each for each in self._unscored(store) if _left(each, store) is None]

    def stopped(self, store: Store) -> list[Plan]:
        """Return the cells that ended without a score, or whose record is broken: there is no mean without them."""
        return [each for each in self._unscored(store) if _left(each, store) is not None]

    def _unscored(self, store: Store) -> list[Plan]:
        """Return the cells without a score at the value to try next; none before the reference has its own."""
        target = self._mean(self.reference, store)
        value = float(self.template[0].request.parameters[self.parameter])
        tried: dict[float, float] = {}
        while target is not None and len(tried) < STEPS:
            plans = self._at(value)
            score = self._mean(plans, store)
            if score is None:
                return [each for each in plans if self._score(each, store) is None]
            tried[value] = score
            following = next_value(tried, target)
            if following is None:
                return []
            value = following
        return []

    def _at(self, value: float) -> list[Plan]:
        requests = (each.request for each in self.template)
        return [
            plan(dataclasses.replace(request, parameters={**request.parameters, self.parameter: value}))
            for request in requests
        ]

    def _mean(self, plans: Sequence[Plan], store: Store) -> float | None:
        """Return the mean accuracy of cells; None if one has no score."""
        scores = [score for each in plans if (score := self._score(each, store)) is not None]
        return float(np.mean(scores)) if len(scores) == len(plans) else None

    def _score(self, planned: Plan, store: Store) -> float | None:
        record = _left(planned, store)
        if record is None or isinstance(record, StoreError) or not record.finished:
            return None
        score = record.fields.get(f"metric_{self.metric}")
        return None if score is None else float(score)


def _left(planned: Plan, store: Store) -> Record | StoreError | None:
    """Return what a cell left: a record, one that is broken, or none."""
    try:
        return store.find(planned.cell)
    except StoreError as error:
        return error


def next_value(tried: Mapping[float, float], target: float) -> float | None:
    """Return which value to try next, given the accuracies at those tried; None where one is equal enough.

    Accuracy is taken to fall as the value rises. Between a value that is too low and one that is too high the next is
    their geometric mean; as long as all lie on one side, the outermost is tripled, or divided by three.
    """
    if any(abs(score - target) <= TOLERANCE for score in tried.values()):
        return None
    low = max((value for value, score in tried.items() if score > target), default=None)
    high = min((value for value, score in tried.items() if score < target), default=None)
    if low is None or high is None:
        found = high / _FACTOR if high is not None else low * _FACTOR if low is not None else None
    else:
        found = math.sqrt(low * high)
    return None if found is None or found in tried else float(f"{found:.3g}")


def make_searches(
    cells: Sequence[Cells],
    seeds: Sequence[int] = (0,),
    scale: str = "mini",
    data: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    hardware: Hardware = ONE,
) -> list[Search]:
    """Plan the searches among some cells: one a combination of settings."""
    searches = []
    for each in cells:
        if each.equal_to is None:
            continue
        kind, task = resolve([each.method])[0], find_task(each.task)
        recipe = task.recipe(scale)
        request = Request(
            each.task,
            each.method,
            scale,
            data=data,
            overrides=overrides or {},
            precision=hardware.precision,
            devices=hardware.devices,
        )
        point = parameters_of(dataclasses.replace(each, settings={}), kind, recipe)[0]

        def plans(parameters: Mapping[str, Any], request: Request = request) -> list[Plan]:
            return [plan(dataclasses.replace(request, parameters=parameters, seed=seed)) for seed in seeds]

        (parameter,) = point  # a search runs along one parameter
        searches += [
            Search(plans({**point, **each.equal_to}), plans(parameters), parameter, task.metrics[0].name)
            for parameters in parameters_of(each, kind, recipe)
        ]
    return searches
