"""Many cells: which ones a sweep has, in which order, and running them side by side on one machine.

Cells that others start from come first; the rest follow point by point, so that every curve gets its ends early. Each
worker process runs one cell at a time; a cell that fails is a record like any other and does not stop the rest.
"""

import dataclasses
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import torch

from benchmark.cells import Plan, Request, execute, plan
from benchmark.errors import SaibenchError, StoreError, unknown
from benchmark.hardware import FULL
from benchmark.method import Method, address, resolve
from benchmark.progress import StepReporter
from benchmark.recipe import Recipe
from benchmark.selection import Cells, parameters_of
from benchmark.store import Store
from benchmark.tasks import find_task

Report = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class Sweep:
    """A set of cells to run.

    Attributes
    ----------
    plans : list of Plan
        In the order in which they are started; starting cells first.
    skipped : mapping
        Why a method is left out, by its name.
    """

    plans: list[Plan]
    skipped: Mapping[str, str]

    def pending(self, store: Store) -> list[Plan]:
        """Return the plans without a finished record."""
        return [each for each in self.plans if not _finished(each, store)]


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: its status, and the error of one that has no result."""

    plan: Plan
    status: str
    error: str = ""


def make_sweep(
    task: str,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    scale: str = "mini",
    data: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    precision: str = FULL,
) -> Sweep:
    """Plan every point of every method's curve.

    Parameters
    ----------
    methods
        Names or plug-in files; empty for all of the project's.
    parameters
        Parameters that every method of these names gets; a curve's parameter among them is no longer swept.

    Raises
    ------
    UsageError
        For a method, or a parameter that no chosen method has.
    """
    kinds = resolve(methods)
    _check_parameters(parameters or {}, kinds)
    recipe = find_task(task).recipe(scale).override(overrides or {})
    template = Request(task, "", scale, data=data, overrides=overrides or {}, precision=precision)
    curves: list[list[Plan]] = []
    skipped: dict[str, str] = {}
    for kind in kinds:
        reason = kind.make({}).skip(find_task(task).name)
        if reason:
            skipped[kind.name] = reason
            continue
        fixed = {name: value for name, value in (parameters or {}).items() if name in kind.model_fields}
        points = {tuple({**point, **fixed}.items()): None for point in kind.points(recipe.curves)}
        curves.append(
            [
                plan(dataclasses.replace(template, method=address(kind), parameters=dict(point), seed=seed))
                for seed in seeds
                for point in points
            ]
        )
    return Sweep(_ordered(curves), skipped)


def _check_parameters(names: Iterable[str], kinds: Sequence[type[Method]]) -> None:
    """Refuse a parameter that no chosen method has: it would change nothing."""
    known = {name for kind in kinds for name in kind.model_fields}
    for name in names:
        if name not in known:
            raise unknown("parameter", name, known, " in the methods chosen")


def make_named_sweep(
    task: str,
    cells: Sequence[Cells],
    seeds: Sequence[int] = (0,),
    scale: str = "mini",
    data: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    precision: str = FULL,
) -> Sweep:
    """Plan the cells of a task that reports declare; `benchmark.search` plans those whose value must be searched."""
    recipe = find_task(task).recipe(scale).override(overrides or {})
    template = Request(task, "", scale, data=data, overrides=overrides or {}, precision=precision)
    curves: list[list[Plan]] = []
    skipped: dict[str, str] = {}
    seen: set[str] = set()
    for each in cells:
        if each.task != task or each.equal_to is not None:
            continue
        for kind in resolve([each.method] if each.method else []):
            reason = kind.make({}).skip(find_task(task).name)
            if reason:
                skipped[kind.name] = reason
                continue
            plans = [
                plan(dataclasses.replace(template, method=kind.name, parameters=parameters, seed=seed))
                for seed in seeds
                for parameters in parameters_of(each, kind, recipe)
            ]
            new = list({one.cell.id: one for one in plans if one.cell.id not in seen}.values())
            seen |= {one.cell.id for one in new}
            curves += [new] if new else []
    return Sweep(_ordered(curves), skipped)


def _ordered(curves: Sequence[Sequence[Plan]]) -> list[Plan]:
    """Put starting cells first, then backbones that start from nothing, then the curves in turn, ends first."""
    plans = [each for curve in curves for each in curve]
    starts = {start.cell.id: start for each in plans if (start := each if each.is_start else each.start)}
    alone = [each for each in plans if each.from_nothing and not each.is_start]
    turns = itertools.zip_longest(*(_ends_first(curve) for curve in curves))
    rest = [each for turn in turns for each in turn if each and not each.from_nothing]
    return [*starts.values(), *alone, *rest]


def _ends_first(curve: Sequence[Plan]) -> list[Plan]:
    """Order a curve so that its two ends come first."""
    return [curve[0], curve[-1], *curve[1:-1]] if len(curve) > 2 else list(curve)


def run_sweep(
    sweep: Sweep,
    store: Store,
    jobs: int,
    force: bool = False,
    report: Report | None = None,
    finished: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Run a sweep's cells, ``jobs`` at a time.

    Parameters
    ----------
    report
        Called as ``report(cell id, phase, done, total)`` while cells train and evaluate.
    finished
        Called after each cell.

    Returns
    -------
    list of Outcome
        In the order in which the cells ended.
    """
    store.check_writable()
    todo = sweep.plans if force else sweep.pending(store)
    outcomes: list[Outcome] = []
    if not todo:
        return outcomes
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(_follow_parent)
    with manager:
        queue = manager.Queue()
        pool = ProcessPoolExecutor(max_workers=jobs, mp_context=context, initializer=_follow_parent)
        try:
            running: dict[Future[Any], Plan] = {}
            waiting = list(todo)
            failed: dict[str, str] = {}
            while waiting or running:
                _submit_ready(waiting, running, pool, store, queue, force, jobs, failed, outcomes, finished)
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                _drain(queue, report)
                for future in done:
                    outcome = _outcome(running.pop(future), future)
                    if outcome.status != "finished":
                        failed[outcome.plan.cell.id] = outcome.error
                    outcomes.append(outcome)
                    if finished:
                        finished(outcome)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()
    return outcomes


def _submit_ready(
    waiting: list[Plan],
    running: dict[Future[Any], Plan],
    pool: ProcessPoolExecutor,
    store: Store,
    queue: Any,
    force: bool,
    jobs: int,
    failed: dict[str, str],
    outcomes: list[Outcome],
    finished: Callable[[Outcome], None] | None,
) -> None:
    """Start waiting cells whose starting cell has finished, up to the number of jobs."""
    for planned in list(waiting):
        if len(running) >= jobs:
            return
        start = planned.start
        if start is not None and start.cell.id in failed:
            waiting.remove(planned)
            outcomes.append(Outcome(planned, "failed", f"its starting cell {start.cell.id} failed"))
            if finished:
                finished(outcomes[-1])
            continue
        if start is not None and not _finished(start, store):
            continue
        if start is not None and any(start.cell.id == each.cell.id for each in running.values()):
            continue
        waiting.remove(planned)
        running[pool.submit(_work, planned.request, str(store.root), force, queue)] = planned


def _follow_parent() -> None:
    """End this process soon after the one that started it, however that ends: nothing goes on unseen."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _finished(planned: Plan, store: Store) -> bool:
    try:
        record = store.find(planned.cell)
    except StoreError:
        return False  # a broken record fails when its cell is run, with the remedy; the other cells still run
    return record is not None and record.finished


def _drain(queue: Any, report: Report | None) -> None:
    while not queue.empty():
        message = queue.get()
        if report:
            report(*message)


def _outcome(planned: Plan, future: Future[Any]) -> Outcome:
    try:
        future.result()
    except BrokenProcessPool:
        raise SaibenchError(
            f"{planned.cell}: its process was killed (out of memory?); start the sweep again, with fewer --jobs"
        ) from None
    except SaibenchError as error:
        return Outcome(planned, "failed", str(error))
    return Outcome(planned, "finished")


def _work(request: Request, store: str, force: bool, queue: Any) -> None:
    """Run one cell in a worker process."""
    planned = plan(request)
    execute(planned, Store(store), force, StepReporter(lambda *step: queue.put((planned.cell.id, *step))))


def default_jobs(recipe: Recipe) -> int:
    """Return how many cells run side by side: one for each group of cores that a cell uses, one on a GPU."""
    if torch.cuda.is_available() or recipe.threads is None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // recipe.threads)
