"""Measured time of trained cells: what ``saibench time --checkpoint`` leaves in ``<store>/timing``."""

from __future__ import annotations

import json

import numpy as np

from reports.base import Results

__all__ = ["milliseconds"]


def milliseconds(results: Results) -> dict[str, float]:
    """Return the backbone's mean milliseconds per image of each timed cell, by its id; the newest timing counts."""
    newest: dict[str, tuple[str, float]] = {}
    for store in results.stores:
        for path in sorted((store / "timing").glob("*.json")):
            try:
                run = json.loads(path.read_text(encoding="utf-8"))
                cell, finished = run.get("cell") or {}, str(run["machine"]["finished"])
                name, images = cell.get("cell_id"), cell.get("images") or []
                value = 1000 * float(np.mean([row["seconds"] for row in images])) if images else float("nan")
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # `reports.table5` warns of a file that is no timing
            if isinstance(name, str) and np.isfinite(value) and finished >= newest.get(name, ("", 0.0))[0]:
                newest[name] = finished, value
    return {name: value for name, (_, value) in newest.items()}
