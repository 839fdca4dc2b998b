"""The study of resolution: where sampling begins to pay, along pixels, detail, network and length of training.

    python studies/resolution.py --store FOLDER            # runs what is missing, the most telling cells first
    python studies/resolution.py --store FOLDER --list     # says which cells there are and which have ended
    saibench report --only resolution --store FOLDER

Every cell is an ordinary record at scale ``evidence`` of `coco`, with the recipe's changes in it; the name of its data
set says pixels and period. A run that was stopped goes on where it was; several may share a store. A cell takes one
core. Sets of scenes are rendered when their first cell is met, by ``--list`` too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.cells import Plan, Request, execute, plan
from benchmark.errors import SaibenchError, one_line
from benchmark.files import cache_folder
from benchmark.progress import StepReporter
from benchmark.store import CellBusy, Store
from benchmark.tasks import find_task

SCALE = "evidence"
IMAGES = {"train": 1200, "val": 300}
PIXELS, PERIOD, STEPS = (128, 256, 192, 384, 512), 5.0, 300
LONGER = 1.75  # longest side over the shorter that images are resized to
#: Changes to the recipe by network; `mini` starts from the weights shipped for its scale, and keeps their anchors.
NETWORKS: dict[str, dict[str, Any]] = {
    "mini": {"backbone": "mini", "shipped": ["mini", "mini_small"], "detector.smallest_anchor": 8},
    "evidence": {},
}


@dataclass(frozen=True)
class Setting:
    """Where methods are compared: pixels of the image, period of the detail in pixels, network, steps of training."""

    pixels: int
    period: float = PERIOD
    network: str = "mini"
    steps: int = STEPS

    def data(self) -> Path:
        """Return the folder of the scenes, rendered on first use."""
        embedded = find_task("coco").embedded
        size = embedded.varied(SCALE, self.pixels, IMAGES, period=self.period)
        return embedded.make(SCALE, cache_folder() / "data", size=size)

    def request(self, method: str, parameters: dict[str, Any], seed: int) -> Request:
        """Return the request of a cell."""
        overrides = {
            **NETWORKS[self.network], "shorter_side": self.pixels, "longer_side": round(LONGER * self.pixels),
            "train.steps": self.steps,
        }  # fmt: skip
        return Request("coco", method, SCALE, parameters, seed, self.data(), overrides)


def points(pixels: int) -> tuple[list[tuple[str, dict[str, Any]]], list[tuple[str, dict[str, Any]]]]:
    """Return the cells of a setting: those of the first round, and the rest."""
    first: list[tuple[str, dict[str, Any]]] = [
        ("stochastic", {"gamma": 2.5}),
        ("deterministic_gumbel", {"gamma": 2.5}),
        ("uniform", {"shorter_side": pixels // 2}),
        ("dense", {}),
        ("relu_gating", {"gamma": 2.5}),
    ]
    rest: list[tuple[str, dict[str, Any]]] = [
        (method, {"gamma": gamma})
        for gamma in (0.5, 0.1)
        for method in ("stochastic", "deterministic_gumbel", "relu_gating")
    ]
    rest += [("uniform", {"shorter_side": round(0.75 * pixels)}), ("equal_interval", {})]
    rest += [("dynconv", {"budget": budget}) for budget in (0.25, 0.5, 0.75)]
    rest += [("random", {"density": density}) for density in (0.25, 0.5)]
    return first, rest


def cells() -> Iterator[tuple[Setting, str, dict[str, Any], int]]:
    """Yield the cells by what they tell: two resolutions before five, ends of curves before their middle."""
    pixels = [Setting(side) for side in PIXELS]
    others = [Setting(side, period) for side, period in ((256, 10.0), (384, 10.0), (256, 3.5))]
    others += [Setting(side, network="evidence") for side in (256, 384)]
    others += [Setting(side, steps=steps) for steps in (1200, 4000) for side in (128, 256)]
    rounds = [
        (pixels[:2], 0, (0,)),
        (pixels[2:4], 0, (0,)),
        (pixels[:2], 0, (1, 2)),
        (pixels, 1, (0,)),
        (others, 0, (0,)),
        (pixels[2:], 0, (1, 2)),
        (pixels, 1, (1, 2)),
        (others, 1, (0,)),
        (others, 0, (1, 2)),
    ]
    for settings, half, seeds in rounds:
        for seed in seeds:
            for place in range(len(points(256)[half])):
                for setting in settings:
                    method, parameters = points(setting.pixels)[half][place]
                    yield setting, method, parameters, seed


def main() -> int:
    """Run or list the study's cells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="folder of the records")
    parser.add_argument("--list", action="store_true", help="say which cells there are, run none")
    given = parser.parse_args()
    store, failed = Store(given.store), 0
    for setting, method, parameters, seed in cells():
        planned = plan(setting.request(method, parameters, seed))
        done = store.find(planned.cell)
        if given.list or done is not None:
            print(f"{'done' if done else 'to run':7}{setting} {planned.cell}", flush=True)
            continue
        failed += not _run(planned, store)
    return 1 if failed else 0


def _run(planned: Plan, store: Store) -> bool:
    """Run a cell; one that fails is noted, and stops no other."""
    print(f"runs   {planned.cell}", flush=True)
    try:
        execute(planned, store, report=StepReporter(lambda phase, done, total: None))
    except CellBusy:
        return True
    except SaibenchError as error:
        print(f"failed {planned.cell}: {one_line(error)}", file=sys.stderr, flush=True)
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
