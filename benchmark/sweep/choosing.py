"""Which cells a sweep has, and in which order they are started.

Cells that others start from come first; the rest follow point by point, so that every curve gets its ends early.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.cells import Plan, Request, plan
from benchmark.errors import unknown
from benchmark.hardware import ONE, Hardware
from benchmark.method import Method, address, resolve
from benchmark.selection import Cells, parameters_of
from benchmark.tasks import find_task


@dataclass(frozen=True)
class Sweep:
    """A set of cells to run.

    Attributes
    ----------
    plans : list of Plan
        In the order in which they are started; starting cells first.
    skipped : mapping
        Why a method is left out, by its name.
    """

    plans: list[Plan]
    skipped: Mapping[str, str]


def make_sweep(
    task: str,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    scale: str = "mini",
    data: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    hardware: Hardware = ONE,
) -> Sweep:
    """Plan every point of every method's curve.

    Parameters
    ----------
    methods
        Names or plug-in files; empty for all of the project's.
    parameters
        Parameters that every method of these names gets; a curve's parameter among them is no longer swept.

    Raises
    ------
    UsageError
        For a method, or a parameter that no chosen method has.
    """
    kinds = resolve(methods)
    _check_parameters(parameters or {}, kinds)
    recipe = find_task(task).recipe(scale).override(overrides or {})
    template = Request(
        task, "", scale, data=data, overrides=overrides or {}, precision=hardware.precision, devices=hardware.devices
    )
    curves: list[list[Plan]] = []
    skipped: dict[str, str] = {}
    for kind in kinds:
        reason = kind.make({}).skip(find_task(task).name)
        if not methods and find_task(task).name in kind.only_named:
            reason = reason or f"runs where it is named: --methods {kind.name}"
        if reason:
            skipped[kind.name] = reason
            continue
        fixed = {name: value for name, value in (parameters or {}).items() if name in kind.model_fields}
        points = {tuple({**point, **fixed}.items()): None for point in kind.points(recipe.curves)}
        curves.append(
            [
                plan(dataclasses.replace(template, method=address(kind), parameters=dict(point), seed=seed))
                for seed in seeds
                for point in points
            ]
        )
    return Sweep(_ordered(curves), skipped)


def _check_parameters(names: Iterable[str], kinds: Sequence[type[Method]]) -> None:
    """Refuse a parameter that no chosen method has: it would change nothing."""
    known = {name for kind in kinds for name in kind.model_fields}
    for name in names:
        if name not in known:
            raise unknown("parameter", name, known, " in the methods chosen")


def make_named_sweep(
    task: str,
    cells: Sequence[Cells],
    seeds: Sequence[int] = (0,),
    scale: str = "mini",
    data: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    hardware: Hardware = ONE,
) -> Sweep:
    """Plan the cells of a task that reports declare; `benchmark.search` plans those whose value must be searched."""
    recipe = find_task(task).recipe(scale).override(overrides or {})
    template = Request(
        task, "", scale, data=data, overrides=overrides or {}, precision=hardware.precision, devices=hardware.devices
    )
    curves: list[list[Plan]] = []
    skipped: dict[str, str] = {}
    seen: set[str] = set()
    for each in cells:
        if each.task != task or each.equal_to is not None:
            continue
        for kind in resolve([each.method] if each.method else []):
            reason = kind.make({}).skip(find_task(task).name)
            if reason:
                skipped[kind.name] = reason
                continue
            plans = [
                plan(dataclasses.replace(template, method=kind.name, parameters=parameters, seed=seed))
                for seed in seeds
                for parameters in parameters_of(each, kind, recipe)
            ]
            new = list({one.cell.id: one for one in plans if one.cell.id not in seen}.values())
            seen |= {one.cell.id for one in new}
            curves += [new] if new else []
    return Sweep(_ordered(curves), skipped)


def _ordered(curves: Sequence[Sequence[Plan]]) -> list[Plan]:
    """Put starting cells first, then backbones that start from nothing, then the curves in turn, ends first."""
    plans = [each for curve in curves for each in curve]
    starts = {start.cell.id: start for each in plans for start in (*_starts(each), *([each] if each.is_start else ()))}
    others = [each for each in plans if each.cell.id not in starts]
    alone = [each for each in others if each.from_nothing]
    turns = itertools.zip_longest(*(_ends_first(curve) for curve in curves))
    rest = [each for turn in turns for each in turn if each and each.cell.id not in starts and not each.from_nothing]
    return [*starts.values(), *alone, *rest]


def _starts(planned: Plan) -> list[Plan]:
    """Return the cells that a cell starts from, the first one first."""
    return [] if planned.start is None else [*_starts(planned.start), planned.start]


def _ends_first(curve: Sequence[Plan]) -> list[Plan]:
    """Order a curve so that its two ends come first."""
    return [curve[0], curve[-1], *curve[1:-1]] if len(curve) > 2 else list(curve)
