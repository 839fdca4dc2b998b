"""Measured time of trained cells: what ``saibench time --checkpoint`` and ``--cells`` leave in ``<store>/timing``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from reports.base import Results

__all__ = ["cells", "milliseconds"]


def cells(results: Results) -> dict[str, dict[str, Any]]:
    """Return the newest timing of each cell by its id: its report, whose ``cell`` has a row for each image."""
    newest: dict[str, dict[str, Any]] = {}
    for store in results.stores:
        for path in sorted((store / "timing").glob("*.json")):
            try:
                run = json.loads(path.read_text(encoding="utf-8"))
                cell, finished = run.get("cell") or {}, str(run["machine"]["finished"])
                name, images = cell.get("cell_id"), cell.get("images") or []
                value = float(np.mean([row["seconds"] for row in images])) if images else float("nan")
                known = str(newest[name]["machine"]["finished"]) if name in newest else ""
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # `reports.table5` warns of a file that is no timing
            if isinstance(name, str) and np.isfinite(value) and finished >= known:
                newest[name] = run
    return newest


def milliseconds(results: Results) -> dict[str, float]:
    """Return the backbone's mean milliseconds per image of each timed cell, by its id; the newest timing counts."""
    return {
        name: 1000 * float(np.mean([row["seconds"] for row in run["cell"]["images"]]))
        for name, run in cells(results).items()
    }
