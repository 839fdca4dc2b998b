"""Figure 3: one, two or three masks in a block. The paper draws the placements and says that two are best."""

from __future__ import annotations

from pathlib import Path

from benchmark.selection import Cells
from reports import ablation
from reports.base import Output, Results

TITLE = "Figure 3: placements of masks in a block"

CELLS = (Cells("coco", "stochastic", {"masks_per_block": (1, 2, 3)}),)

WHAT = ablation.Ablation(
    name="figure3",
    title=TITLE,
    task="coco",
    method="stochastic",
    parameter="masks_per_block",
    rows=(("(a) one mask", 1), ("(b) two masks", 2), ("(c) three masks", 3)),
    reference="(b) two masks",
    notes=("The paper prints no numbers for (a) and (c).",),
)


def build(results: Results, out: Path) -> Output:
    """Write the table."""
    return ablation.build(WHAT, results, out)
