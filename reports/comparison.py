"""Curves from the records compared with each other: finds the cells, leaves the statistics to `benchmark.stats`.

The command ``saibench compare``, the claims and the page ask here. A curve is a line of a panel (`reports.curves`), by
its label or its method's name.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import SaibenchError
from benchmark.stats import Comparison, NoOverlap, Outcomes, Run, compare, read_outcomes
from benchmark.store import has_file, read_table
from reports.base import Results
from reports.curves import COST, Panel, Series, panels
from reports.tables import Column, Table
from reports.values import number, plain

__all__ = ["Pair", "compare_lines", "comparisons", "find_line", "run_of", "runs_of", "table"]


@dataclass(frozen=True)
class Pair:
    """Two lines of a panel and how they compare: ``a``, seen from ``b``."""

    panel: Panel
    a: Series
    b: Series
    result: Comparison

    def row(self) -> dict[str, Any]:
        """Return a flat row for tables and JSON; gaps in points of the metric's unit."""
        result, scale = self.result, self.panel.metric.scale

        def points(value: float | None) -> float | None:
            return None if value is None else value * scale

        bounds = [points(result.low), points(result.high)]
        low, high = bounds if scale > 0 else reversed(bounds)

        return {
            "task": self.panel.task,
            "scale": self.panel.scale,
            "dataset": self.panel.dataset,
            "metric": self.panel.metric.name,
            "a": self.a.label,
            "b": self.b.label,
            "verdict": result.verdict,
            "gap": points(result.gap),
            "gap_low": low,
            "gap_high": high,
            "rate": result.rate,
            "rate_low": result.rate_low,
            "rate_high": result.rate_high,
            "p": result.p,
            "seeds": list(result.seeds),
            "resampled": result.resampled,
            "gmacs_low": result.cost_low,
            "gmacs_high": result.cost_high,
            "reason": result.reason,
            "refused": list(result.refused),
        }


def comparisons(
    results: Results, names: Sequence[str], task: str | None = None, scale: str | None = None
) -> list[Pair]:
    """Compare methods with each other, each pair once, wherever two of them have cells of one task and data set.

    Parameters
    ----------
    names
        Two methods or more, or labels of lines: ``perforated`` is all of its lines, ``Perforated (grid)`` is one.

    Raises
    ------
    SaibenchError
        If nothing can be compared; the message says what to run.
    """
    pairs: list[Pair] = []
    seen: set[str] = set()
    for panel in panels(results, task):
        if scale is not None and panel.scale != scale:
            continue
        found = [(name, find_line(panel, name)) for name in dict.fromkeys(names)]
        seen |= {name for name, lines in found if lines}
        for (_, first), (_, second) in itertools.combinations(found, 2):
            pairs += [compare_lines(panel, a, b) for a in first for b in second if a is not b]
    if not pairs:
        missing = [name for name in names if name not in seen] or list(names)
        where = ", ".join(map(str, results.stores))
        raise SaibenchError(
            f"{where}: no finished cells of {' and '.join(missing)} on one task and data set; "
            f"make some with: saibench sweep {task or 'coco'} --methods {','.join(names)} --seeds 0,1,2,3,4,5"
        )
    return pairs


def find_line(panel: Panel, name: str) -> list[Series]:
    """Return the lines of a label or, where there is none, of a method: its plain one, or else all."""
    lines = [line for line in (*panel.series, panel.reference) if line is not None and len(line.points)]
    labelled = [line for line in lines if line.label == name]
    of_method = [line for line in lines if line.method == name]
    usual = [line for line in of_method if line.usual]
    return labelled or usual or of_method


def compare_lines(panel: Panel, a: Series, b: Series) -> Pair:
    """Compare two lines of a panel."""
    try:
        result = compare(runs_of(panel, a), runs_of(panel, b))
    except NoOverlap as error:
        result = Comparison.refuse([], str(error))
    return Pair(panel, a, b, result)


def runs_of(panel: Panel, line: Series) -> list[Run]:
    """Return a line's finished cells, with outcomes and computation of single images where the records keep them."""
    needed = ["setting", "seed", panel.score, COST, "folder", "finished"]  # a record has a hundred fields
    cells = panel.cells.loc[panel.cells["cell_id"].isin(line.points["ids"].explode()), needed]
    return [run_of(cell, panel.score) for _, cell in cells.iterrows()]


def run_of(cell: pd.Series, score: str) -> Run:
    """Return a finished cell for `benchmark.stats`, given the column of its score."""
    outcomes, costs = _images(Path(cell["folder"]), str(cell["finished"]))
    return Run(cell["setting"], int(cell["seed"]), float(cell[score]), float(cell[COST]), outcomes, costs)


@functools.lru_cache(maxsize=4096)
def _images(folder: Path, finished: str) -> tuple[Outcomes | None, np.ndarray | None]:
    """Return a record's outcomes and GMACs of single images; read once, unless the record is replaced by a later."""
    del finished  # part of the key only
    images = folder / "images.parquet"
    if not has_file(folder, images.name):
        return None, None
    table = read_table(images)
    if "gmacs_backbone" in table:  # a record of an earlier version
        table["macs_backbone"] = (1e9 * table["gmacs_backbone"]).round()
    if not {"image_id", "macs_backbone"} <= set(table.columns):
        return None, None
    table = table.sort_values("image_id")  # the same order in every cell: images are paired
    return read_outcomes(folder, table["image_id"]), table["macs_backbone"].to_numpy(dtype=float) / 1e9


def table(pairs: Sequence[Pair]) -> Table:
    """Return the comparisons of one panel as a table."""
    panel = pairs[0].panel
    rows = [pair.row() for pair in pairs]
    for row in rows:
        row["_gap"] = _with_interval(row["gap"], row["gap_low"], row["gap_high"], number(2))
        row["_rate"] = _with_interval(row["rate"], row["rate_low"], row["rate_high"], number(1, 100))
        row["_range"] = "" if row["gmacs_low"] is None else f"{row['gmacs_low']:.4g} to {row['gmacs_high']:.4g}"
        row["_seeds"] = len(row["seeds"])
        row["_why"] = "; ".join(dict.fromkeys([row["reason"], *row["refused"]]))
    others = list(dict.fromkeys(str(row["b"]) for row in rows))
    columns = [
        Column("a", "Method"),
        *([Column("b", "against")] if len(others) > 1 else []),
        Column("verdict", "Verdict"),
        Column("_gap", f"{panel.metric.label} gap (points, 95 %)", right=True),
        Column("_rate", "Computation at equal accuracy (%, 95 %)", right=True),
        Column("_range", "over GMACs", right=True),
        Column("_seeds", "Seeds", plain, True),
        Column("p", "p", number(3), True),
        Column("_why", "Why"),
    ]
    notes = [
        f"Gap: mean difference of {panel.metric.label} over the common range of log-computation, the mean over shared "
        "seeds; the interval resamples images and seeds, the same for both. Computation at equal accuracy: Bjøntegaard "
        "delta rate. p: exact sign-flip test over seeds.",
    ]
    heading = f"Comparison with {others[0]}" if len(others) == 1 else "Comparison"
    return Table(f"{heading}: {panel.task}, {panel.data()}", columns, rows, notes)


def _with_interval(value: float | None, low: float | None, high: float | None, show: Any) -> str:
    if value is None:
        return "–"
    return show(value) if low is None else f"{show(value)} [{show(low)}, {show(high)}]"
