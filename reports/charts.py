"""Geometry of the page's charts: scales, ticks, lines and points, for a template to draw as SVG.

It knows numbers and methods' places, no HTML and no colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.curves import COST, Panel
from reports.methods import REFERENCE, Methods

__all__ = ["HEIGHT", "WIDTH", "Chart", "Line", "Point", "accuracy_chart", "ticks"]

WIDTH, HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 16, 52
COLOURS, MARKERS = 12, 6  # of the page


@dataclass(frozen=True)
class Point:
    """One cell: where it is drawn, which record it stands for, and what is said of it."""

    x: float
    y: float
    cell: str
    seed: int
    text: str


@dataclass(frozen=True)
class Line:
    """A line of a panel: the means' path, and its cells; `place` is the method's, -1 of the reference."""

    label: str
    method: str
    place: int
    path: str
    points: Sequence[Point]

    @property
    def colour(self) -> int:
        """Number of the colour; -1 of the reference."""
        return self.place % COLOURS if self.place >= 0 else -1

    @property
    def marker(self) -> int:
        """Number of the marker; -1 of the reference. Methods of one colour differ in it, up to so many rounds."""
        return (self.place + self.place // COLOURS) % MARKERS if self.place >= 0 else -1

    @property
    def again(self) -> bool:
        """Whether its colour stands for an earlier method too."""
        return self.place >= COLOURS


@dataclass(frozen=True)
class Chart:
    """A chart: pixels of everything, texts of the axes."""

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]
    box: tuple[float, float, float, float] = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round numbers that cover a range, about so many."""
    span = (high - low) or abs(high) or 1.0
    raw = span / max(1, count - 1)
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= raw * 0.999)
    first = math.floor(low / step)
    return [round(place * step, 12) for place in range(first, math.ceil(high / step) + 1)]


def accuracy_chart(
    panel: Panel, known: Methods, costs: dict[str, float], title: str, x_label: str, unit: str
) -> Chart | None:
    """Return a panel's accuracy over a cost of its cells.

    Parameters
    ----------
    costs
        Cost by cell id; cells without one are left out.
    unit
        Of the cost, for what is said of a point.

    Returns
    -------
    Chart or None
        None where no cell has a cost.
    """
    lines = [*([panel.reference] if panel.reference else []), *panel.main]
    chosen = []
    for line in lines:
        cells = panel.cells[panel.cells["cell_id"].isin(line.points["ids"].explode())]
        cells = cells[cells["cell_id"].isin(costs.keys()) & cells[panel.score].notna()]
        if len(cells):
            chosen.append((line, cells.assign(_cost=cells["cell_id"].map(costs))))
    if not chosen:
        return None
    scale = panel.metric.scale
    xs = [float(value) for _, cells in chosen for value in cells["_cost"]]
    ys = [float(value) * scale for _, cells in chosen for value in cells[panel.score]]
    x_ticks, y_ticks = ticks(0, max(xs)), ticks(min(ys), max(ys))
    left, top, right, bottom = Chart.box

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / ((x_ticks[-1] - x_ticks[0]) or 1)
        up = (y - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1)
        return round(left + across * (right - left), 1), round(bottom - up * (bottom - top), 1)

    drawn = []
    for line, cells in chosen:
        points = []
        for _, cell in cells.iterrows():
            x, y = at(cell["_cost"], cell[panel.score] * scale)
            setting = f", {cell['setting']}" if cell["setting"] else ""
            density = "" if cell["density_mean"] != cell["density_mean"] else f", density {cell['density_mean']:.3f}"
            text = (
                f"{line.label}{setting}, seed {int(cell['seed'])}: {panel.metric.label} "
                f"{cell[panel.score] * scale:.1f} {panel.metric.unit}, {cell['_cost']:.4g} {unit}{density}"
            )
            if unit != "GMACs":
                text += f", {cell[COST]:.4g} GMACs"
            points.append(Point(x, y, str(cell["cell_id"]), int(cell["seed"]), text))
        means = cells.groupby("setting", sort=False)[["_cost", panel.score]].mean().to_numpy()
        path = " ".join(f"{x},{y}" for x, y in (at(cost, score * scale) for cost, score in means))
        place = -1 if line.method == REFERENCE else known.place(line.method)
        drawn.append(Line(line.label, line.method, place, path if len(means) > 1 else "", points))
    return Chart(
        title, x_label, panel.metric.title,
        [(at(value, y_ticks[0])[0], f"{value:g}") for value in x_ticks],
        [(at(0, value)[1], f"{value:g}") for value in y_ticks], drawn,
    )  # fmt: skip
