"""The floor of a network under a method: what it computes where nothing is sampled, as a share of the dense network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmark.flops.command import FlopsRequest, count_flops

PARTS = ("stem", "shortcuts", "masks", "other")


def count_floor(request: FlopsRequest) -> dict[str, Any]:
    """Count the backbone at density 0 and dense.

    Parameters
    ----------
    request
        With a method whose masks depend on the image; its density and scope are put aside.

    Returns
    -------
    dict
        ``floor``, the share; ``parts``, of the same share what the stem, projections of shortcuts, masks and all else
        compute; ``gmacs`` of the dense backbone.

    Raises
    ------
    UsageError
        As `count_flops`.
    """
    empty = count_flops(replace(request, density=0.0, scope="backbone"))
    dense = count_flops(
        replace(request, method=None, parameters=None, density=None, scope="backbone", backbone=empty["backbone"])
    )
    whole = dense["gmacs"] * 1e9
    parts = dict.fromkeys(PARTS, 0.0)
    for row in empty["layers"]:
        parts[_part(row)] += row["macs"] / whole
    return {"floor": sum(parts.values()), "parts": parts, "gmacs": dense["gmacs"]}


def _part(row: dict[str, Any]) -> str:
    if row["kind"] == "mask":
        return "masks"
    if ".downsample." in row["layer"]:
        return "shortcuts"
    return "other" if any(f"layer{stage}." in row["layer"] for stage in (1, 2, 3, 4)) else "stem"
