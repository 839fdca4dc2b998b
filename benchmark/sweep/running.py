"""Running a sweep's cells: each once, in order, whoever else runs cells of the same store.

The store's locks decide who runs a cell. One that another process holds is left to it: the others go on, and at the
end the sweep waits for it. A cell that fails does not stop the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmark.cells import Plan
from benchmark.executors import Ended, Executor, Job
from benchmark.store import Store
from benchmark.sweep.choosing import Sweep
from benchmark.sweep.states import State, state_of


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes
    ----------
    plan : Plan
    error : str
        Why it has no result; empty where it has one.
    elsewhere : bool
        Whether another process ran it.
    """

    plan: Plan
    error: str = ""
    elsewhere: bool = False

    @property
    def status(self) -> str:
        """``finished`` or ``failed``."""
        return "failed" if self.error else "finished"


def _ignore(*arguments: object) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Watch:
    """Who is told what goes on.

    Attributes
    ----------
    report : callable
        Called as ``report(cell id, phase, done, total)`` while cells train and evaluate.
    finished : callable
        Called with each `Outcome`.
    waiting : callable
        Called with the number of cells that are left to other processes, whenever nothing else is left to do.
    """

    report: Callable[[str, str, int, int], None] = _ignore
    finished: Callable[[Outcome], None] = _ignore
    waiting: Callable[[int], None] = _ignore


def to_run(sweep: Sweep, store: Store, force: bool = False, retry_failed: bool = False) -> list[State]:
    """Return the cells that a run of the sweep starts or waits for: without `force`, those that have not ended.

    One with a broken record is among them: it fails when it is run, with the remedy, and the others run.
    """

    def wanted(state: State) -> bool:
        again = state.failed and (retry_failed or state.record is None)
        return force or again or state.name in ("running", "to do")

    return [state for each in sweep.plans if wanted(state := state_of(each, store))]


def run_sweep(
    sweep: Sweep,
    store: Store,
    executor: Executor,
    force: bool = False,
    retry_failed: bool = False,
    watch: Watch | None = None,
) -> list[Outcome]:
    """Run a sweep's cells, or wait for those that other processes run.

    Parameters
    ----------
    force
        Run finished and failed cells again.
    retry_failed
        Run failed cells again.

    Returns
    -------
    list of Outcome
        In the order in which the cells ended; of cells that had ended before, none.
    """
    store.check_writable()
    todo = to_run(sweep, store, force, retry_failed)
    known = {each.plan.cell.id: _made(each) for each in todo}
    run = _Run(store, executor, watch or Watch(), force, known, [each.plan for each in todo])
    while run.waiting or run.running:
        run.turn()
    return run.outcomes


def _made(state: State) -> str | None:
    """Return when a cell's record was made, if there is one."""
    return None if state.record is None else state.record["finished"]


@dataclass
class _Run:
    """A sweep under way: which cells wait, which run, and how the others ended.

    `known` is when each cell's record was made that was there at the beginning.
    """

    store: Store
    executor: Executor
    watch: Watch
    force: bool
    known: Mapping[str, str | None]
    waiting: list[Plan]
    running: dict[str, Plan] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def turn(self) -> None:
        """Start what can be started, and take in what has ended."""
        self._start()
        if self.waiting and not self.running:
            self.watch.waiting(len(self.waiting))
        for planned in self.running.values() or self.waiting:
            progress = self.store.progress(planned.cell)
            if progress is not None:
                self.watch.report(planned.cell.id, *progress)
        for ended in self.executor.poll(self.executor.pause) if self.waiting or self.running else []:
            self._take_in(ended)

    def _start(self) -> None:
        """Start waiting cells in their order, as far as there are slots."""
        free = len(self.waiting) if self.executor.slots is None else self.executor.slots - len(self.running)
        jobs: list[Job] = []
        for planned in list(self.waiting):
            if len(jobs) == free:
                break
            job = self._job(planned)
            if job is not None:
                jobs.append(job)
                self.waiting.remove(planned)
                self.running[planned.cell.id] = planned
        if jobs:
            self.executor.start(jobs)

    def _job(self, planned: Plan) -> Job | None:
        """Return what to start for a waiting cell; None where it goes on waiting, or has ended without us."""
        start = planned.start
        if start is not None:
            if start.cell.id in self.running or any(start.cell.id == each.cell.id for each in self.waiting):
                return None
            name = state_of(start, self.store).name
            if name == "running":
                return None
            if name != "finished":
                self._end(planned, f"{planned.cell}: its starting cell {start.cell.id} has no result")
                return None
        state, known = state_of(planned, self.store), self.known[planned.cell.id]
        if state.name == "running":  # by another process
            return None
        if _made(state) != known and not self.force:
            error = "" if state.name == "finished" else f"{planned.cell}: {state.name}: {state.detail}"
            self._end(planned, error, elsewhere=True)
            return None
        return Job(planned.cell.id, planned.request, str(self.store.root.resolve()), self.force, known)

    def _take_in(self, ended: Ended) -> None:
        planned = self.running.pop(ended.cell_id)
        self.waiting.append(planned)
        if not ended.busy:  # one that is busy waits for the process that came first
            self._end(planned, ended.error)

    def _end(self, planned: Plan, error: str, elsewhere: bool = False) -> None:
        """Take a waiting cell out."""
        self.waiting.remove(planned)
        self.outcomes.append(Outcome(planned, error, elsewhere))
        self.watch.finished(self.outcomes[-1])
