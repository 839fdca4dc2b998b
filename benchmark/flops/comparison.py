"""Writes the table of docs/flops.md: both conventions for the same densities.

    python -m benchmark.flops.comparison METHOD docs/flops.md

replaces what stands between the two marks in the file; without a file, it prints the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmark.files import write_atomic
from benchmark.flops.command import FlopsRequest, count_flops

BEGIN, END = "<!-- begin: python -m benchmark.flops.comparison -->", "<!-- end -->"

#: What the paper's GFLOPs imply, equal in all layers (FIDELITY), by gamma; None is the dense model.
DENSITIES = {"baseline": None, "γ 0.02": 0.493, "γ 0.05": 0.357, "γ 0.1": 0.264, "γ 0.2": 0.182}

HEADER = (
    "| ResNet-101, 992×1664 | density | paper | measured, backbone | of it bilinear sampling | of it interpolation "
    "| measured, with neck and heads |"
)


def table(method: str) -> str:
    """Return the table of a method with learned masks in Markdown, in GMACs."""
    return "\n".join([HEADER, "| --- " + "| ---: " * 6 + "|", *_lines(method)])


def _lines(masked: str) -> Iterator[str]:
    for name, density in DENSITIES.items():
        method = None if density is None else masked
        paper = count(method, density, "paper", "backbone")["gmacs"]
        backbone = count(method, density, "measured", "backbone")
        everything = count(method, density, "measured", "all")["gmacs"]
        parts = [
            sum(layer["macs"] for layer in backbone["layers"] if layer["kind"] == kind) / 1e9
            for kind in ("bilinear", "interpolation")
        ]
        numbers = [paper, backbone["gmacs"], *parts, everything]
        shown = " | ".join(f"{number:.1f}" for number in numbers)
        yield f"| {name} | {'1' if density is None else density} | {shown} |"


def count(
    method: str | None,
    density: float | None,
    convention: Literal["paper", "measured"],
    scope: Literal["all", "backbone"],
) -> dict[str, Any]:
    """Count ResNet-101 of the detector, dense or with masks of a density."""
    return count_flops(FlopsRequest("coco", method=method, density=density, convention=convention, scope=scope))


def main(arguments: Sequence[str]) -> None:
    """Print the table of the named method, or put it into the named file."""
    method, *files = arguments
    if not files:
        print(table(method))
        return
    path = Path(files[0])
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    write_atomic(path, f"{before}{BEGIN}\n{table(method)}\n{END}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
