"""Figure 3: one, two or three masks in a block. The paper draws the placements and says that two are best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmark.selection import Cells
from reports import ablation
from reports.base import Output, Results
from reports.curves import COST, Panel, panels, stems
from reports.drawing import entry, figure_style, legend_below, line_style, new_figure, place, save, write_head

TITLE = "Figure 3: placements of masks in a block"

CELLS = (Cells("coco", "stochastic", {"masks_per_block": (1, 2, 3)}),)

WHAT = ablation.Ablation(
    name="figure3",
    title=TITLE,
    task="coco",
    method="stochastic",
    parameter="masks_per_block",
    rows=(("(a) one mask", 1), ("(b) two masks", 2), ("(c) three masks", 3)),
    reference="(b) two masks",
    notes=("The paper prints no numbers for (a) and (c).",),
)


def build(results: Results, out: Path) -> Output:
    """Write the table, and a figure of the whole curves for each panel that has at least two to compare."""
    output = ablation.build(WHAT, results, out)
    found = panels(results, WHAT.task)
    files = [
        path for panel, stem in zip(found, stems(WHAT.name, found), strict=True) for path in _draw(panel, out, stem)
    ]
    return replace(output, files=[*output.files, *files])


def _draw(panel: Panel, out: Path, stem: str) -> list[Path]:
    lines = [(row.label, line) for row in ablation.find(WHAT, panel) if (line := ablation.line_of_row(panel, row))]
    if len(lines) < 2:
        return []
    with figure_style():
        figure = new_figure(3.6)
        axes = place(figure, 0.6, 0.5, 4.2, 2.4)
        write_head(axes, TITLE, [f"{panel.data(36)}; bars: ± standard deviation over seeds"])
        axes.set_xlabel("Backbone GMACs per image, measured")
        axes.set_ylabel(panel.metric.title)
        entries = []
        for index, (label, line) in enumerate(lines):
            style, points = line_style(index), line.points
            spread = points[f"{panel.score}_spread"].fillna(0) * abs(panel.metric.scale)
            axes.errorbar(points[COST], points[panel.score] * panel.metric.scale, yerr=spread, elinewidth=0.8, **style)
            entries.append(entry(label, style))
        axes.margins(0.08)
        legend_below(figure, 5.0, 0.6, entries, 1)
        return save(figure, out, stem)
