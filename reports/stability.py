"""How stable a training run was, from the loss curve that its record keeps.

Two measures, both without a unit: spikes, the share of steps whose loss is more than twice the median of the steps
before; and roughness, the median change of the loss from one step to the next, over its median.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.store import has_file, read_table

__all__ = ["LOSSES", "roughness", "spikes", "stability"]

LOSSES = "losses.parquet"
_BEFORE = 20  # steps whose median a loss is compared with
_SPIKE = 2.0


def spikes(losses: np.ndarray) -> float:
    """Return the share of steps whose loss is more than twice the median of the 20 before; NaN for a short run."""
    if len(losses) <= _BEFORE:
        return float("nan")
    before = np.lib.stride_tricks.sliding_window_view(losses, _BEFORE)[:-1]
    return float(np.mean(losses[_BEFORE:] > _SPIKE * np.median(before, axis=1)))


def roughness(losses: np.ndarray) -> float:
    """Return the median absolute change between steps, over the median loss; NaN for a run of one step."""
    if len(losses) < 2:
        return float("nan")
    return float(np.median(np.abs(np.diff(losses))) / np.median(losses))


def stability(cells: pd.DataFrame) -> dict[str, Any]:
    """Return how stable the runs of some cells were: means over those that keep a loss curve, and how many diverged."""
    curves = [_losses(Path(folder)) for folder in cells.get("folder", ())]
    there = [curve for curve in curves if curve is not None and len(curve)]
    return {
        "diverged": int((cells["status"] == "diverged").sum()) if len(cells) else 0,
        "loss_curves": len(there),
        "spikes": float(np.mean([spikes(curve) for curve in there])) if there else None,
        "roughness": float(np.mean([roughness(curve) for curve in there])) if there else None,
    }


def _losses(folder: Path) -> np.ndarray | None:
    if not has_file(folder, LOSSES):
        return None
    return read_table(folder / LOSSES)["loss"].to_numpy(dtype=float)
