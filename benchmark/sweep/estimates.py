"""What the cells of a sweep will take: measured on cells that were run before, or by a few steps; never guessed.

A record says it for a cell of the same method where both have the same recipe but for the training run, the same data,
and the same machine and threads. Of such records those with the cell's own parameters count before the others.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmark.cells import MODEL, Plan, reader
from benchmark.errors import StoreError
from benchmark.flops import paper
from benchmark.recipe import Schedule
from benchmark.store import Record, Store, provenance
from benchmark.sweep.states import State

NOTHING_MEASURED = "unknown, nothing measured"
_MACHINE = ("cpu", "isa", "isa_limit", "gpu")


@dataclass(frozen=True)
class Rate:
    """What a cell takes.

    Attributes
    ----------
    image : float
        Seconds a training image.
    evaluation : float
        Seconds to evaluate the validation set.
    size : float or None
        Bytes of its record; None where that is unknown.
    source : str
        What measured it.
    """

    image: float
    evaluation: float
    size: float | None
    source: str


@dataclass(frozen=True)
class Estimate:
    """What one cell takes, or took.

    Attributes
    ----------
    gmacs : float or None
        GMACs of an image in the backbone, as a record of the same method and parameters measured them.
    gmacs_dense : float
        GMACs of its backbone without masks, at the nominal image size: what the ``paper`` convention counts.
    seconds, size : float or None
        Seconds of training and evaluation, and bytes of its record.
    source : str
        What measured the seconds.
    """

    gmacs: float | None
    gmacs_dense: float
    seconds: float | None
    size: float | None
    source: str


class Estimator:
    """Looks up what cells take in a store.

    Parameters
    ----------
    store
        Whose records measured it.
    measured
        Rates of plans that no record times, by cell id; see `benchmark.sweep.measuring`.
    """

    def __init__(self, store: Store, measured: Mapping[str, Rate] | None = None) -> None:
        self.records = [each for each in store.scan()[0] if each.finished]
        self.measured = measured or {}
        self._counted: dict[tuple[str, int], float] = {}
        self.here = {name: value for name, value in provenance().items() if name in _MACHINE}

    def estimate(self, state: State) -> Estimate:
        """Return what a cell takes; of one that is finished, what it took."""
        planned, record = state.plan, state.record
        dense = self._dense(planned)
        if state.name == "finished" and record is not None:
            seconds = (record["seconds_train"] or 0.0) + (record["seconds_eval"] or 0.0)
            return Estimate(record["gmacs_measured_mean"], dense, seconds, float(_size(record)), "its record")
        same = [each for each in self._alike(planned) if each.parameters == dict(planned.cell.parameters)]
        gmacs = _mean(each["gmacs_measured_mean"] for each in same)
        rate = self.rate(planned)
        if rate is None:
            return Estimate(gmacs, dense, None, None, NOTHING_MEASURED)
        return Estimate(gmacs, dense, rate.image * _images(planned) + rate.evaluation, rate.size, rate.source)

    def rate(self, planned: Plan) -> Rate | None:
        """Return what a cell takes by the records of its like, or as it was measured; None where nothing says it."""
        alike = [each for each in self._alike(planned) if self._from_here(each, planned) and each["seconds_train"]]
        same = [each for each in alike if each.parameters == dict(planned.cell.parameters)]
        chosen = same or alike
        if not chosen:
            return self.measured.get(planned.cell.id)
        count = len(reader(planned.task.name, planned.folder, "train"))
        seconds = [each["seconds_train"] / _images_of(_identity(each)["determinants"], count) for each in chosen]
        of = "these parameters" if same else "other parameters"
        return Rate(
            sum(seconds) / len(seconds),
            _mean(each["seconds_eval"] for each in chosen) or 0.0,
            _mean(_size(each) for each in chosen if each.has(MODEL)),
            f"{len(chosen)} record{'s' * (len(chosen) > 1)} of {of}",
        )

    def _dense(self, planned: Plan) -> float:
        recipe, method = planned.recipe, planned.method
        key = (method.backbone(recipe.backbone), method.image_size(recipe.shorter_side))
        if key not in self._counted:  # one sweep has one task and one recipe
            self._counted[key] = _count_dense(planned)
        return self._counted[key]

    def _alike(self, planned: Plan) -> list[Record]:
        """Return the finished records of a plan's method with its recipe and data, whatever the training run."""
        cell = planned.cell
        return [
            each
            for each in self.records
            if (each["task"], each["scale"], each["method"]) == (cell.task, cell.scale, cell.method)
            and each["dataset_fingerprint"] == cell.dataset_fingerprint
            and _harness(_identity(each).get("determinants", {})) == _harness(cell.determinants)
        ]

    def _from_here(self, record: Record, planned: Plan) -> bool:
        threads = planned.recipe.threads or torch.get_num_threads()
        if (record.fields.get("devices") or 1) != planned.request.devices:
            return False
        return record["threads"] == threads and all(record[name] == value for name, value in self.here.items())


@dataclass(frozen=True)
class Total:
    """What some cells take together.

    Attributes
    ----------
    seconds, size : float
        Sums over the cells where they are known.
    longest : float
        Seconds of the longest.
    untimed, unsized : int
        Cells whose seconds, and whose bytes, are not known.
    """

    seconds: float
    size: float
    longest: float
    untimed: int
    unsized: int

    @classmethod
    def of(cls, estimates: Sequence[Estimate]) -> "Total":
        """Add up what cells take."""
        seconds = [each.seconds for each in estimates if each.seconds is not None]
        sizes = [each.size for each in estimates if each.size is not None]
        untimed, unsized = len(estimates) - len(seconds), len(estimates) - len(sizes)
        return cls(sum(seconds), sum(sizes), max(seconds, default=0.0), untimed, unsized)

    def span(self, jobs: int) -> float:
        """Return the seconds that the cells take at least with so many at a time."""
        return max(self.seconds / jobs, self.longest)


def _images(planned: Plan) -> int:
    """Return how many images a cell's training sees."""
    return _seen(planned.schedules, len(reader(planned.task.name, planned.folder, "train")))


def _images_of(determinants: Mapping[str, Any], count: int) -> int:
    """Return how many images the training of a record saw, on a set of so many."""
    return _seen([Schedule(**each) for each in determinants["schedules"]], count)


def _seen(schedules: Iterable[Schedule], count: int) -> int:
    return sum(each.length(count) * each.batch for each in schedules)


def _harness(determinants: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines a cell beside its training run, its method's code and the weights that it starts from."""
    return {name: value for name, value in determinants.items() if name not in ("schedules", "method", "start")}


def _identity(record: Record) -> dict[str, Any]:
    """Return what a record's cell id is the hash of; nothing where the file is not there or broken."""
    try:
        content = json.loads(record.read("cell.json"))
    except (OSError, ValueError, StoreError):
        return {}
    return content if isinstance(content, dict) else {}


def _size(record: Record) -> int:
    return sum(len(record.read(name)) for name in record.names)


def _count_dense(planned: Plan) -> float:
    """Return the GMACs of a plan's backbone without its method, by the ``paper`` convention."""
    task, recipe = planned.task, planned.recipe
    backbone, side = planned.method.backbone(recipe.backbone), planned.method.image_size(recipe.shorter_side)
    with torch.device("meta"):
        model = task.build(recipe, backbone, task.nominal_classes, side)
    rows = paper.count(task.backbone(model), *task.nominal_size(side))
    return float(rows["macs"].sum() / 1e9)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
