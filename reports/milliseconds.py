"""Accuracy against milliseconds: each curve over the engine's measured time, beside the same cells over GMACs.

This is the figure that decides whether a saving is one. It reads what ``saibench time --cells`` leaves in
``<store>/timing``: a trained cell's own masks on validation images. Other runtimes' dense times stand in it where a
timing of the same machine has them for a network of as many GMACs as the dense cell's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from reports import timings
from reports.base import Output, Results, nothing, provenance_line
from reports.curves import COST, Panel, Series, panels, stems
from reports.drawing import (
    entry,
    figure_style,
    legend_below,
    legend_height,
    line_style,
    new_figure,
    place,
    save,
    write_head,
)
from reports.methods import REFERENCE, Methods
from reports.tables import Column, Table
from reports.values import decimals, is_missing, number, shorten, with_spread

TITLE = "Accuracy against milliseconds"

_NAME = "milliseconds"
_COMMAND = "saibench time --cells"
#: Dense networks whose GMACs differ by no more are one network.
_SAME_NETWORK = 0.01
_PEER_STYLE = {"color": "#777777", "linestyle": "none", "markersize": 6, "markerfacecolor": "white"}
_PEER_MARKERS = "PXdh8"
_IN_PYTORCH = "†"


def build(results: Results, out: Path) -> Output:
    """Write a figure and a table for each panel; a table that says what to run, where no cell was timed."""
    found = panels(results)
    if not found:
        return nothing(_NAME, TITLE, results, "saibench sweep coco, then " + _COMMAND)
    timed, in_pytorch = timings.milliseconds(results), timings.in_pytorch(results)
    files: list[Path] = []
    tables: list[Table] = []
    for panel, stem in zip(found, stems(_NAME, found), strict=True):
        rows = _rows(panel, timed, in_pytorch)
        peers = _peers(panel, results, timed)
        tables.append(_table(panel, rows, peers, results))
        files += tables[-1].write(out, stem)
        if any(row["timed"] for row in rows):
            files += _draw(panel, rows, peers, results.methods, out, stem)
    text = "\n".join(table.markdown() for table in tables)
    return Output(_NAME, TITLE, files, text, list(results.warnings), tables)


# ---------------------------------------------------------------------------------------------------------- points


def _rows(panel: Panel, timed: dict[str, float], in_pytorch: dict[str, int]) -> list[dict[str, Any]]:
    """Return a row for each point of the lines that methods are compared by; means over the cells that were timed."""
    lines = [*([panel.reference] if panel.reference else []), *panel.main]
    rows = [_row(panel, line, cells, timed, in_pytorch) for line in lines for cells in _points(panel, line)]
    dense = next((row for row in rows if row["method"] == REFERENCE and row["timed"]), None)
    for row in rows:
        there = dense is not None and bool(row["timed"])
        row["gmacs_share"] = row["gmacs"] / dense["gmacs"] if dense is not None and there else None
        row["ms_share"] = row["ms"] / dense["ms"] if dense is not None and there else None
        row["realised"] = row["gmacs_share"] / row["ms_share"] if there and row is not dense else None
    return rows


def _points(panel: Panel, line: Series) -> list[pd.DataFrame]:
    cells = panel.cells[panel.cells["cell_id"].isin(line.points["ids"].explode())]
    return [rows for _, rows in cells.groupby("setting", sort=False)]


def _row(
    panel: Panel, line: Series, cells: pd.DataFrame, timed: dict[str, float], in_pytorch: dict[str, int]
) -> dict[str, Any]:
    here = cells[cells["cell_id"].isin(timed.keys())]
    used = here if len(here) else cells
    ms = here["cell_id"].map(timed).astype(float)
    scores = used[panel.score] * panel.metric.scale
    return {
        "method": line.method, "label": line.label, "setting": str(cells["setting"].iloc[0]),
        "seeds": len(cells), "timed": len(here), "score": float(scores.mean()),
        "score_spread": float(scores.std()) if len(used) > 1 else None, "gmacs": float(used[COST].mean()),
        "ms": float(ms.mean()) if len(here) else None, "ms_spread": float(ms.std()) if len(here) > 1 else None,
        "masks_in_pytorch": max((in_pytorch[name] for name in here["cell_id"]), default=None),
    }  # fmt: skip


def _peers(panel: Panel, results: Results, timed: dict[str, float]) -> list[dict[str, Any]]:
    """Return other runtimes' dense times: of the newest timing of a network like the dense cell's."""
    if panel.reference is None or not set(panel.reference.points["ids"].explode()) & set(timed):
        return []
    gmacs = float(panel.reference.points[COST].iloc[0])
    found: tuple[str, list[dict[str, Any]]] = ("", [])
    for _, run in timings.read(results).networks:
        dense = timings.dense_row(run)
        if dense is not None and abs(dense["gmacs"] / gmacs - 1) <= _SAME_NETWORK:
            peers = [{"peer": row["peer"], "ms": 1000 * row["seconds"]} for row in run["peers"] if row.get("seconds")]
            found = max(found, (str(run["machine"]["finished"]), peers), key=lambda pair: pair[0])
    return found[1]


# ----------------------------------------------------------------------------------------------------------- table


def _table(panel: Panel, rows: Sequence[dict[str, Any]], peers: Sequence[dict[str, Any]], results: Results) -> Table:
    digits = decimals([row["gmacs"] for row in rows])
    command = f"{_COMMAND} --store {results.stores[0]}"
    shown: list[dict[str, Any]] = []
    if not any(row["timed"] for row in rows):  # one line says it, not one a setting
        rows = [{**dict.fromkeys(rows[0]), "label": "All methods", "timed": 0}] if rows else []
    for row in rows:
        texts = {
            "_score": with_spread(row["score"], row["score_spread"], 1),
            "_ms": with_spread(row["ms"], row["ms_spread"], 2) if row["timed"] else "not run",
            "status": "" if row["timed"] else f"not run: {command}",
        }
        shown.append({**row, **texts})
    shown += [
        {"method": peer["peer"], "label": f"Dense on {peer['peer']}", "ms": peer["ms"], "_ms": number(2)(peer["ms"])}
        for peer in peers
    ]
    columns = [
        Column("label", "Method"),
        Column("setting", "Setting"),
        Column("seeds", "Seeds", right=True),
        Column("timed", "Timed", right=True),
        Column("_score", panel.metric.title, right=True),
        Column("gmacs", "GMACs", number(digits), True),
        Column("gmacs_share", "of dense", number(2), True),
        Column("_ms", "Milliseconds", right=True),
        Column("ms_share", "of dense", number(2), True),
        Column("realised", "Share realised", number(2), True),
        Column("masks_in_pytorch", "Masks in PyTorch", number(0), True),
        Column("status", "Status"),
    ]
    notes = [
        "Milliseconds: the backbone's on the project's engine, mean over validation images, ± standard deviation over "
        "seeds; each image's time without masks, in the median over all cells of the same network, over the cell's "
        "speed-up within rounds: the machine's speed drifts between cells. Share realised: the real speed-up over the "
        "ratio of measured GMACs; 1 is all of it. A row with timed cells is of these alone.",
        "Masks in PyTorch: how many of the network's masks the engine has no kernel for, so that it waits for PyTorch. "
        "On small images that is most of a cell's time, and says little about the method.",
    ]
    if any(row["timed"] for row in rows) and not peers:
        notes.append("Other runtimes: not run at this network's size: saibench time --peers all --backbone … --size …")
    notes.append(f"Provenance: {provenance_line(panel.cells)}.")
    return Table(f"{TITLE}: {panel.task}, {panel.data()}", columns, shown, notes)


# ---------------------------------------------------------------------------------------------------------- figure


def _draw(
    panel: Panel,
    rows: Sequence[dict[str, Any]],
    peers: Sequence[dict[str, Any]],
    known: Methods,
    out: Path,
    stem: str,
) -> list[Path]:
    """Draw the timed points twice: over GMACs and over milliseconds."""
    drawn = [row for row in rows if row["timed"]]
    labels = list(dict.fromkeys(row["label"] for row in drawn))
    with figure_style():
        figure = new_figure(4.0 + legend_height(len(labels) + len(peers), 2))
        left, right = place(figure, 0.55, 0.5, 3.0, 2.7), place(figure, 4.1, 0.5, 3.0, 2.7)
        entries: list[Line2D] = []
        for axes, key, text in ((left, "gmacs", "Backbone GMACs per image"), (right, "ms", "Backbone ms per image")):
            entries = _draw_lines(axes, key, drawn, labels, known)
            axes.set_xlabel(f"{text}, measured")
            axes.set_xlim(0, 1.07 * max(row[key] for row in drawn))
            axes.margins(y=0.08)
        left.set_ylabel(panel.metric.title)
        write_head(left, TITLE, [f"{panel.task}: {panel.data(36)}"])
        if any(row["masks_in_pytorch"] for row in drawn):
            right.set_title(f"{_IN_PYTORCH} masks that the engine leaves to PyTorch", fontsize=7.5, fontweight="normal")
        entries += _draw_peers(right, drawn, peers)
        legend_below(figure, 0.3, 3.75, entries, 2)
        return save(figure, out, stem)


def _draw_lines(
    axes: Axes, key: str, rows: Sequence[dict[str, Any]], labels: Sequence[str], known: Methods
) -> list[Line2D]:
    entries = []
    seen: list[str] = []
    for label in labels:
        points = sorted((row for row in rows if row["label"] == label), key=lambda row: float(row[key]))
        method = points[0]["method"]
        style = line_style(known.place(method), seen.count(method))
        seen.append(method)
        if method == REFERENCE:
            style = {"color": "black", "marker": "*", "markersize": 9, "linestyle": "none"}
        bars = [0.0 if is_missing(row["score_spread"]) else float(row["score_spread"]) for row in points]
        axes.errorbar(
            [row[key] for row in points], [row["score"] for row in points], yerr=bars if np.any(bars) else None,
            elinewidth=0.8, zorder=3, **style,
        )  # fmt: skip
        mark = f" {_IN_PYTORCH}" if any(row["masks_in_pytorch"] for row in points) else ""
        entries.append(entry(shorten(label, 34) + mark, style))
    return entries


def _draw_peers(axes: Axes, rows: Sequence[dict[str, Any]], peers: Sequence[dict[str, Any]]) -> list[Line2D]:
    """Draw other runtimes' dense times at the dense network's accuracy."""
    dense = next((row for row in rows if row["method"] == REFERENCE), None)
    entries = []
    for peer, marker in zip(peers, _PEER_MARKERS, strict=False):
        style: dict[str, Any] = {**_PEER_STYLE, "marker": marker}
        if dense is not None:
            axes.plot(peer["ms"], dense["score"], zorder=2, **style)
            axes.set_xlim(0, max(axes.get_xlim()[1], 1.07 * peer["ms"]))
        entries.append(entry(f"Dense on {peer['peer']}", style))
    return entries
