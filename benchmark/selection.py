"""Named sets of cells: which cells a table or figure needs, as data that its report declares beside it.

A report lists `Cells` under ``CELLS``; ``saibench sweep TASK --cells NAME`` runs them. Values are given in terms of the
recipe, so that one declaration serves every scale. This module trains nothing and imports no torch: reports read it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.method import Method
    from benchmark.recipe import Recipe

__all__ = ["Cells", "Shift", "parameters_of"]


@dataclass(frozen=True)
class Shift:
    """The scale's own value of a whole-number parameter, plus so much."""

    by: int


@dataclass(frozen=True)
class Cells:
    """Some cells of one task.

    Attributes
    ----------
    task
        ``coco``, ``cityscapes`` or ``imagenet``.
    method
        Its name; every method that runs on the task where there is none.
    settings
        Values by parameter, every combination; a `Shift` stands for the scale's own value and a difference.
    point
        Which point of the method's curve, from 0, or the last where there are fewer; None for all of them.
    equal_to
        Settings of a reference. The trade-off parameter is then searched, from its value at `point`, until accuracy
        equals the reference's.

    Examples
    --------
    >>> Cells("coco", "stochastic", {"fill": ("rbf", "zeros")}, point=2)  # two cells, at γ = 0.1 at scale paper
    """

    task: str
    method: str = ""
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    point: int | None = None
    equal_to: Mapping[str, Any] | None = None


def parameters_of(cells: Cells, kind: type[Method], recipe: Recipe) -> list[dict[str, Any]]:
    """Return the parameters of each cell of a method, in order: point by point, every combination of settings."""
    points = kind.points(recipe.curves)
    if cells.point is not None:
        points = [points[min(cells.point, len(points) - 1)]]
    axes = [[_value(name, value, kind, recipe) for value in values] for name, values in cells.settings.items()]
    return [
        {**point, **dict(zip(cells.settings, combination, strict=True))}
        for point in points
        for combination in itertools.product(*axes)
    ]


def _value(name: str, value: Any, kind: type[Method], recipe: Recipe) -> Any:
    if not isinstance(value, Shift):
        return value
    return recipe.parameters.get(name, kind.model_fields[name].default) + value.by
