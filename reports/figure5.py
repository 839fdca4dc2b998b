"""Figure 5: the RBF kernel's λ against sparsity, in three tasks; deeper layers are darker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.selection import Cells
from benchmark.stats import Measured, over_seeds_alone
from reports import lambdas
from reports.base import Output, Results, nothing, provenance_line
from reports.curves import Panel, panels
from reports.drawing import entry, figure_style, legend_below, new_figure, place, save, write_head
from reports.tables import Column, Table
from reports.values import number, shorten, slug

TITLE = "Figure 5: λ against sparsity"
METHOD = "stochastic"

CELLS = tuple(Cells(task, METHOD) for task in ("coco", "cityscapes", "imagenet"))

_NAME = "figure5"
_TASKS = {"coco": "(a) Object detection", "cityscapes": "(b) Segmentation", "imagenet": "(c) Classification"}
_PLACES = {1: ("o", "after conv1"), 2: ("s", "after conv2, conv3"), 3: ("^", "after conv3")}
_COLUMNS = (
    Column("task", "Task"),
    Column("dataset", "Data"),
    Column("place", "Interpolation"),
    Column("seeds", "Seeds", right=True),
    Column("points", "Points", right=True),
    Column("lambda", "Mean λ", number(3), True),
    Column("sparsity", "Mean sparsity", number(3), True),
    Column("_correlation", "Rank correlation, 95 %", right=True),
    Column("paper", "The paper"),
)
#: What the paper sees in its figure, by task; it prints no numbers (Section 4.6).
_PAPER = {
    "coco": "strongly negative, drawn only",
    "cityscapes": "strongly negative, drawn only",
    "imagenet": "none, drawn only",
}


def build(results: Results, out: Path) -> Output:
    """Draw one figure and write one table a scale, with a panel for each task; and one each for data that was given."""
    found = [(panel, _points(panel)) for panel in panels(results)]
    found = [(panel, points) for panel, points in found if len(points)]
    if not found:
        return nothing(_NAME, TITLE, results, f"saibench sweep coco --cells {_NAME}")
    order = list(_TASKS)
    found.sort(key=lambda pair: order.index(pair[0].task) if pair[0].task in order else len(order))
    files: list[Path] = []
    tables: list[Table] = []
    for scale in dict.fromkeys(panel.scale for panel, _ in found):
        here = [pair for pair in found if pair[0].scale == scale]
        parts = [[pair for pair in here if pair[0].embedded is embedded] for embedded in (True, False)]
        for part, end in zip(filter(None, parts), ("", "-data"), strict=False):
            stem = f"{_NAME}-{slug(scale)}{end}"
            with figure_style():
                files += save(_draw(part), out, stem)
            tables.append(_table(scale, part))
            files += tables[-1].write(out, stem)
    text = "\n".join(table.markdown() for table in tables)
    return Output(_NAME, TITLE, files, text, list(results.warnings), tables)


def _points(panel: Panel) -> pd.DataFrame:
    line = next((line for line in panel.series if line.method == METHOD and line.usual), None)
    ids = [] if line is None else list(line.points["ids"].explode())
    return lambdas.read(panel.cells[panel.cells["cell_id"].isin(ids)])


def _draw(found: Sequence[tuple[Panel, pd.DataFrame]]) -> Figure:
    left, width, gap = 0.72, 1.8, 0.55
    figure = new_figure(3.3, left + len(found) * (width + gap))
    for index, (panel, points) in enumerate(found):
        axes = place(figure, left + index * (width + gap), 0.6, width, 1.9)
        _scatter(axes, panel, points)
        if index == 0:
            axes.set_ylabel("λ of the RBF kernel")
    styles = [{"marker": marker, "linestyle": "none", "color": "#555555"} for marker, _ in _PLACES.values()]
    names = [name for _, name in _PLACES.values()]
    there = sorted({int(value) for _, points in found for value in points["place"]})
    handles = [entry(names[value - 1], styles[value - 1]) for value in there]
    legend_below(figure, left, 3.05, handles, len(handles))
    return figure


def _scatter(axes: Axes, panel: Panel, points: pd.DataFrame) -> None:
    data = [] if panel.embedded else [shorten(panel.dataset, 30)]
    note = f"rank correlation {lambdas.correlation(points):.2f}, {len(points)} points"
    write_head(axes, _TASKS.get(panel.task, panel.task), [*data, note])
    for value, rows in points.groupby("place"):
        shades = np.repeat([[0.0, 0.27, 0.45, 1.0]], len(rows), axis=0)
        shades[:, 3] = 0.15 + 0.85 * rows["depth"]  # as in the paper, deeper is darker
        axes.scatter(
            rows["sparsity"], rows["lambda"], c=shades, marker=_PLACES[int(str(value))][0], s=14, linewidths=0, zorder=3
        )
    axes.set_xlabel("Sparsity (share not computed)")


def _table(scale: str, found: Sequence[tuple[Panel, pd.DataFrame]]) -> Table:
    rows = []
    for panel, points in found:
        groups = [("all", points), *((_PLACES[int(str(key))][1], rows) for key, rows in points.groupby("place"))]
        for name, part in groups:
            by_seed = [lambdas.correlation(rows) for _, rows in part.groupby("seed")]
            found_here = over_seeds_alone(by_seed)
            rows.append({
                "task": panel.task, "dataset": panel.dataset, "place": name, "seeds": part["seed"].nunique(),
                "points": len(part), "lambda": part["lambda"].mean(), "sparsity": part["sparsity"].mean(),
                "correlation": found_here.value, "correlation_low": found_here.low,
                "correlation_high": found_here.high, "correlations": by_seed, "_correlation": _text(found_here),
                "paper": _PAPER.get(panel.task, "not in the paper") if name == "all" else "–",
            })  # fmt: skip
    cells = pd.concat([panel.cells for panel, _ in found])
    notes = [
        "A point is one interpolation of one cell, over all sparse-loss weights. The correlation is Spearman's, the "
        "mean over seeds and its interval over them; of one seed there is none. The paper prints no numbers: it sees a "
        "strong negative correlation in (a) and (b), none in (c), and a smaller λ after conv1.",
        f"Provenance: {provenance_line(cells)}.",
    ]
    given = "" if any(panel.embedded for panel, _ in found) else ", data that was given"
    return Table(f"{TITLE}; scale {scale}{given}", _COLUMNS, rows, notes)


def _text(found: Measured) -> str:
    if np.isnan(found.value):
        return "none: constant, or fewer than three points"
    return f"{found.value:.2f}" if found.low is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
