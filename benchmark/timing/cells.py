"""Timing a trained backbone with its own masks, image by image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmark.engines import Engine, Floats, Result, find
from benchmark.errors import SaibenchError
from benchmark.nn import ResNet, inference, residual_blocks
from benchmark.store import provenance, timestamp
from benchmark.timing.clock import Steps, Variant, disagreement, middle_parts, statistics, time_rounds
from benchmark.timing.energy import Meter
from benchmark.timing.record import named_engine

IMAGES = 100
"""Validation images that are timed by default: the 99th percentile of fewer is their slowest."""

SHARES = (50, 90, 99)
"""Percentiles over images."""

_MEANS = ("density", "gmacs", "gmacs_executed", "seconds", "seconds_dense", "seconds_masks")
"""What a cell's report has as means over its images."""

_PARTS = ("mask1", "mask2", "mask3", "interpolation1", "interpolation2", "interpolation3")
"""What a block has beside the dense one's parts."""


def empty_report(
    cell: dict[str, Any], images: int, rounds: int, threads: int | None, engine: str = "cpu"
) -> dict[str, Any]:
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
    engine
        Name of the engine.
    """
    kind, started = find(engine), timestamp()
    threads = kind.max_threads() if threads is None else threads
    return {
        "machine": {**provenance(started), "threads": threads, **kind.hardware(), "energy": Meter().source},
        "settings": {"rounds": rounds, "images": images, **named_engine(engine)},
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
        The report. Its ``cell`` has ``images``, one row each; the means over them; ``percentiles`` over them of each
        image's median and best round; and ``masks_in_pytorch``, how many masks PyTorch decides.

    Raises
    ------
    EngineRefusal
        If the engine cannot run the backbone.
    SaibenchError
        Without images.
    """
    if not images:
        raise SaibenchError("no images to time the cell on")
    kind, threads = find(report["settings"].get("engine", "cpu")), report["machine"]["threads"]
    engines = kind(backbone, threads=threads), kind(without_masks(backbone), threads=threads)
    rows = []
    for number, (identifier, image) in enumerate(images):
        if progress is not None:
            progress(number, len(images), f"image {identifier}")
        rows.append(_time_image(*engines, identifier, image, seed, report["settings"]["rounds"]))
    report["cell"] |= {"images": rows, "masks_in_pytorch": len(engines[0].masks_in_pytorch), **summary(rows)}
    report["complete"] = True
    return report


def without_masks(backbone: ResNet) -> ResNet:
    """Return a copy that computes every position."""
    bare = copy.deepcopy(backbone)
    for block in residual_blocks(bare):
        for part in _PARTS:
            setattr(block, part, None)
    return bare


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means and percentiles over images, and the ratios of these means."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in _MEANS}
    energy = {
        name: float(np.mean([row[name] for row in rows])) if rows[0][name] is not None else None
        for name in ("joules", "joules_dense")
    }
    gmacs_dense = float(np.mean([row["gmacs"] * row["speedup_measured_macs"] for row in rows]))
    speedup, promised = mean["seconds_dense"] / mean["seconds"], gmacs_dense / mean["gmacs"]
    return {
        **mean,
        **energy,
        "speedup": speedup,
        "speedup_measured_macs": promised,
        "share": speedup / promised,
        "disagreement": float(np.median([row["disagreement"] for row in rows])),
        "percentiles": {
            name: percentiles([row[name] for row in rows])
            for name in ("seconds", "seconds_min", "seconds_dense", "seconds_dense_min")
        },
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the percentiles `SHARES` over images, each the value of an image: the least that so many do not exceed."""
    return {f"p{share}": float(np.percentile(values, share, method="inverted_cdf")) for share in SHARES}


def _time_image(
    sparse: Engine, dense: Engine, identifier: str | int, image: Floats, seed: int, rounds: int
) -> dict[str, Any]:
    """Time one image, dense and sparse in each round."""

    def masked() -> Result:
        with inference([identifier], seed):
            return sparse(image)

    beside, own = Variant("dense", lambda: dense(image)), Variant("sparse", masked)
    time_rounds([beside, own], rounds, Steps(0, None), "")
    masks = own.result.masks.values()
    without = statistics(beside)
    return {
        "image": identifier,
        "density": float(np.mean([(mask > 0).mean() for mask in masks])) if masks else 1.0,
        "gmacs": own.result.macs / 1e9,
        "gmacs_executed": own.result.executed / 1e9,
        **statistics(own),
        **{f"{name}_dense": without[name] for name in ("seconds", "joules")},
        "seconds_dense_min": without["seconds_min"],
        "seconds_masks": sum(seconds for kind, seconds in middle_parts(own).items() if ".mask" in kind),
        "speedup": without["seconds"] / float(np.median(own.seconds)),
        "speedup_measured_macs": beside.result.macs / own.result.macs,
        "disagreement": disagreement(own.seconds, np.divide(beside.seconds, own.seconds)),
    }
