"""Which kept masks are shown: cells of the stores whose records hold them, and pairs at equal computation.

A record keeps the masks of its first validation images (`benchmark.sampling`). Nothing is drawn here; see
`reports.pictures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import StoreError
from benchmark.sampling import SAMPLING, Sampling, read
from benchmark.store import has_file, read_file
from reports.curves import COST, Panel, Series

__all__ = [
    "DETERMINISTIC",
    "STOCHASTIC",
    "Look",
    "Pair",
    "equal_computation",
    "keep_command",
    "look_of",
    "typical_cell",
]

STOCHASTIC, DETERMINISTIC = "stochastic", "deterministic_gumbel"


@dataclass(frozen=True)
class Look:
    """A finished cell, and what its record keeps of its masks.

    Attributes
    ----------
    cell
        A row of `reports.curves.Panel.cells`.
    samplings
        One an image; none where the record keeps no masks.
    problem
        Why there are none; "" where there are.
    """

    cell: pd.Series
    samplings: Sequence[Sampling]
    problem: str = ""

    @property
    def cost(self) -> float:
        """GMACs of the backbone, measured, mean per image."""
        return float(self.cell[COST])

    def score(self, panel: Panel) -> float:
        """The panel's main metric, in its unit."""
        return float(self.cell[panel.score]) * panel.metric.scale

    def about(self, panel: Panel) -> str:
        """Say what the cell reaches at which computation."""
        return f"{panel.metric.label} {self.score(panel):.1f} {panel.metric.unit}, {self.cost:.4g} GMACs"


@dataclass(frozen=True)
class Pair:
    """A deterministic and a stochastic cell of one seed, at the computation that their curves come nearest at."""

    deterministic: Look
    stochastic: Look


def keep_command(cell: str) -> str:
    """Return what adds the masks of a trained cell to its record; its weights must lie beside it."""
    return f"saibench show IMAGE --checkpoint {cell} --keep"


def look_of(cell: pd.Series) -> Look:
    """Return a cell with what its record keeps."""
    folder = Path(str(cell["folder"]))
    if not has_file(folder, SAMPLING):
        return Look(cell, [], f"its record keeps no masks: {keep_command(str(cell['cell_id']))}")
    try:
        return Look(cell, read(folder / SAMPLING, read_file(folder, SAMPLING)))
    except (OSError, StoreError) as error:
        return Look(cell, [], str(error))


def finished(panel: Panel, method: str) -> pd.DataFrame:
    """Return the finished cells of a method's usual line, or of its only one."""
    lines = [line for line in panel.main if line.method == method]
    line = next((line for line in lines if line.usual), lines[0] if len(lines) == 1 else None)
    return panel.cells.iloc[:0] if line is None else _of_line(panel, line)


def equal_computation(panel: Panel) -> Pair | None:
    """Return the two cells of a shared seed whose computation differs least; those that keep masks come first.

    Returns
    -------
    Pair or None
        None where one of the methods has no finished cell, or they share no seed.
    """
    a, b = finished(panel, DETERMINISTIC), finished(panel, STOCHASTIC)
    pairs = [(one, other) for _, one in a.iterrows() for _, other in b.iterrows() if one["seed"] == other["seed"]]
    if not pairs:
        return None

    def order(pair: tuple[Any, Any]) -> tuple[bool, float, int]:
        kept = all(_keeps(cell) for cell in pair)
        return not kept, abs(float(np.log(pair[0][COST] / pair[1][COST]))), int(pair[0]["seed"])

    one, other = min(pairs, key=order)
    return Pair(look_of(one), look_of(other))


def typical_cell(panel: Panel, line: Series) -> Look | None:
    """Return a line's cell that keeps masks and computes most nearly half of what the dense network does."""
    cells = _of_line(panel, line)
    kept = [cell for _, cell in cells.iterrows() if _keeps(cell)]
    dense = panel.reference.points[COST].mean() if panel.reference else panel.cells[COST].max()
    looks = (look_of(cell) for cell in sorted(kept, key=lambda cell: (abs(cell[COST] - dense / 2), cell["seed"])))
    return next((look for look in looks if look.samplings), None)


def _of_line(panel: Panel, line: Series) -> pd.DataFrame:
    cells = panel.cells[panel.cells["cell_id"].isin(line.points["ids"].explode())]
    return cells[cells["status"].eq("finished") & cells[COST].gt(0) & cells[panel.score].notna()]


def _keeps(cell: pd.Series) -> bool:
    return has_file(Path(str(cell["folder"])), SAMPLING)
