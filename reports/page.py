"""The page: all figures, tables, claims and records in one HTML file that needs nothing else.

Figures are SVG that the templates draw, with a small script beside them; everything is there without the script too.
Whatever comes from a record is escaped, in the page by the templates and in its data by `_json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.files import write_atomic
from reports.base import Output, Picture, Results
from reports.charts import HEIGHT, WIDTH, accuracy_chart
from reports.claims import check
from reports.comparison import compare_lines
from reports.comparison import table as comparison_table
from reports.curves import COST, Panel, panels
from reports.looks import keep_command, typical_cell
from reports.pictures import heat, uri
from reports.tables import Table, environment
from reports.timings import milliseconds
from reports.values import is_missing, plain

__all__ = ["NAME", "write_page"]

NAME = "index.html"
_MOST_COMPARED = 20  # lines of a panel: a comparison takes about a second
_HEADINGS = {"coco": "Object detection", "cityscapes": "Semantic segmentation", "imagenet": "Image classification"}


def write_page(results: Results, outputs: Sequence[Output], out: Path) -> Path:
    """Write ``index.html`` and return its path.

    Parameters
    ----------
    outputs
        The reports', whose tables the page shows.
    """
    known = panels(results)
    timed = milliseconds(results)
    sections = [_section(panel, results, timed) for panel in known]
    template = environment().get_template("page.html.j2")
    html = template.render(
        sections=sections,
        claims=[each.row() for each in check(results)],
        reports=[output for output in outputs if output.tables and output.name != "claims"],
        missing=[output for output in outputs if not output.tables],
        warnings=list(dict.fromkeys(line for output in outputs for line in output.warnings)),
        choices=_choices(known),
        cells=sum(len(panel.cells) for panel in known),
        data=_json({row["cell_id"]: row for panel in known for row in _records(panel, timed)}),
        width=WIDTH,
        height=HEIGHT,
        css=_text("page.css"),
        script=_text("page.js"),
    )
    return write_atomic(out / NAME, html)


def _section(panel: Panel, results: Results, timed: dict[str, float]) -> dict[str, Any]:
    counted = {
        str(cell["cell_id"]): float(cell[COST])
        for _, cell in panel.cells[panel.cells["status"] == "finished"].iterrows()
        if not is_missing(cell[COST])
    }
    heading = f"{_HEADINGS.get(panel.task, panel.task)}: {panel.data()}"
    charts = [
        accuracy_chart(panel, results.methods, counted, f"{heading}: accuracy over computation",
                       "Backbone GMACs per image, measured", "GMACs"),
        accuracy_chart(panel, results.methods, timed, f"{heading}: accuracy over measured time",
                       "Backbone milliseconds per image, measured on the engine", "ms"),
    ]  # fmt: skip
    return {
        "heading": heading,
        "task": panel.task,
        "scale": panel.scale,
        "charts": [chart for chart in charts if chart is not None],
        "untimed": charts[1] is None,
        "looks": _looks(panel),
        "unseen": keep_command("CELL"),
        "comparison": _comparison(panel),
        "failures": panel.failures(),
        "cells": _records(panel, timed),
        "metric": panel.metric.title,
    }


def _looks(panel: Panel) -> list[Picture]:
    """Return where a cell of each line computes, on the first image that its record keeps masks of."""
    found = [(line, look) for line in panel.main if (look := typical_cell(panel, line)) is not None]
    if not found:
        return []
    image = found[0][1].samplings[0]
    shown = [Picture(f"Image {image.identifier}", uri(image.image))]
    for line, look in found:
        seen = next((each for each in look.samplings if each.identifier == image.identifier), None)
        if seen is not None:
            density = seen.density(0)
            setting = f", {look.cell['setting']}" if look.cell["setting"] else ""
            text = f"{line.label}{setting}: {look.about(panel)}; {density.mean():.2f} computed here"
            shown.append(Picture(text, uri(heat(density)), line.method, plain(look.cell["seed"])))
    return shown


def _comparison(panel: Panel) -> Table | None:
    """Return every line against the first, the paper's method where it is there."""
    lines = list(panel.main)
    if len(lines) < 2 or len(lines) > _MOST_COMPARED:
        return None
    return comparison_table([compare_lines(panel, line, lines[0]) for line in lines[1:]])


_PROVENANCE = (
    "dataset", "dataset_fingerprint", "git_sha", "git_dirty", "saibench", "torch", "python", "cpu", "gpu", "isa",
    "threads", "started", "finished", "seconds_train", "seconds_eval", "overrides", "error", "folder",
)  # fmt: skip


def _records(panel: Panel, timed: dict[str, float]) -> list[dict[str, Any]]:
    """Return what the page says of each cell."""
    rows = []
    for _, cell in panel.cells.iterrows():
        score = cell[panel.score]
        there = {name: plain(cell[name]) for name in _PROVENANCE if name in cell and plain(cell[name])}
        parameters = {
            str(name).removeprefix("p_"): plain(cell[name])
            for name in panel.cells.columns
            if str(name).startswith("p_") and plain(cell[name])
        }
        rows.append({
            "cell_id": str(cell["cell_id"]), "task": panel.task, "scale": panel.scale, "method": str(cell["method"]),
            "label": str(cell["label"]), "setting": str(cell["setting"]), "seed": plain(cell["seed"]),
            "status": str(cell["status"]),
            "score": "not finished" if is_missing(score) else f"{score * panel.metric.scale:.1f}",
            "gmacs": "not counted" if is_missing(cell[COST]) else f"{cell[COST]:.4g}",
            "density": "not counted" if is_missing(cell["density_mean"]) else f"{cell['density_mean']:.3f}",
            "ms": f"{timed[cell['cell_id']]:.2f}" if cell["cell_id"] in timed else "not timed",
            "parameters": parameters, "provenance": there,
        })  # fmt: skip
    return rows


def _choices(known: Sequence[Panel]) -> dict[str, list[tuple[str, str]]]:
    """Return the filters: name to values and labels."""
    methods = {line.method: line.label for panel in known for line in (*panel.series, panel.reference) if line}
    seeds = sorted({int(seed) for panel in known for seed in panel.cells["seed"].dropna()})
    return {
        "task": [(task, task) for task in dict.fromkeys(panel.task for panel in known)],
        "scale": [(scale, scale) for scale in dict.fromkeys(panel.scale for panel in known)],
        "method": list(methods.items()),
        "seed": [(str(seed), str(seed)) for seed in seeds],
    }


def _json(value: Any) -> str:
    """Return JSON that cannot end the script element that holds it, nor hold a NaN."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
