"""Table 4: ImageNet, drop of accuracy against the dense network, computation and speed-up.

The paper's rows stand beside what ours drops at the same share of the dense computation (`reports.beside`). No single
baseline satisfies all the speed-ups that the paper prints; a printed point's share is 1 − its speed-up. In the table of
our own points computation and speed-up are two columns: 1 − GMACs / GMACs of the dense network, measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.selection import Cells
from benchmark.stats import over_seeds
from reports import beside, published
from reports.base import Output, Results, nothing, provenance_line
from reports.curves import COST, Panel, describe, panels, stems
from reports.methods import REFERENCE
from reports.tables import Column, Table
from reports.values import decimals, number, with_spread

TITLE = "Table 4: classification, drop of accuracy and computation"

CELLS = (Cells("imagenet"),)

_NAME = "table4"
_METRICS = {"top1": "metric_top1", "top5": "metric_top5"}
#: The paper's method in its row without interpolation.
_WITHOUT = "stochastic_without_interpolation"
_COSTS = [COST, "gmacs_paper", "density_mean"]


def build(results: Results, out: Path) -> Output:
    """Write two tables for each scale and data set of ImageNet, beside the paper's and of all points, and a figure."""
    found = panels(results, "imagenet")
    if not found:
        return nothing(_NAME, TITLE, results, "saibench sweep imagenet")
    files: list[Path] = []
    tables: list[Table] = []
    warnings = list(results.warnings)
    for panel, stem in zip(found, stems(_NAME, found), strict=True):
        rows = beside.beside(panel, _printed_points(), results.methods)
        files += beside.draw(panel, rows, results.methods, out, f"{stem}-beside", TITLE)
        tables.append(beside.table("Table 4: top-1", panel, rows, digits=2))
        files += tables[-1].write(out, f"{stem}-beside")
        tables.append(_table(panel, warnings))
        files += tables[-1].write(out, stem)
    text = "\n".join(table.markdown() for table in tables)
    return Output(_NAME, TITLE, files, text, warnings, tables)


def _table(panel: Panel, warnings: list[str]) -> Table:
    cells = panel.cells[panel.cells["status"] == "finished"].copy()
    for column in _METRICS.values():
        if column not in cells:
            cells[column] = float("nan")
    points = over_seeds(cells, ["method", "label", "setting"], [*_METRICS.values(), *_COSTS])
    dense = points[points["method"] == REFERENCE]
    if dense.empty:
        where = f"imagenet, {panel.data()}"
        warnings.append(f"{where}: no finished cell of {REFERENCE}, so no drops and speed-ups; run it")
    rows = [_row(point, dense.iloc[0] if len(dense) else None) for _, point in points.iterrows()]
    digits = decimals(points[COST])
    columns = [
        Column("label", "Method"),
        Column("setting", "Setting"),
        Column("seeds", "Seeds", right=True),
        Column("top1", "top-1 (%)", number(2, 100), True),
        Column("_top1_drop", "top-1 drop (%)", right=True),
        Column("_top5_drop", "top-5 drop (%)", right=True),
        Column("gmacs_measured", "GFLOPs (MACs), measured", number(digits), True),
        Column("gmacs_paper", "GFLOPs (MACs), paper's convention", number(digits), True),
        Column("speedup_percent", "Speed-up (%)", number(1), True),
        Column("density", "Density", number(3), True),
    ]
    notes = [
        "Drops against the dense network of the same data and scale, ± standard deviation over seeds where there are "
        "several. Speed-up: 1 - GMACs / GMACs of the dense network, measured.",
        *panel.failures(),
        f"Provenance: {provenance_line(panel.cells)}.",
    ]
    return Table(f"Table 4: {panel.data()}, measured here", columns, rows, notes)


def _row(point: pd.Series, dense: pd.Series | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "method": point["method"],
        "label": point["label"],
        "setting": point["setting"],
        "seeds": int(point["seeds"]),
    }
    for name, column in _METRICS.items():
        drop = None if dense is None or point["method"] == REFERENCE else 100 * (dense[column] - point[column])
        spread = 100 * point[f"{column}_spread"]
        row |= {name: point[column], f"{name}_drop": drop, f"{name}_drop_spread": spread}
        row[f"_{name}_drop"] = with_spread(drop, spread, 2)
    return row | {
        "gmacs_measured": point[COST],
        "gmacs_paper": point["gmacs_paper"],
        "speedup_percent": None if dense is None else 100 * (1 - point[COST] / dense[COST]),
        "density": point["density_mean"],
    }


def _printed_points() -> list[beside.Printed]:
    points = []
    for _, line in published.load("table4").iterrows():
        without = line["interpolation"] == "zeros"
        setting = describe({line["parameter"]: float(line["value"])}) if line["parameter"] else ""
        method, share = _WITHOUT if without else line["method"], 1 - line["speedup_percent"] / 100
        points.append(beside.Printed(method, setting, share, line["top1_drop"], None, line["source"]))
    return points
