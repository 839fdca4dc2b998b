"""Table 1: interpolation kernels. Sparse-loss weights are searched until accuracy equals the RBF kernel's."""

from __future__ import annotations

from pathlib import Path

from benchmark.selection import Cells
from reports import ablation
from reports.base import Output, Results

TITLE = "Table 1: interpolation kernels at equal accuracy"

CELLS = (
    Cells("coco", "stochastic", {"fill": ("rbf",)}, point=ablation.POINT),
    Cells(
        "coco", "stochastic", {"fill": ("convolution", "average")}, point=ablation.POINT, equal_to={"fill": "rbf"}
    ),
)  # fmt: skip

WHAT = ablation.Ablation(
    name="table1",
    title=TITLE,
    task="coco",
    method="stochastic",
    parameter="fill",
    rows=(("average pooling", "average"), ("plain convolution", "convolution"), ("RBF", "rbf")),
    reference="RBF",
    printed="table1",
    equal=True,
    notes=("γ of the other kernels is the one tried whose accuracy is nearest to the RBF kernel's.",),
)


def build(results: Results, out: Path) -> Output:
    """Write the table."""
    return ablation.build(WHAT, results, out)
