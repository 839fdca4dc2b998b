"""Timing a trained backbone with its own masks, image by image."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmark.engines import Engine, Floats, find
from benchmark.errors import SaibenchError
from benchmark.nn import ResNet, inference, residual_blocks
from benchmark.store import provenance, timestamp
from benchmark.timing.clock import statistics


def empty_report(cell: dict[str, Any], images: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """Return the report of a cell before it is timed: what it will be found by.

    Parameters
    ----------
    cell
        What reports say of the cell: ``cell_id``, and what else is known.
    images
        How many of its validation images to time.
    rounds
        Rounds that are timed, after one that is not.
    threads
        Of the engine; None for one a core.
    """
    kind, started = find(), timestamp()
    threads = kind.max_threads() if threads is None else threads
    return {
        "machine": {**provenance(started), "threads": threads, **kind.hardware()},
        "settings": {"rounds": rounds, "images": images},
        "complete": False,
        **{name: [] for name in ("backbone", "layers", "break_even", "peers")},
        "cell": cell,
    }


def time_cell(
    report: dict[str, Any],
    backbone: ResNet,
    images: Sequence[tuple[str | int, Floats]],
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Time a trained backbone with its own masks against the same network without them, and complete its report.

    Parameters
    ----------
    report
        The cell's empty report.
    backbone
        The trained backbone.
    images
        ``(identifier, (3, H, W) float32)``: what the backbone reads.
    seed
        Of the cell's noise.
    progress
        Called with images done, images in all, and what runs next.

    Returns
    -------
    dict
        The report: its ``cell`` has ``images``, one row each, the means over them, and ``masks_in_pytorch``, how many
        masks PyTorch decides.

    Raises
    ------
    EngineRefusal
        If the engine cannot run the backbone.
    SaibenchError
        Without images.
    """
    if not images:
        raise SaibenchError("no images to time the cell on")
    kind, threads = find(), report["machine"]["threads"]
    bare = copy.deepcopy(backbone)
    for block in residual_blocks(bare):
        for part in ("mask1", "mask2", "mask3", "interpolation1", "interpolation2", "interpolation3"):
            setattr(block, part, None)
    engines = kind(backbone, threads=threads), kind(bare, threads=threads)
    rows = []
    for number, (identifier, image) in enumerate(images):
        if progress is not None:
            progress(number, len(images), f"image {identifier}")
        rows.append(_time_image(*engines, identifier, image, seed, report["settings"]["rounds"]))
    mean = {name: float(np.mean([row[name] for row in rows])) for name in _MEANS}
    report["cell"]["masks_in_pytorch"] = len(engines[0].masks_in_pytorch)
    report["cell"] |= {"images": rows, **mean, "share": mean["speedup"] / mean["speedup_measured_macs"]}
    report["complete"] = True
    return report


_MEANS = ("density", "gmacs", "gmacs_executed", "seconds", "seconds_dense", "speedup", "speedup_measured_macs")
"""What a cell's report has as means over its images."""


def _time_image(
    sparse: Engine, dense: Engine, identifier: str | int, image: Floats, seed: int, rounds: int
) -> dict[str, Any]:
    """Time one image, dense and sparse in each round."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        without = dense(image)
        middle = time.perf_counter()
        with inference([identifier], seed):
            result = sparse(image)
        times.append((middle - start, time.perf_counter() - middle))
    seconds = np.array(times[1:])  # the first is not timed: buffers grow
    masks = result.masks.values()
    return {
        "image": identifier,
        "density": float(np.mean([(mask > 0).mean() for mask in masks])) if masks else 1.0,
        "gmacs": result.macs / 1e9,
        "gmacs_executed": result.executed / 1e9,
        **statistics(seconds[:, 1]),
        "seconds_dense": float(np.median(seconds[:, 0])),
        "speedup": float(np.median(seconds[:, 0] / seconds[:, 1])),
        "speedup_measured_macs": without.macs / result.macs,
    }
