"""Timing a trained backbone with its own masks, image by image."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmark.engines import Engine, Floats
from benchmark.errors import SaibenchError
from benchmark.nn import ResNet, inference, residual_blocks
from benchmark.timing.clock import statistics


def time_cell(
    kind: type[Engine],
    backbone: ResNet,
    images: Sequence[tuple[str | int, Floats]],
    seed: int,
    threads: int,
    rounds: int,
) -> dict[str, Any]:
    """Time a trained backbone with its own masks against the same network without them, image by image."""
    if not images:
        raise SaibenchError("no images to time the cell on")
    bare = copy.deepcopy(backbone)
    for block in residual_blocks(bare):
        for part in ("mask1", "mask2", "mask3", "interpolation1", "interpolation2", "interpolation3"):
            setattr(block, part, None)
    sparse, dense = kind(backbone, threads=threads), kind(bare, threads=threads)
    rows = []
    for identifier, image in images:
        ratios, seconds, macs = [], [], (0, 0)
        for number in range(rounds + 1):
            start = time.perf_counter()
            without = dense(image)
            middle = time.perf_counter()
            with inference([identifier], seed):
                result = sparse(image)
            end = time.perf_counter()
            if number:
                ratios.append((middle - start) / (end - middle))
                seconds.append(end - middle)
            macs = (without.macs, result.macs)
        density = float(np.mean([(mask > 0).mean() for mask in result.masks.values()])) if result.masks else 1.0
        rows.append(
            {
                "image": identifier,
                "density": density,
                "gmacs": macs[1] / 1e9,
                **statistics(seconds),
                "speedup": float(np.median(ratios)),
                "speedup_measured_macs": macs[0] / macs[1],
            }
        )
    speedups = [row["speedup"] for row in rows]
    promised = [row["speedup_measured_macs"] for row in rows]
    return {
        "images": rows,
        "speedup": float(np.mean(speedups)),
        "speedup_measured_macs": float(np.mean(promised)),
        "share": float(np.mean(speedups) / np.mean(promised)),
    }
