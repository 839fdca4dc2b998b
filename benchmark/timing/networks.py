"""Timing a backbone with random weights and masks: dense, and at densities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmark.engines import Engine, Floats, Result
from benchmark.flops import paper
from benchmark.nn import Masks, ResNet, build_backbone, interpolation, residual_blocks
from benchmark.timing.clock import Steps, Variant, disagreement, middle_parts, ratio, statistics, time_rounds, timed
from benchmark.timing.peers import prepare

PAPER_DENSITIES = {0.02: 0.493, 0.05: 0.357, 0.1: 0.264, 0.2: 0.182}
"""Densities that the GFLOPs of the paper's Table 5 imply, by the weight of the sparse loss (docs/FIDELITY)."""

_PAIRED = (
    "seconds_dense", "seconds_masks", "speedup", "speedup_low", "speedup_high", "speedup_theoretical",
    "speedup_measured_macs", "share",
)  # fmt: skip
"""What a sparse row has and the dense one has not: all rows of the report have the same fields."""


def has_bottlenecks(backbone: str) -> bool:
    """Whether a backbone has blocks that can be deformable."""
    return any(hasattr(block, "conv3") for block in residual_blocks(build_backbone(backbone)))


def network(backbone: str, deformable: bool, sparse: bool, seed: int) -> ResNet:
    """Build a network with random weights; the sparse one has the paper's masks and fills."""
    torch.manual_seed(seed)
    model = build_backbone(backbone, deformable=deformable)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("offset.weight"):
                parameter.normal_(std=0.01 / parameter.shape[1] ** 0.5)  # offsets of a part of a pixel
    if sparse:
        for block in residual_blocks(model):
            if block.adaptable("two"):
                block.adapt(Masks.gumbel(), interpolation.rbf())
    return model.eval()


class Networks:
    """A backbone, dense and with masks, compiled for an engine: it serves all image sizes."""

    def __init__(self, backbone: str, deformable: bool, kind: type[Engine], threads: int, seed: int) -> None:
        self.backbone, self.deformable = backbone, deformable
        self.model, self.adapted = (network(backbone, deformable, sparse, seed) for sparse in (False, True))
        self.dense, self.sparse = kind(self.model, threads=threads), kind(self.adapted, threads=threads)


class NetworkTiming:
    """One network at one image size on one engine, dense and with masks, a row of a report at a time.

    Masks are drawn position by position, so that any density can be had; the networks' weights are random. Each row
    but the dense one is timed in rounds of its own, in which the dense run goes before it.
    """

    def __init__(self, report: dict[str, Any], networks: Networks, image: Floats, rounds: int, seed: int) -> None:
        self.report, self.networks, self.image, self.rounds, self.seed = report, networks, image, rounds, seed
        self.name = {"backbone": networks.backbone, "deformable": networks.deformable}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def seconds(self) -> tuple[float, float]:
        """Return the seconds of one dense run and of one at half density, after a run of each that is not timed."""
        run = self._at(0.5)
        self.networks.dense(self.image), run()
        return timed(lambda: self.networks.dense(self.image)), timed(run)

    def dense_row(self, steps: Steps) -> dict[str, Any]:
        """Time the dense network."""
        dense = self._dense()
        time_rounds([dense], self.rounds, steps, self._what)
        return {
            **self.name,
            "density": None,
            "gamma": None,
            "gmacs": dense.result.macs / 1e9,
            "gmacs_executed": dense.result.executed / 1e9,
            **statistics(dense),
            **dict.fromkeys(_PAIRED),
            "memory_bytes": self.networks.dense.memory_bytes,
        }

    def sparse_row(self, density: float, steps: Steps) -> dict[str, Any]:
        """Time the network at a density; the seconds of its kinds of layers go into the report."""
        dense, sparse = self._dense(), Variant(f"density {density:g}", self._at(density))
        time_rounds([dense, sparse], self.rounds, steps, self._what)
        speedup, low, high = ratio(dense.seconds, sparse.seconds)
        size = self.image.shape[1], self.image.shape[2]
        theory = float(paper.count(self.networks.model, *size)["macs"].sum())
        promised = theory / float(paper.count(self.networks.adapted, *size, density)["macs"].sum())
        parts = middle_parts(sparse)
        self.report["layers"].extend({**self.name, **row} for row in _layer_rows(middle_parts(dense), parts, density))
        return {
            **self.name,
            "density": density,
            "gamma": next((g for g, d in PAPER_DENSITIES.items() if d == density), None),
            "gmacs": sparse.result.macs / 1e9,
            "gmacs_executed": sparse.result.executed / 1e9,
            **statistics(sparse),
            "disagreement": disagreement(sparse.seconds, np.divide(dense.seconds, sparse.seconds)),
            "seconds_dense": float(np.median(dense.seconds)),
            "seconds_masks": sum(seconds for kind, seconds in parts.items() if ".mask" in kind),
            "speedup": speedup,
            "speedup_low": low,
            "speedup_high": high,
            "speedup_theoretical": promised,
            "speedup_measured_macs": dense.result.macs / sparse.result.macs,
            "share": speedup / promised,
            "memory_bytes": self.networks.sparse.memory_bytes,
        }

    def peer_row(self, peer: str, steps: Steps) -> dict[str, Any]:
        """Time another runtime; one that cannot run is a row with the reason."""
        dense = self._dense()
        row, beside = prepare(peer, self.networks.model, self.image, dense.call(), self.networks.dense.threads)
        time_rounds([dense, beside], self.rounds, steps, self._what)
        if beside.seconds:
            faster, low, high = ratio(beside.seconds, dense.seconds)
            row.update(
                statistics(beside),
                disagreement=disagreement(beside.seconds, np.divide(beside.seconds, dense.seconds)),
                seconds_dense=float(np.median(dense.seconds)),
                engine_dense_speedup=faster,
                engine_dense_speedup_low=low,
                engine_dense_speedup_high=high,
            )
        return row

    def break_even(self) -> None:
        """Bring the report's break-even density of this network up to date."""
        ours = [row for row in self.report["backbone"] if row["density"] is not None and self._is_ours(row)]
        if not ours:
            return
        density = break_even([(row["density"], row["speedup"]) for row in ours])
        others = [row for row in self.report["break_even"] if not self._is_ours(row)]
        self.report["break_even"] = [*others, {**self.name, "density": density}]

    def _is_ours(self, row: dict[str, Any]) -> bool:
        return all(row[name] == value for name, value in self.name.items())

    @property
    def _what(self) -> str:
        return "deformable" if self.name["deformable"] else "not deformable"

    def _dense(self) -> Variant:
        return Variant("dense", lambda: self.networks.dense(self.image))

    def _at(self, density: float) -> Callable[[], Result]:
        """Return a call of the sparse network under masks of a density, the same in each process."""
        if not self._shapes:
            found = self.networks.sparse(self.image).masks
            self._shapes = {layer: mask.shape for layer, mask in found.items()}
        rng = np.random.default_rng([self.seed, round(density * 1e6)])
        masks = {layer: (rng.random(shape) < density).astype(np.float32) for layer, shape in self._shapes.items()}
        return lambda: self.networks.sparse(self.image, masks=masks)


def _layer_rows(dense: dict[str, float], sparse: dict[str, float], density: float) -> Iterator[dict[str, Any]]:
    """Yield the seconds of each kind of layer at a density, and of the dense run beside it; both add up to a row's."""
    for kind in dict.fromkeys([*dense, *sparse]):
        yield {
            "layer": kind,
            "density": density,
            "seconds": sparse.get(kind, 0.0),
            "seconds_dense": dense.get(kind, 0.0),
        }


def break_even(ratios: list[tuple[float, float]]) -> float | None:
    """Return the highest density from which on downwards sparse beats dense, between the two timed ones."""
    previous: tuple[float, float] | None = None
    for density, speedup in sorted(ratios):
        if speedup < 1:
            if previous is None:
                return None
            low, high = previous
            return float(low + (density - low) * (high - 1) / (high - speedup))
        previous = (density, speedup)
    return previous[0] if previous else None
