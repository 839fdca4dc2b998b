"""Writes the table of docs/flops.md: both conventions for the same densities.

    python -m benchmark.flops.comparison docs/flops.md

replaces what stands between the two marks in the file; without a file, it prints the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from benchmark.files import write_atomic
from benchmark.flops.command import FlopsRequest, count_flops

BEGIN, END = "<!-- begin: python -m benchmark.flops.comparison -->", "<!-- end -->"

#: What the paper's GFLOPs imply, equal in all layers (FIDELITY), by gamma; None is the dense model.
DENSITIES = {"baseline": None, "γ 0.02": 0.493, "γ 0.05": 0.357, "γ 0.1": 0.264, "γ 0.2": 0.182}

HEADER = (
    "| ResNet-101, 992×1664 | density | paper | measured, backbone | of it bilinear sampling | of it interpolation "
    "| measured, with neck and heads |"
)


def table() -> str:
    """Return the table in Markdown, in GMACs."""
    return "\n".join([HEADER, "| --- " + "| ---: " * 6 + "|", *_lines()])


def _lines() -> Iterator[str]:
    for name, density in DENSITIES.items():
        paper = _count(density, "paper", "backbone")["gmacs"]
        backbone = _count(density, "measured", "backbone")
        everything = _count(density, "measured", "all")["gmacs"]
        parts = [
            sum(layer["macs"] for layer in backbone["layers"] if layer["kind"] == kind) / 1e9
            for kind in ("bilinear", "interpolation")
        ]
        numbers = [paper, backbone["gmacs"], *parts, everything]
        shown = " | ".join(f"{number:.1f}" for number in numbers)
        yield f"| {name} | {'1' if density is None else density} | {shown} |"


def _count(density: float | None, convention: Literal["paper", "measured"], scope: Literal["all", "backbone"]) -> dict:
    method = None if density is None else "stochastic"
    return count_flops(FlopsRequest("coco", method=method, density=density, convention=convention, scope=scope))


def main(arguments: Sequence[str]) -> None:
    """Print the table, or put it into the named file."""
    if not arguments:
        print(table())
        return
    path = Path(arguments[0])
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    write_atomic(path, f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
