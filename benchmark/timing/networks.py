"""Timing a backbone with random weights and masks: dense, and at densities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from benchmark.engines import Engine, Floats, Result
from benchmark.flops import paper
from benchmark.nn import Masks, ResNet, build_backbone, interpolation, residual_blocks
from benchmark.timing.clock import Steps, Variant, statistics, time_rounds
from benchmark.timing.peers import prepare

PAPER_DENSITIES = {0.02: 0.493, 0.05: 0.357, 0.1: 0.264, 0.2: 0.182}
"""Densities that the GFLOPs of the paper's Table 5 imply, by the weight of the sparse loss (docs/FIDELITY)."""

_RATIOS = ("speedup", "speedup_low", "speedup_high", "speedup_theoretical", "speedup_measured_macs", "share")
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


class NetworkTiming:
    """One network, dense and with masks, on one engine; its rows go into a report.

    Masks are drawn position by position, so that any density can be had; the networks' weights are random.
    """

    def __init__(
        self,
        report: dict[str, Any],
        backbone: str,
        deformable: bool,
        image: Floats,
        kind: type[Engine],
        threads: int,
        seed: int,
    ) -> None:
        self.report, self.image, self.threads, self.seed = report, image, threads, seed
        self.name = {"backbone": backbone, "deformable": deformable}
        self.model, self.adapted = (network(backbone, deformable, sparse, seed) for sparse in (False, True))
        self.dense, self.sparse = kind(self.model, threads=threads), kind(self.adapted, threads=threads)

    def run(self, densities: Sequence[float], peers: Sequence[str], rounds: int, steps: Steps) -> None:
        """Time the network dense, at densities, and on other runtimes, all in the same rounds."""
        dense = Variant("dense", lambda: self.dense(self.image))
        sparse = [Variant(f"density {d:g}", self._at(masks)) for d, masks in self._masks(densities)]
        reference = self.dense(self.image)
        beside = [prepare(self.report, peer, self.model, self.image, reference, self.threads) for peer in peers]
        what = "deformable" if self.name["deformable"] else "not deformable"
        tallies = time_rounds([dense, *sparse, *beside], rounds, steps, what)
        base = np.array(dense.seconds)
        self.report["backbone"].append(self._dense_row(dense))
        rows = [self._sparse_row(density, variant, dense) for density, variant in zip(densities, sparse, strict=True)]
        self.report["backbone"].extend(rows)
        ratios = [(row["density"], row["speedup"]) for row in rows]
        self.report["break_even"].append({**self.name, "density": break_even(ratios)})
        self.report["layers"].extend({**self.name, **row} for row in _layer_rows(tallies, densities))
        for variant in beside:
            seconds = np.array(variant.seconds)
            if len(seconds):
                row = next(row for row in self.report["peers"] if row["peer"] == variant.name)
                row.update({**statistics(seconds), "engine_dense_speedup": float(np.median(seconds / base))})

    def _masks(self, densities: Sequence[float]) -> Iterator[tuple[float, dict[str, Floats]]]:
        shapes = {layer: mask.shape for layer, mask in self.sparse(self.image).masks.items()}
        rng = np.random.default_rng(self.seed)
        for density in densities:
            yield density, {k: (rng.random(shape) < density).astype(np.float32) for k, shape in shapes.items()}

    def _at(self, masks: dict[str, Floats]) -> Callable[[], Result]:
        return lambda: self.sparse(self.image, masks=masks)

    def _dense_row(self, dense: Variant) -> dict[str, Any]:
        return {
            **self.name,
            "density": None,
            "gamma": None,
            "gmacs": dense.result.macs / 1e9,
            **statistics(dense.seconds),
            **dict.fromkeys(_RATIOS),
            "memory_bytes": self.dense.memory_bytes,
        }

    def _sparse_row(self, density: float, variant: Variant, dense: Variant) -> dict[str, Any]:
        ratio = np.array(dense.seconds) / np.array(variant.seconds)
        size = self.image.shape[1], self.image.shape[2]
        theory = float(paper.count(self.model, *size)["macs"].sum())
        promised = theory / float(paper.count(self.adapted, *size, density)["macs"].sum())
        return {
            **self.name,
            "density": density,
            "gamma": next((g for g, d in PAPER_DENSITIES.items() if d == density), None),
            "gmacs": variant.result.macs / 1e9,
            **statistics(variant.seconds),
            "speedup": float(np.median(ratio)),
            "speedup_low": float(ratio.min()),
            "speedup_high": float(ratio.max()),
            "speedup_theoretical": promised,
            "speedup_measured_macs": dense.result.macs / variant.result.macs,
            "share": float(np.median(ratio)) / promised,
            "memory_bytes": self.sparse.memory_bytes,
        }


def _layer_rows(tallies: dict[str, list[dict[str, float]]], densities: Sequence[float]) -> Iterable[dict[str, Any]]:
    """Yield seconds of each kind of layer at each density, and of a stage altogether with its break-even."""
    dense = tallies["dense"]
    kinds = list(dict.fromkeys(kind for rows in tallies.values() for kind in rows[0]))
    for kind in kinds:
        base = [row.get(kind, 0.0) for row in dense]
        for density in densities:
            here = [row.get(kind, 0.0) for row in tallies[f"density {density:g}"]]
            yield {
                "layer": kind,
                "density": density,
                "seconds": float(np.median(here)),
                "seconds_dense": float(np.median(base)),
            }


def break_even(ratios: list[tuple[float, float]]) -> float | None:
    """Return the highest density from which on downwards sparse beats dense, between the two timed ones."""
    previous: tuple[float, float] | None = None
    for density, ratio in sorted(ratios):
        if ratio < 1:
            if previous is None:
                return None
            low, high = previous
            return float(low + (density - low) * (high - 1) / (high - ratio))
        previous = (density, ratio)
    return previous[0] if previous else None
