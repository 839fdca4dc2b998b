"""Table 2: what unsampled positions are filled with."""

from __future__ import annotations

from pathlib import Path

from benchmark.selection import Cells
from reports import ablation
from reports.base import Output, Results

TITLE = "Table 2: interpolating, filling zeros, reusing features"

CELLS = (Cells("coco", "stochastic", {"fill": ("zeros", "reuse", "rbf")}, point=ablation.POINT),)

WHAT = ablation.Ablation(
    name="table2",
    title=TITLE,
    task="coco",
    method="stochastic",
    parameter="fill",
    rows=(("fill zeros", "zeros"), ("reuse features", "reuse"), ("interpolation", "rbf")),
    reference="interpolation",
    printed="table2",
    notes=(
        "For filling zeros the paper's table and its text disagree; both numbers are given, the table's first. All "
        "rows have one γ here; the paper chose it so that accuracies are near.",
    ),
)


def build(results: Results, out: Path) -> Output:
    """Write the table."""
    return ablation.build(WHAT, results, out)
