"""Fabricated stores: numbers made up by a formula, for the reports' own tests only."""

import math

import numpy as np
import pytest

from benchmark.sampling import SAMPLING, Sampling, pack
from benchmark.store import Cell, Store

METHODS = {
    # method: (parameter, values, cost at each, score lost at each)
    "dense": (None, [None], [1.0], [0.0]),
    "stochastic": ("gamma", [0.02, 0.05, 0.1, 0.2], [0.56, 0.42, 0.33, 0.25], [0.002, 0.014, 0.032, 0.062]),
    "deterministic_gumbel": (
        "gamma",
        [0.02, 0.05, 0.1, 0.2],
        [0.58, 0.45, 0.35, 0.26],
        [0.01, 0.03, 0.055, 0.1],
    ),
    "relu_gating": ("gamma", [0.02, 0.05, 0.1, 0.2], [0.66, 0.5, 0.4, 0.27], [0.02, 0.045, 0.08, 0.16]),
    "uniform": ("shorter_side", [160, 128, 96, 80], [0.999, 0.64, 0.36, 0.25], [0.001, 0.024, 0.066, 0.105]),
    "equal_interval": ("stride", [2], [0.3], [0.1]),
    "smaller_backbone": (None, [None], [0.52], [0.048]),
    "checkerboard": ("stride", [2, 3, 4, 5], [0.55, 0.38, 0.3, 0.24], [0.05, 0.08, 0.12, 0.15]),
}


LABELS = {
    "stochastic": "Stochastic sampling", "deterministic_gumbel": "Deterministic Gumbel", "relu_gating": "ReLU gating",
    "uniform": "Uniform (resolution)",
}  # fmt: skip


def masks(density, image="7", draws=1, side=8, confident=False, seed=0):
    """Return made-up masks of two blocks, with a horizon: the lower half is computed more often."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.linspace(0, 2 * density, side)[:, None], side, axis=1).clip(0, 1)
    names = ("layer1.0.mask1", "layer1.1.mask1")
    drawn = {name: rng.random((draws, side, side)) < rows for name in names}
    confidences = {name: rows.astype(np.float32) for name in names} if confident else {}
    return Sampling(np.full((32, 32, 3), 90, dtype=np.uint8), image, list(range(draws)), drawn, confidences)


class Fabricated:
    """Puts cells with chosen numbers into a store."""

    methods = METHODS

    def __init__(self, root):
        self.store = Store(root)

    def add(self, method, score, cost, task="coco", parameters=None, seed=0, status="finished", **changes):
        cell = Cell(
            task, changes.pop("scale", "mini"), changes.pop("dataset", "embedded"),
            changes.pop("fingerprint", "f00dcafe"), method, parameters or {}, seed, changes.pop("determinants", {}),
        )  # fmt: skip
        kept = changes.pop("samplings", None)
        with self.store.begin(cell) as work:
            if status != "finished":
                return work.fail(
                    changes.get("error", "the loss is nan at step 30"), status=status, method_label=LABELS.get(method)
                )
            fields = {
                "coco": {"metric_AP": score, "metric_AP50": score * 1.5, "metric_APs": math.nan},
                "cityscapes": {"metric_mIoU": score},
                "imagenet": {"metric_top1": score, "metric_top5": min(1.0, score * 1.1)},
            }[task]
            if kept is not None:
                (work.folder / SAMPLING).write_bytes(pack(kept))
            fields |= {
                "gmacs_measured_mean": cost, "gmacs_measured_std": cost / 20, "gmacs_paper": cost * 1.1,
                "density_mean": min(1.0, cost), "seconds_train": 60.0, "seconds_eval": 8.0,
                "method_label": LABELS.get(method),
                "method_curve": ["gamma"] if "gamma" in (parameters or {}) else None,
            }  # fmt: skip
            return work.commit(fields | changes)

    def curves(self, task="coco", seeds=(0,), dense_score=0.5, dense_cost=2.0, **changes):
        for method, (parameter, values, costs, losses) in METHODS.items():
            for value, cost, loss in zip(values, costs, losses, strict=True):
                for seed in seeds:
                    self.add(
                        method, dense_score - loss + 0.004 * (seed % 3 - 1), cost * dense_cost * (1 + 0.01 * seed),
                        task, {parameter: value} if parameter else {}, seed, **changes,
                    )  # fmt: skip
        return self

    def perforated(self, task="coco"):
        for index, structure in enumerate(("uniform", "grid", "pooling")):
            for rate in (0.25, 0.5, 0.75):
                self.add(
                    "perforated", 0.47 - 0.22 * rate**2 - 0.012 * index, 2.0 * (1 - rate) + 0.15 + 0.02 * index,
                    task, {"structure": structure, "rate": rate},
                )  # fmt: skip
        return self


@pytest.fixture
def fabricated(tmp_path):
    return Fabricated(tmp_path / "store")
