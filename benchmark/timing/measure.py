"""Measuring: how fast an engine runs, dense and sparse, beside what theory promises and beside other runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmark.engines import Floats, find
from benchmark.errors import UsageError
from benchmark.nn import ResNet
from benchmark.store import provenance, timestamp
from benchmark.timing.cells import time_cell
from benchmark.timing.clock import Progress, Steps
from benchmark.timing.networks import PAPER_DENSITIES, NetworkTiming, has_bottlenecks
from benchmark.timing.peers import PEERS

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Densities of the break-even search."""

SIZES = {"small": (256, 416), "full": (992, 1664)}
"""Image sizes: ``full`` is the paper's nominal 1000-pixel image, ``small`` the same shape for a run of minutes."""


def run(
    backbone: str = "resnet101",
    size: tuple[int, int] = SIZES["full"],
    densities: Sequence[float] = DENSITIES,
    *,
    deformable: Sequence[bool] = (False, True),
    peers: Sequence[str] = (),
    threads: int | None = None,
    rounds: int = 5,
    table5: bool = True,
    cell: tuple[ResNet, Sequence[tuple[str | int, Floats]], int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time a backbone on the engine, dense and at densities, and other runtimes beside it.

    Weights are random and masks are drawn position by position at each density; neither changes what a kernel does.
    Mask convolutions run and are timed as in a trained network.

    Parameters
    ----------
    backbone
        A name of `benchmark.nn.BACKBONES`.
    size
        Image height and width in pixels.
    densities
        Shares of positions sampled, in (0, 1], all layers alike.
    deformable
        Which of without (False) and with (True) deformable convolution to time; basic blocks have only the former.
    peers
        Of `PEERS`: run the same dense network without deformable convolution, in the same rounds.
    threads
        Threads of every runtime; by default all that OpenMP offers.
    rounds
        Rounds that are timed, after one that is not.
    table5
        Also time the densities that the paper's Table 5 implies.
    cell
        A trained cell's backbone, its images as ``(identifier, (3, H, W) float32)``, and its seed: timed with its own
        masks against the same network without masks.
    progress
        Called with steps done, steps in all, and what runs next.

    Returns
    -------
    dict
        ``machine`` (what it ran on), ``settings``, ``backbone`` (one row per network and density), ``layers``
        (one row per network, density and kind of layer), ``break_even`` (highest density below which every timed
        density is faster than dense), ``peers``, and ``cell`` where one was given. Times are seconds.

    Raises
    ------
    EngineUnavailable
        If the engine cannot run on this machine.
    UsageError
        For a density, number of rounds or peer that does not exist.
    """
    kind = find()
    available = kind.max_threads()
    wanted = sorted({*densities, *(PAPER_DENSITIES.values() if table5 else ())}, reverse=True)
    if not all(0 < d <= 1 for d in wanted):
        raise UsageError(f"densities must lie in (0, 1], got {wanted}")
    if rounds < 1 or min(size) < 32:
        raise UsageError(f"{rounds} rounds at {size[0]}x{size[1]}: at least one round and 32 pixels")
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise UsageError(f"unknown peers {', '.join(unknown)}; there are {', '.join(PEERS)}")
    threads = threads or available
    variants = [d for d in deformable if not d or has_bottlenecks(backbone)]
    started = timestamp()
    steps = Steps((rounds + 1) * len(variants) * (len(wanted) + 1) + (rounds + 1) * len(peers), progress)
    image = np.random.default_rng(seed).standard_normal((3, *size)).astype(np.float32)
    report: dict[str, Any] = {
        "machine": {},
        "settings": {"backbone": backbone, "height": size[0], "width": size[1], "rounds": rounds, "seed": seed},
        "backbone": [],
        "layers": [],
        "break_even": [],
        "peers": [],
    }
    for number, with_deformable in enumerate(variants):
        beside = peers if number == 0 and not with_deformable else ()
        measurement = NetworkTiming(report, backbone, with_deformable, image, kind, threads, seed)
        measurement.run(wanted, beside, rounds, steps)
    if cell is not None:
        report["cell"] = time_cell(kind, *cell, threads, rounds)
    report["machine"] = {**provenance(started), "threads": threads, **kind.hardware()}
    return report
