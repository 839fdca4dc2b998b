"""Table 4: ImageNet, drop of accuracy against the dense network, computation and speed-up.

The paper's rows stand in a table of their own. No single baseline satisfies all the speed-ups that the paper
prints, so computation and speed-up are two columns; ours is 1 − GMACs / GMACs of the dense network, measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.selection import Cells
from benchmark.stats import over_seeds
from reports import published
from reports.base import Output, Results, decimals, is_missing, nothing, number, provenance_line, with_spread
from reports.curves import COST, Panel, describe, panels, stems
from reports.methods import REFERENCE, Methods
from reports.tables import Column, Table

TITLE = "Table 4: classification, drop of accuracy and computation"

CELLS = (Cells("imagenet"),)

_NAME = "table4"
_METRICS = {"top1": "metric_top1", "top5": "metric_top5"}
_COSTS = [COST, "gmacs_paper", "density_mean"]


def build(results: Results, out: Path) -> Output:
    """Write a table for each scale and data set of ImageNet, and the paper's."""
    found = panels(results, "imagenet")
    if not found:
        return nothing(_NAME, TITLE, results, "saibench sweep imagenet")
    printed = _paper_table(results.methods)
    files = printed.write(out, f"{_NAME}-paper")
    tables: list[Table] = []
    warnings = list(results.warnings)
    for panel, stem in zip(found, stems(_NAME, found), strict=True):
        table = _table(panel, warnings)
        files += table.write(out, stem)
        tables.append(table)
    tables.append(printed)
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
        where = f"imagenet, scale {panel.scale}, {panel.dataset}"
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
    return Table(f"Table 4: {panel.dataset}, scale {panel.scale}, measured here", columns, rows, notes)


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


def _stated(value: Any) -> str:
    return "–" if is_missing(value) else f"{value:.2f}"


def _paper_table(known: Methods) -> Table:
    rows = []
    for _, line in published.load("table4").iterrows():
        setting = describe({line["parameter"]: float(line["value"])}) if line["parameter"] else ""
        without = "without interpolation" if line["interpolation"] == "zeros" else ""
        row = {"label": known.label(line["method"]), "setting": ", ".join(filter(None, [setting, without]))}
        rows.append(row | {str(name): value for name, value in line.items()})
    columns = [
        Column("label", "Method"),
        Column("setting", "Setting"),
        Column("kind", "Type"),
        Column("top1_drop", "top-1 drop (%)", _stated, True),
        Column("top5_drop", "top-5 drop (%)", _stated, True),
        Column("gflops", "GFLOPs (MACs)", _stated, True),
        Column("speedup_percent", "Speed-up (%)", number(1), True),
        Column("source", "Source"),
    ]
    return Table("Table 4 as the paper prints it: ResNet-34 on ImageNet, not measured here", columns, rows)
