"""Running a record's cell again, elsewhere, and comparing what both runs left.

The cell is the same one to the last field: `benchmark.cells.loading.plan_of` refuses anything else. What may differ is
where it runs: packages, processor, threads. They change the order of sums, and training amplifies that; within which
limits two runs count as one result stands in `benchmark.metric`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.cells.planning import Plan
from benchmark.cells.running import execute
from benchmark.errors import UsageError
from benchmark.metric import COUNT_TOLERANCE, MACHINE_TOLERANCE, MASK_TOLERANCE
from benchmark.progress import Report
from benchmark.store import ENVIRONMENT, Record, Store, environment, is_rendered, read_environment

__all__ = ["Compared", "Reproduction", "handful", "on_rendered_scenes", "reproduce"]

#: What says where a record was made, beside the packages.
_MACHINE = ("python", "torch", "cpu", "isa", "isa_limit", "gpu", "threads")
_COUNTS = ("gmacs_measured_mean", "gmacs_whole_mean", "gmacs_paper")


@dataclass(frozen=True)
class Compared:
    """A number of both records.

    Attributes
    ----------
    name : str
        The record's field.
    recorded, reproduced : float or None
        Its values; None where it is not defined.
    tolerance : float or None
        Largest difference at which both count as one result; None where it is shown and not judged.
    """

    name: str
    recorded: float | None
    reproduced: float | None
    tolerance: float | None = None

    @property
    def difference(self) -> float | None:
        """Reproduced minus recorded value; None where one is not defined."""
        if self.recorded is None or self.reproduced is None:
            return None
        return self.reproduced - self.recorded

    @property
    def agrees(self) -> bool:
        """Whether the values are equal, or no further apart than the tolerance; True where nothing is judged."""
        if self.tolerance is None or self.recorded == self.reproduced:
            return True
        return self.difference is not None and abs(self.difference) <= self.tolerance


@dataclass(frozen=True)
class Reproduction:
    """A record, the record of the same cell run again, and how they compare.

    Attributes
    ----------
    recorded, reproduced : Record
        Both records.
    numbers : list of Compared
        The task's main metric and the counts are judged, the other metrics are shown.
    machine : mapping
        What was otherwise on the machine: field to the pair of values.
    packages : mapping or None
        Packages of other versions: name to the pair of versions, None where it is not installed. None where the record
        does not list its packages, as those of earlier versions do not.
    """

    recorded: Record
    reproduced: Record
    numbers: list[Compared]
    machine: Mapping[str, tuple[Any, Any]]
    packages: Mapping[str, tuple[str | None, str | None]] | None

    @property
    def agrees(self) -> bool:
        """Whether every number that is judged is within its tolerance."""
        return all(number.agrees for number in self.numbers)

    @property
    def identical(self) -> bool:
        """Whether all numbers are equal to the last digit."""
        return all(number.recorded == number.reproduced for number in self.numbers)


def reproduce(
    record: Record, planned: Plan, store: Store, force: bool = False, report: Report | None = None
) -> Reproduction:
    """Run a record's cell again in another store, and compare.

    Parameters
    ----------
    record
        A finished record.
    planned
        Its plan, from `plan_of`.
    store
        Where to run it. A record of the cell that is there is compared as it is, an interrupted run is resumed.
    force
        Run it even where it is there.
    report
        See `execute`.

    Raises
    ------
    UsageError
        For a record without a result, or a store that holds the record itself.
    SaibenchError
        When the run fails.
    """
    if not record.finished:
        raise UsageError(f"{record.folder}: the cell {record.status}, so there is no result to compare with")
    if store.root.is_dir() and store.root.samefile(record.folder.parents[3]):
        raise UsageError(f"{store.root} holds the record itself; run the cell again in another store, with --into")
    again = execute(planned, store, force, report)
    return Reproduction(
        record,
        again,
        compare(record.fields, again.fields, planned.task.metrics[0].name),
        {name: pair for name in _MACHINE if (pair := (record[name], again[name]))[0] != pair[1]},
        _packages(record),
    )


def compare(recorded: Mapping[str, Any], reproduced: Mapping[str, Any], main: str) -> list[Compared]:
    """Compare two records' fields: the main metric, the other metrics, density and counts, in this order."""
    first = f"metric_{main}"
    others = sorted(
        name for name in recorded.keys() | reproduced.keys() if name.startswith("metric_") and name != first
    )
    moved = recorded.get("density_mean") != reproduced.get("density_mean")
    limit = MASK_TOLERANCE if moved else MACHINE_TOLERANCE
    tolerances: dict[str, float | None] = {first: limit, **dict.fromkeys(others)}
    tolerances["density_mean"] = COUNT_TOLERANCE
    tolerances |= {name: COUNT_TOLERANCE * abs(recorded.get(name) or 0.0) for name in _COUNTS}
    return [Compared(name, recorded.get(name), reproduced.get(name), within) for name, within in tolerances.items()]


def _packages(record: Record) -> dict[str, tuple[str | None, str | None]] | None:
    if not record.has(ENVIRONMENT):
        return None
    before, now = read_environment(record.folder / ENVIRONMENT), environment()
    pairs = {name: (before.get(name), now.get(name)) for name in sorted(before.keys() | now.keys())}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def handful(records: Iterable[Record], seconds: float) -> list[Record]:
    """Choose records to reproduce within a time: of each task in turn the quickest of another method.

    Parameters
    ----------
    records
        Those that are not finished are left out.
    seconds
        What the chosen ones took altogether, at most, by their own account.
    """
    finished = [record for record in records if record.finished]
    by_id = {record.fields.get("cell_id"): record for record in finished}

    def seconds_of(record: Record) -> float:
        """Return what a record's cell takes with the cells that it starts from, where they are among the records."""
        start = record.fields.get("start")
        return _seconds(record) + (seconds_of(by_id[start]) if start and start in by_id else 0.0)

    waiting: dict[str, list[Record]] = {}
    for record in sorted(finished, key=seconds_of):
        of_task = waiting.setdefault(str(record["task"]), [])
        if all(other["method"] != record["method"] for other in of_task):
            of_task.append(record)
    chosen: list[Record] = []
    while any(waiting.values()):
        for of_task in waiting.values():
            if of_task and sum(map(seconds_of, chosen)) + seconds_of(of_task[0]) <= seconds:
                chosen.append(of_task.pop(0))
            else:  # the next ones of the task take longer still
                of_task.clear()
    return chosen


def on_rendered_scenes(record: Record) -> bool:
    """Whether a record's data set is the one that is rendered for its scale, which every machine has."""
    return is_rendered(str(record["dataset"]), record["task"], record["scale"])


def _seconds(record: Record) -> float:
    return float(record["seconds_train"] or 0) + float(record["seconds_eval"] or 0)
