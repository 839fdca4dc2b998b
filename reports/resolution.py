"""The study of resolution: gaps between methods over positions that an object spans, at three shares of computation.

Its cells are those of ``studies/resolution.py``: detection on scenes whose data set's name says pixels, the period of
the detail and the median side of objects. Cells that share these and the changes to the recipe are one setting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmark.stats import Measured, NoOverlap, Run, measure, over_seeds_alone, read_curves, verdict
from reports.base import Output, Results, nothing
from reports.comparison import run_of
from reports.curves import COST, Panel, panels
from reports.drawing import entry, figure_style, legend_below, line_style, new_figure, place, save, write_head
from reports.methods import REFERENCE
from reports.tables import Column, Table
from reports.values import number

TITLE = "Resolution: where sampling begins to pay"

#: Shares of the dense network's computation at which curves are read. The lowest lies above the floor of `mini`.
SHARES = (0.5, 0.65, 0.8)
STRIDE = 16  # pixels to a position of the map on which most blocks work
METHOD = "stochastic"
#: The paper's known order: its claims, and the method that lies below.
BELOW = {"deterministic_gumbel": 2, "relu_gating": 3, "uniform": 5, "equal_interval": 16}

_NAME = "resolution"
_SCENES = re.compile(r"-(?P<pixels>\d+)px-period(?P<period>[\d.]+)-side(?P<side>\d+)-")
_COLUMNS = (
    Column("setting", "Setting"),
    Column("positions", "Positions an object spans", number(1), True),
    Column("pair", "Pair"),
    Column("share", "Share of dense", number(2), True),
    Column("gap", "Gap, points", number(2), True),
    Column("interval", "95 %", right=True),
    Column("seeds", "Seeds", right=True),
    Column("verdict", "Verdict"),
)


@dataclass(frozen=True)
class Setting:
    """Where methods are compared.

    Attributes
    ----------
    pixels, period, side
        Of images, of the detail, and of the median object, in pixels.
    network, steps
        Name of the backbone, and steps of training; "" and 0 where they are the scale's own.
    """

    pixels: int
    period: float
    side: int
    network: str
    steps: int

    @property
    def positions(self) -> float:
        """How many positions of a map of stride 16 the median object's side spans."""
        return self.side / STRIDE

    @property
    def line(self) -> str:
        """What settings of one curve along resolution share."""
        network = f"network {self.network}" if self.network else "the scale's network"
        steps = f"{self.steps} steps" if self.steps else "the scale's steps"
        return f"period {self.period:g}, {network}, {steps}"


def build(results: Results, out: Path) -> Output:
    """Draw one figure, a panel a pair of methods, and write the table behind it."""
    rows: list[dict[str, Any]] = []
    warnings = list(results.warnings)
    for panel in panels(results, "coco"):
        found = _SCENES.search(panel.dataset)
        if found is None:
            continue
        warnings += panel.failures()
        for changes, cells in panel.cells.groupby(_column(panel, "overrides"), sort=True):
            rows += _rows(_setting(found, str(changes)), panel, cells)
    if not rows:
        return nothing(_NAME, TITLE, results, "python studies/resolution.py --store results/runs")
    rows.sort(key=lambda row: (row["line"], row["positions"], row["pair"], row["share"]))
    table = Table(TITLE, _COLUMNS, rows)
    with figure_style():
        files = save(_draw(rows), out, _NAME)
    files += table.write(out, _NAME)
    return Output(_NAME, TITLE, files, table.markdown(), warnings, [table])


def _column(panel: Panel, name: str) -> pd.Series:
    if name in panel.cells:
        return panel.cells[name].fillna("")
    return pd.Series("", index=panel.cells.index)


def _setting(found: re.Match[str], changes: str) -> Setting:
    told = json.loads(changes) if changes else {}
    return Setting(
        int(found["pixels"]), float(found["period"]), int(found["side"]), str(told.get("backbone", "")),
        int(told.get("train.steps", 0)),
    )  # fmt: skip


def _rows(setting: Setting, panel: Panel, cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Compare the method with those that the paper has below it, at each share of the dense network's computation."""
    cells = cells[cells["status"].eq("finished") & cells[panel.score].notna() & cells[COST].notna()]
    dense = cells.loc[cells["method"] == REFERENCE, COST]
    if dense.empty:
        return []
    runs = {
        str(method): [run_of(cell, panel.score) for _, cell in group.iterrows()]
        for method, group in cells.groupby("method")
    }
    rows = []
    for other in BELOW:
        for share in SHARES:
            found = _gap(runs.get(METHOD, []), runs.get(other, []), share * float(dense.mean()))
            _, says, reason = verdict(found)
            there = bool(found.seeds)
            rows.append(
                {
                    "setting": f"{setting.pixels} pixels, {setting.line}",
                    "line": setting.line,
                    "positions": setting.positions,
                    "other": other,
                    "pair": f"stochastic − {other.replace('_', ' ')} (claim {BELOW[other]})",
                    "share": share,
                    "gap": found.value * panel.metric.scale if there else None,
                    "low": None if found.low is None else found.low * panel.metric.scale,
                    "high": None if found.high is None else found.high * panel.metric.scale,
                    "interval": _interval(found, panel.metric.scale),
                    "seeds": len(found.seeds),
                    "verdict": f"{says}: {reason}" if there else "curves do not reach there",
                }
            )
    return rows


def _interval(found: Measured, scale: float) -> str:
    return "–" if found.low is None or found.high is None else f"{found.low * scale:.2f} to {found.high * scale:.2f}"


def _gap(a: Sequence[Run], b: Sequence[Run], at: float) -> Measured:
    """Return how much higher curve A lies than B at a computation; no seeds where one of them does not reach it."""

    def statistic(cost_a: np.ndarray, value_a: np.ndarray, cost_b: np.ndarray, value_b: np.ndarray) -> np.ndarray:
        there = np.full(cost_a.shape[1], at)
        return read_curves(cost_a, value_a, there) - read_curves(cost_b, value_b, there)

    if not a or not b:
        return over_seeds_alone([])
    try:
        return measure(a, b, statistic)
    except NoOverlap:
        return over_seeds_alone([])


def _draw(rows: Sequence[dict[str, Any]]) -> Figure:
    lines = list(dict.fromkeys(row["line"] for row in rows))
    height, width, gap = 1.7, 2.0, 0.35
    left, top = 0.6, 0.55
    figure = new_figure(top + len(BELOW) * (height + 0.75) + 0.1 * len(lines) + 0.3, left + len(SHARES) * (width + gap))
    styles = {line: line_style(index) for index, line in enumerate(lines)}
    for i, other in enumerate(BELOW):
        for j, share in enumerate(SHARES):
            axes = place(figure, left + j * (width + gap), top + i * (height + 0.75), width, height)
            write_head(
                axes,
                f"stochastic − {other.replace('_', ' ')}" if j == 0 else "",
                [f"at {share:.2f} of the dense computation"],
            )
            axes.axhline(0, color="black", linewidth=0.8)
            for line in lines:
                points = [
                    row for row in rows
                    if (row["line"], row["other"], row["share"]) == (line, other, share) and row["gap"] is not None
                ]  # fmt: skip
                if not points:
                    continue
                x, y = ([row[key] for row in points] for key in ("positions", "gap"))
                axes.plot(x, y, **styles[line])
                for row in points:
                    if row["low"] is not None and row["high"] is not None:
                        axes.plot(
                            [row["positions"]] * 2,
                            [row["low"], row["high"]],
                            color=styles[line]["color"],
                            linewidth=0.8,
                        )
            axes.margins(x=0.1)
            if not any(row["gap"] is not None for row in rows if (row["other"], row["share"]) == (other, share)):
                axes.set(xticks=[], yticks=[])
                axes.text(0.5, 0.5, "no two curves reach there", transform=axes.transAxes, ha="center", va="center")
            if j == 0:
                axes.set_ylabel("AP gap, points")
            if i == len(BELOW) - 1:
                axes.set_xlabel("positions an object spans")
    bottom = top + len(BELOW) * (height + 0.75) - 0.1
    legend_below(figure, left, bottom, [entry(line, styles[line]) for line in lines], 2)
    return figure
