"""Figure 4: computation against accuracy, a curve a method.

One figure for each task, scale and data set in the stores, with the paper's own numbers in a panel of their
own: (a) COCO and (b) Cityscapes are the paper's; ImageNet, which the paper has only as Table 4, is drawn the
same way. A second figure and its table have the paper's points and ours together, as what each loses against its dense
network (`reports.beside`). A third table has all cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmark.selection import Cells
from benchmark.stats import find_metric
from reports import beside, published
from reports.base import Output, Results, nothing, provenance_line
from reports.curves import COST, Panel, Series, describe, panels, stems
from reports.drawing import (
    HEAD_LINE,
    REFERENCE_LINE,
    REFERENCE_STYLE,
    entry,
    figure_style,
    legend_below,
    legend_height,
    line_style,
    new_figure,
    place,
    save,
    write_below,
    write_head,
)
from reports.methods import REFERENCE, Methods
from reports.tables import Column, Table
from reports.values import decimals, is_missing, number, shorten, with_spread

TITLE = "Figure 4: computation against accuracy"

CELLS = (Cells("coco"), Cells("cityscapes"))

_NAME = "figure4"
_HEADINGS = {
    "coco": "Figure 4(a): object detection",
    "cityscapes": "Figure 4(b): semantic segmentation",
    "imagenet": "Image classification",
}
_PAPER_HEADINGS = {"coco": "The paper: COCO 2017", "cityscapes": "The paper: Cityscapes"}
_COST_LABEL = "Backbone GMACs per image, measured\n(GMACs are the paper's “GFLOPs”)"
_PAPER_COST_LABEL = "Backbone GMACs, by its convention\n(printed there as “GFLOPs”)"
_SHORT_LABEL = 28  # characters that fit in a column of the legend
_LONG_LABEL = 58  # characters that fit in a legend of one column
_LEAST_SPAN = 2.0  # per cent
_LINE = ("color", "linestyle", "linewidth")
_SOURCES = {"P": "paper", "R": "released code"}


def build(results: Results, out: Path) -> Output:
    """Draw a figure and write a table for each panel."""
    found = panels(results)
    if not found:
        return nothing(_NAME, TITLE, results, "saibench sweep coco")
    files: list[Path] = []
    tables: list[Table] = []
    texts: list[str] = []
    warnings = list(results.warnings)
    for panel, stem in zip(found, stems(_NAME, found), strict=True):
        warnings += panel.warnings
        if panel.main or panel.reference:
            files += _draw(panel, results.methods, out, stem)
        if panel.task in _PAPER_HEADINGS:
            rows = beside.beside(panel, _printed_points(panel.task), results.methods)
            heading = _HEADINGS[panel.task]
            files += beside.draw(panel, rows, results.methods, out, f"{stem}-beside", heading)
            tables.append(beside.table(heading, panel, rows))
            files += tables[-1].write(out, f"{stem}-beside")
            texts.append(tables[-1].markdown())
        cells = _table(panel)
        files += cells.write(out, stem)
        texts.append(cells.markdown())
    return Output(_NAME, TITLE, files, "\n".join(texts), warnings, tables)  # the page has a list of all cells


def _printed_points(task: str) -> list[beside.Printed]:
    """Return the paper's points, each against the dense network of the same table."""
    lines = published.load(task)
    dense = lines[lines["method"] == REFERENCE].iloc[0]
    return [
        beside.Printed(
            line["method"],
            describe({line["parameter"]: float(line["value"])}) if line["value"] else "",
            None if is_missing(line["gflops"]) else line["gflops"] / dense["gflops"],
            dense["score"] - line["score"],
            line["score"],
            line["source"],
        )
        for _, line in lines.iterrows()
    ]


# --------------------------------------------------------------------------------------------------- figure


def _draw(panel: Panel, known: Methods, out: Path, stem: str) -> list[Path]:
    """Draw our panel, the paper's beside it, legends below each, and what failed below all."""
    printed = published.load(panel.task) if panel.task in _PAPER_HEADINGS else None
    failed = _failed_lines(panel)
    lines = [*([panel.reference] if panel.reference else []), *panel.main]
    long = any(len(line.label) > _SHORT_LABEL for line in lines)
    columns = 1 if long else 3 if printed is None else 2
    head = _head_lines(panel, lines, narrow=printed is not None)
    top, height = 0.5 + (len(head) - 1) * HEAD_LINE / 72, 2.7
    below = top + height + 0.62
    theirs_entries = 0 if printed is None else printed.groupby(["method", printed["source"].str[0]]).ngroups
    foot = below + max(legend_height(len(lines), columns), legend_height(theirs_entries, 1)) + 0.1
    with figure_style():
        figure = new_figure(foot + 0.125 * len(failed) + 0.03)
        ours = place(figure, 0.55, top, 6.5 if printed is None else 3.75, height)
        legend_below(figure, 0.15, below, _draw_ours(ours, panel, known, head), columns)
        if printed is not None:
            theirs = place(figure, 5.0, top, 2.05, height)
            legend_below(figure, 4.6, below, _draw_paper(theirs, known, panel, printed, len(head)), 1)
        if failed:
            write_below(figure, 0.15, foot, "\n".join(failed), fontsize=6.5, color="#8A1C1C", linespacing=1.2)
        return save(figure, out, stem)


def _head_lines(panel: Panel, lines: Sequence[Series], narrow: bool) -> list[str]:
    """Return what stands below our title: the data and the seeds, in two lines beside the paper's panel."""
    seeds = max(int(line.points["seeds"].max()) for line in lines)
    if seeds == 1:
        return [panel.data(36)]
    parts = [panel.data(36), f"mean of up to {seeds} seeds, bars: ± standard deviation"]
    return parts if narrow else [", ".join(parts)]


def _draw_ours(axes: Axes, panel: Panel, known: Methods, head: Sequence[str]) -> list[Line2D]:
    write_head(axes, _HEADINGS.get(panel.task, panel.task), head)
    axes.set_xlabel(_COST_LABEL)
    axes.set_ylabel(panel.metric.title)
    entries = []
    if panel.reference:
        for height in panel.reference.points[panel.score]:
            axes.axhline(height * panel.metric.scale, **REFERENCE_LINE)
        entries.append(_points(axes, panel, panel.reference, dict(REFERENCE_STYLE), zorder=4))
    for line, style in zip(panel.main, _styles(known, [line.method for line in panel.main]), strict=True):
        entries.append(_points(axes, panel, line, style))
    _limit(axes)
    return entries


def _points(axes: Axes, panel: Panel, line: Series, style: dict[str, Any], zorder: float = 3) -> Line2D:
    points = line.points
    scale = panel.metric.scale
    repeated = points["seeds"].max() > 1
    axes.errorbar(
        points[COST],
        points[panel.score] * scale,
        xerr=points[f"{COST}_spread"].fillna(0) if repeated else None,
        yerr=points[f"{panel.score}_spread"].fillna(0) * abs(scale) if repeated else None,
        elinewidth=0.8,
        zorder=zorder,
        **style,
    )
    return entry(shorten(line.label, _LONG_LABEL), style)


def _limit(axes: Axes) -> None:
    """Start computation at zero, and keep tenths of a point from looking like a cliff."""
    axes.margins(y=0.08)
    axes.set_xlim(0, 1.07 * axes.dataLim.x1)
    low, high = axes.get_ylim()
    if high - low < _LEAST_SPAN:
        high += 0.1 * _LEAST_SPAN  # room for the markers
        low = high - _LEAST_SPAN
    if low < 0:  # no accuracy is
        low, high = -0.02 * _LEAST_SPAN, max(high, _LEAST_SPAN)
    axes.set_ylim(low, high)


def _styles(known: Methods, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Give each method its own colour, the same in every figure, and lines of one method dashes of their own."""
    return [line_style(known.place(name), methods[:index].count(name)) for index, name in enumerate(methods)]


def _draw_paper(axes: Axes, known: Methods, panel: Panel, printed: pd.DataFrame, head: int) -> list[Line2D]:
    """Draw the paper's panel, with as many lines below its title as ours has."""
    write_head(axes, _PAPER_HEADINGS[panel.task], ["as printed, not measured here", *[""] * (head - 1)])
    axes.set_xlabel(_PAPER_COST_LABEL)
    axes.set_ylabel(find_metric([panel.metric, *panel.metrics], printed["metric"].iloc[0]).title)
    entries = []
    for key, rows in printed.groupby(["method", printed["source"].str[0]], sort=False):
        method, source = map(str, key)
        drawn = rows.sort_values("gflops")
        style = dict(REFERENCE_STYLE) if method == REFERENCE else _styles(known, [method])[0]
        if source == "R":
            style |= {"markerfacecolor": "white", "markeredgecolor": style["color"], "markeredgewidth": 1.0}
            style |= {"linestyle": (0, (5, 2))}
        name = f"{known.label(method)}, {_SOURCES[source]}"
        if drawn["gflops"].isna().all():  # the paper says how accurate it is, but not how much it computes
            style |= {"linestyle": (0, (1, 1.2)), "marker": "", "linewidth": 1}
            axes.axhline(drawn["score"].iloc[0], **{key: style[key] for key in _LINE})
            name = f"{name} (GFLOPs not stated)"
        elif method == REFERENCE:
            axes.axhline(drawn["score"].iloc[0], **REFERENCE_LINE)
        axes.plot(drawn["gflops"], drawn["score"], zorder=3, **style)
        entries.append(entry(name, style))
    _limit(axes)
    return entries


def _failed_lines(panel: Panel) -> list[str]:
    """One line a failed or diverged cell, for under the figure."""
    return [shorten(line, 130) for line in panel.failures()]


# ---------------------------------------------------------------------------------------------------- table


def _table(panel: Panel) -> Table:
    digits = decimals(panel.cells[COST])
    rows = []
    for _, cell in panel.cells.iterrows():
        row = {str(name): None if is_missing(value) else value for name, value in cell.items() if name != "folder"}
        row["_measured"] = with_spread(cell[COST], cell["gmacs_measured_std"], digits)
        row["_front"] = "*" if cell["front"] else ""
        rows.append(row)
    columns = [
        Column("label", "Method"),
        Column("setting", "Setting"),
        Column("seed", "Seed", right=True),
        *(
            Column(f"metric_{metric.name}", metric.title, number(1 if metric.unit else 3, metric.scale), True)
            for metric in panel.metrics
        ),
        Column("_measured", "GMACs measured", right=True),
        Column("gmacs_paper", "GMACs paper", number(digits), True),
        Column("density_mean", "Density", number(3), True),
        Column("seconds_train", "Train s", number(0), True),
        Column("seconds_eval", "Eval s", number(0), True),
        Column("_front", "Front"),
        Column("status", "Status"),
        Column("cell_id", "Cell"),
    ]
    notes = [
        "GMACs measured: the backbone's, mean ± standard deviation over the images. Front: * where no other "
        "point has both less computation and higher accuracy. GMACs paper: the paper's convention for what it calls "
        "GFLOPs.",
        *panel.failures(),
        f"Provenance: {provenance_line(panel.cells)}.",
    ]
    heading = _HEADINGS.get(panel.task, panel.task)
    return Table(f"{heading}; {panel.data()}", columns, rows, notes)
