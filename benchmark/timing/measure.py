"""Measuring: how fast an engine runs, dense and sparse, beside what theory promises and beside other runtimes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.engines import Engine, find
from benchmark.errors import UsageError
from benchmark.store import provenance, timestamp
from benchmark.timing.clock import Progress, Steps
from benchmark.timing.energy import Meter
from benchmark.timing.networks import PAPER_DENSITIES, Networks, NetworkTiming, has_bottlenecks
from benchmark.timing.peers import PEERS
from benchmark.timing.record import kept, named_engine, save

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Densities of the break-even search."""

SIZES = {"small": (256, 416), "full": (992, 1664)}
"""Image sizes: ``full`` is the paper's nominal 1000-pixel image, ``small`` the same shape for a run of minutes."""


@dataclass(frozen=True)
class Wanted:
    """What is to be timed.

    Attributes
    ----------
    backbone
        A name of `benchmark.nn.BACKBONES`.
    sizes
        Image heights and widths in pixels.
    densities
        Shares of positions sampled, in (0, 1], all layers alike.
    deformable
        Which of without (False) and with (True) deformable convolution to time; basic blocks have only the former.
    peers
        Of `PEERS`: run the same dense network without deformable convolution.
    threads
        Threads of every runtime; by default one for each core.
    rounds
        Rounds that are timed, after one that is not.
    table5
        Also time the densities that the paper's Table 5 implies.
    seed
        Of weights, image and masks.
    engine
        Name of the engine.
    """

    backbone: str = "resnet101"
    sizes: Sequence[tuple[int, int]] = (SIZES["full"],)
    densities: Sequence[float] = DENSITIES
    deformable: Sequence[bool] = (False, True)
    peers: Sequence[str] = ()
    threads: int | None = None
    rounds: int = 5
    table5: bool = True
    seed: int = 0
    engine: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what cannot be timed.

        Raises
        ------
        UsageError
            For a density, size, number of rounds or peer that does not exist.
        """
        if not all(0 < d <= 1 for d in self.densities):
            raise UsageError(f"densities must lie in (0, 1], got {list(self.densities)}")
        for height, width in self.sizes:
            if self.rounds < 1 or min(height, width) < 32:
                raise UsageError(f"{self.rounds} rounds at {height}x{width}: at least one round and 32 pixels")
        unknown = [peer for peer in self.peers if peer not in PEERS]
        if unknown:
            raise UsageError(f"unknown peers {', '.join(unknown)}; there are {', '.join(PEERS)}")

    @property
    def all_densities(self) -> list[float]:
        """All densities, from the highest to the lowest."""
        return sorted({*self.densities, *(PAPER_DENSITIES.values() if self.table5 else ())}, reverse=True)


@dataclass
class Job:
    """One row that is to be measured: the dense run, a density (``what`` is a number), or a peer (its name)."""

    timing: NetworkTiming
    kind: str
    what: float | str | None
    seconds: float

    def run(self, steps: Steps) -> dict[str, Any]:
        """Measure the row and put it into its report."""
        report = self.timing.report
        if self.kind == "peers":
            row = self.timing.peer_row(str(self.what), steps)
        elif self.what is None:
            row = self.timing.dense_row(steps)
        else:
            row = self.timing.sparse_row(float(self.what), steps)
        report[self.kind].append(row)
        self.timing.break_even()
        return row


@dataclass
class Timing:
    """Networks to be timed, one row at a time; each row is kept as soon as it is measured.

    Weights are random and masks are drawn position by position at each density; neither changes what a kernel does.
    Mask convolutions run and are timed as in a trained network. Times are seconds.

    Parameters
    ----------
    wanted
        What is to be timed.
    store
        Where reports are kept, and where those of an interrupted run of the same are continued; None keeps none.
    budget
        Seconds within which to end: rounds get fewer, then rows are left out.
    progress
        Called with steps done, steps in all, and what runs next.

    Attributes
    ----------
    reports
        One for each size: ``machine`` (what it ran on), ``settings``, ``complete`` (whether all rows are there),
        ``backbone`` (one row per network and density), ``layers`` (one row per network, density and kind of layer),
        ``break_even`` (highest density below which every timed density is faster than dense) and ``peers``.
    left_out
        Rows for which there was no time.

    Raises
    ------
    EngineUnavailable
        If the engine cannot run on this machine.
    """

    wanted: Wanted
    store: Path | None = None
    budget: float | None = None
    progress: Progress | None = None
    reports: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0

    def __post_init__(self) -> None:
        """Compile the networks, look for reports to continue, and time one round."""
        self._began = time.monotonic()
        kind, wanted = find(self.wanted.engine), self.wanted
        self.threads = kind.max_threads() if wanted.threads is None else wanted.threads
        variants = [d for d in wanted.deformable if not d or has_bottlenecks(wanted.backbone)]
        networks = [Networks(wanted.backbone, d, kind, self.threads, wanted.seed) for d in variants]
        self._timings: list[NetworkTiming] = []
        for size in wanted.sizes:
            report = self._report(size, kind)
            image = np.random.default_rng(wanted.seed).standard_normal((3, *size)).astype(np.float32)
            self._timings += [NetworkTiming(report, each, image, wanted.rounds, wanted.seed) for each in networks]
            self.reports.append(report)
        self.jobs = [job for timing in self._timings for job in self._jobs(timing)]
        if self.budget is not None:
            self._fit(self.budget)

    @property
    def seconds(self) -> float:
        """How long the rows will take together, from one measured round; of a peer, that it takes as long as we do."""
        return sum(job.seconds * (job.timing.rounds + 1) for job in self.jobs)

    def rows(self) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
        """Measure row after row: yield its report, the row's list in it (``backbone`` or ``peers``), and the row."""
        steps = Steps(sum((job.timing.rounds + 1) * (1 if job.what is None else 2) for job in self.jobs), self.progress)
        for number, job in enumerate(self.jobs):
            spent = time.monotonic() - self._began
            if self.budget is not None and spent + job.seconds * (job.timing.rounds + 1) > self.budget:
                self.left_out = len(self.jobs) - number
                return
            row, report = job.run(steps), job.timing.report
            report["complete"] = all(later.timing.report is not report for later in self.jobs[number + 1 :])
            if self.store is not None:
                save(report, self.store)
            yield report, job.kind, row

    def _report(self, size: tuple[int, int], kind: type[Engine]) -> dict[str, Any]:
        """Return the report for a size: an interrupted one of the same, or a new one."""
        wanted, started = self.wanted, timestamp()
        report: dict[str, Any] = {
            "machine": {**provenance(started), "threads": self.threads, **kind.hardware(), "energy": Meter().source},
            "settings": {
                "backbone": wanted.backbone,
                "height": size[0],
                "width": size[1],
                "rounds": wanted.rounds,
                "seed": wanted.seed,
                "densities": wanted.all_densities,
                "deformable": list(wanted.deformable),
                "peers": list(wanted.peers),
                **named_engine(wanted.engine),
            },
            "complete": False,
            **{name: [] for name in ("backbone", "layers", "break_even", "peers")},
        }
        before = None if self.store is None else kept(report, self.store)
        return report if before is None or before.get("complete", True) else before

    def _jobs(self, timing: NetworkTiming) -> Iterator[Job]:
        """Yield the rows that a network's report lacks: dense, then the peers, then densities from the highest."""
        report, name = timing.report, timing.name
        there = {row["density"] for row in report["backbone"] if row["deformable"] == name["deformable"]}
        peers = [] if name["deformable"] else self.wanted.peers
        lacking = [peer for peer in peers if all(row["peer"] != peer for row in report["peers"])]
        densities = [density for density in self.wanted.all_densities if density not in there]
        if None in there and not lacking and not densities:
            return
        dense, sparse = timing.seconds()
        if None not in there:
            yield Job(timing, "backbone", None, dense)
        for peer in lacking:
            yield Job(timing, "peers", peer, 2 * dense)
        for density in densities:
            yield Job(timing, "backbone", density, dense + sparse)

    def _fit(self, budget: float) -> None:
        """Take as many rounds as there is time for."""
        left = budget - (time.monotonic() - self._began)
        a_round = sum(job.seconds for job in self.jobs) or 1.0
        rounds = max(1, min(self.wanted.rounds, int(left / a_round) - 1))
        for timing in self._timings:
            timing.rounds = timing.report["settings"]["rounds"] = rounds


def run(wanted: Wanted, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Time all of it and return the reports, one for each size."""
    timing = Timing(wanted, progress=progress)
    list(timing.rows())
    return timing.reports
