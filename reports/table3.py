"""Table 3: strides of the grid prior, and how stable training is with and without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark.selection import Cells, Shift
from reports import ablation
from reports.base import Output, Results
from reports.stability import stability
from reports.tables import Column
from reports.values import is_missing, number

TITLE = "Table 3: strides of the grid prior"

CELLS = (
    Cells("coco", "stochastic", {"grid_stride": (Shift(-2), Shift(0), Shift(2), 0)}, point=ablation.POINT),
)  # fmt: skip


def _curve(digits: int, scale: float) -> Callable[[Any], str]:
    show = number(digits, scale)
    return lambda value: "no loss curve" if is_missing(value) else show(value)


WHAT = ablation.Ablation(
    name="table3",
    title=TITLE,
    task="coco",
    method="stochastic",
    parameter="grid_stride",
    rows=(
        ("stride − 2", lambda usual: usual - 2),
        ("the scale's stride", lambda usual: usual),
        ("stride + 2", lambda usual: usual + 2),
        ("no grid prior", 0),
    ),
    reference="the scale's stride",
    printed="table3",
    printed_values={"stride − 2": "9", "the scale's stride": "11", "stride + 2": "13", "no grid prior": "0"},
    extra=stability,
    columns=(
        Column("diverged", "Diverged", right=True),
        Column("spikes", "Loss spikes (% of steps)", _curve(2, 100), True),
        Column("roughness", "Loss roughness (%)", _curve(1, 100), True),
    ),
    notes=(
        "The paper's strides are 9, 11, 13 and none; a smaller scale's are as far from its own. A spike is a step "
        "whose loss is more than twice the median of the 20 before; roughness is the median change between steps over "
        "the median loss.",
    ),
)


def build(results: Results, out: Path) -> Output:
    """Write the table."""
    return ablation.build(WHAT, results, out)
