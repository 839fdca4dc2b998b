"""Each interpolation's λ beside the sparsity of the layer that it fills, from the records' layer tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from benchmark.store import has_file, read_table

__all__ = ["correlation", "read"]

_INTERPOLATION = re.compile(r"(?P<block>.*)\.interpolation(?P<place>\d)$")


def read(cells: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each interpolation with a λ.

    Parameters
    ----------
    cells
        Finished cells: rows of `reports.base.Results.cells`.

    Returns
    -------
    pandas.DataFrame
        ``cell_id, seed, block, place`` (1 after the first convolution, 2 after the later ones), ``depth`` (0 for the
        first block, 1 for the last), ``sparsity`` (share of positions not computed) and ``lambda``. No rows where the
        records keep no λ.
    """
    rows: list[dict[str, Any]] = []
    for _, cell in cells.iterrows():
        folder = Path(cell["folder"])
        if has_file(folder, "layers.parquet"):
            layers = read_table(folder / "layers.parquet")
            if {"layer", "density", "lambda"} <= set(layers.columns):
                rows += [{"cell_id": cell["cell_id"], "seed": cell["seed"], **row} for row in _rows(layers)]
    columns = ["cell_id", "seed", "block", "place", "depth", "sparsity", "lambda"]
    return pd.DataFrame(rows, columns=columns).dropna()


def _rows(layers: pd.DataFrame) -> list[dict[str, Any]]:
    densities = dict(zip(layers["layer"], layers["density"], strict=True))
    found = [(match, lam) for name, lam in zip(layers["layer"], layers["lambda"], strict=True)
             if (match := _INTERPOLATION.match(str(name)))]  # fmt: skip
    blocks = list(dict.fromkeys(match["block"] for match, _ in found))
    return [
        {
            "block": match["block"],
            "place": int(match["place"]),
            "depth": blocks.index(match["block"]) / max(1, len(blocks) - 1),
            "sparsity": 1 - _density(densities, match["block"], int(match["place"])),
            "lambda": lam,
        }
        for match, lam in found
    ]


def _density(densities: Mapping[str, float], block: str, place: int) -> float:
    """Return the density of the last convolution below an interpolation: the mask's own, which it fills."""
    names = ("conv1",) if place == 1 else ("conv3", "conv2") if place == 2 else ("conv3",)
    return next((densities[f"{block}.{name}"] for name in names if f"{block}.{name}" in densities), float("nan"))


def correlation(points: pd.DataFrame) -> float:
    """Return Spearman's rank correlation of λ and sparsity; NaN for fewer than three points or for a constant."""
    if len(points) < 3 or points["lambda"].nunique() < 2 or points["sparsity"].nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(points["sparsity"], points["lambda"]).statistic)
