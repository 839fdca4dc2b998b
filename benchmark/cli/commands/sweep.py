"""``saibench sweep``: every cell of a task's curves."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.app import app
from benchmark.cli.options import (
    DEFAULT_STORE,
    DataOption,
    DevicesOption,
    ExecutorOption,
    ForceOption,
    JsonOption,
    PrecisionOption,
    RecipeOption,
    ScaleOption,
    ScratchOption,
    SetOption,
    StoreOption,
    TaskName,
    check_methods,
    complete_methods,
    complete_reports,
    parse_recipe,
    parse_settings,
    split_list,
)
from benchmark.cli.output import emit, print_error, print_line, print_note, print_warning
from benchmark.cli.plans import plan_as_json, print_plan, print_status
from benchmark.cli.progress import SweepDisplay, display
from benchmark.errors import SaibenchError, UsageError


@app.command()
def sweep(
    task: TaskName,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="names or files, comma-separated; all without it",
            autocompletion=complete_methods,
        ),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(
            "--cells",
            help="the cells that reports need instead: names, comma-separated, or all",
            autocompletion=complete_reports,
        ),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="comma-separated")] = "0",
    scale: ScaleOption = "mini",
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    set_: SetOption = None,
    recipe: RecipeOption = None,
    from_scratch: ScratchOption = False,
    precision: PrecisionOption = "32-true",
    devices: DevicesOption = 1,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="cells at a time; 0: one a core, or one on a GPU")] = 0,
    executor: ExecutorOption = "local",
    partition: Annotated[str | None, typer.Option("--partition", help="of a Slurm cluster")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs of a Slurm job")] = None,
    time: Annotated[str | None, typer.Option("--time", help="limit of a Slurm job, as 2:00:00")] = None,
    slurm: Annotated[
        list[str] | None, typer.Option("--slurm", help="another option of sbatch, as mem=16G; repeatable")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="also write the reports there as cells finish")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what the cells will take, run none")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="with --dry-run: time a few steps of cells that no record times")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="say how far each cell is, run none")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run failed cells again")] = False,
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Run every point of every method's curve, or what a report needs; cells that have ended are not run again."""
    chosen = split_list(methods, "--methods")
    check_methods(chosen)
    numbers = _numbers(seeds)
    if measure and not dry_run:
        raise UsageError("--measure goes with --dry-run")
    if measure and devices > 1:
        raise UsageError("--measure times cells on one device: leave out --devices")
    parameters, overrides = parse_settings(set_, "--set"), parse_recipe(recipe, from_scratch)
    wanted = split_list(cells, "--cells")
    if wanted and (chosen or parameters):
        raise UsageError("--cells chooses methods and parameters itself; leave out --methods and --set")

    from benchmark.executors import Settings, find_executor
    from benchmark.hardware import Hardware
    from benchmark.search import STEPS, make_searches
    from benchmark.store import Store
    from benchmark.sweep import make_named_sweep, make_sweep, state_of
    from benchmark.tasks import find_task

    hardware = Hardware(precision, devices)
    if executor == "local":
        hardware.check()
    destination = Store(store)
    threads = find_task(task).recipe(scale).override(overrides).threads
    queue = {"partition": partition, "gpus": gpus, "time": time, **parse_settings(slurm, "--slurm")}
    queue = {name: value for name, value in queue.items() if value is not None}
    threads = threads and threads * devices
    runner = find_executor(executor, Settings(jobs, threads, destination.root / SLURM, queue, print_note))
    if not dry_run and not status:
        destination.check_writable()
    named = _named(wanted, task) if wanted else []
    if wanted:
        planned = make_named_sweep(task, named, numbers, scale, data, overrides, hardware)
    else:
        planned = make_sweep(task, chosen, numbers, scale, data, overrides, parameters, hardware)
    searches = make_searches(named, numbers, scale, data, overrides, hardware)
    if not planned.plans and not searches:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in planned.skipped.items())
        raise UsageError(f"no cell to run on {task}: {reasons or 'nothing was chosen'}")
    for name, reason in planned.skipped.items():
        print_note(f"skipped {name}: {reason}")
    if status:
        return print_status([state_of(each, destination) for each in planned.plans], json_)
    if dry_run:
        if searches:
            print_note(f"{len(searches)} searches add at most {len(searches) * STEPS * len(numbers)} cells")
        return _show_plan(planned, destination, runner.slots or jobs, (force, retry_failed), measure, json_)
    _warn(planned.plans)
    run = _Run(planned, destination, json_, _refresher(store, out))
    with contextlib.closing(runner):
        run.all(runner, searches, force, retry_failed)
    run.finish()


def _warn(plans: Sequence[Any]) -> None:
    """Say what is doubtful in the data, before anything is trained on them."""
    from benchmark.cells import examined

    for line in examined(plans[0].task.name, plans[0].folder) if plans else ():
        print_warning(line)


def _show_plan(planned: Any, store: Any, jobs: int, again: tuple[bool, bool], measure: bool, json_: bool) -> None:
    """Say what the cells of a sweep will take."""
    from benchmark.sweep import state_of, to_run
    from benchmark.sweep.estimates import Estimator
    from benchmark.sweep.measuring import measure as time_cells

    todo = to_run(planned, store, *again)
    estimator = Estimator(store)
    untimed = [each.plan for each in todo if estimator.rate(each.plan) is None] if measure else []
    if untimed:
        with display(json_) as shown:
            rates = time_cells(untimed, lambda done: shown.update("", "cells timed", done, len(untimed)))
        estimator = Estimator(store, rates)
    states = [state_of(each, store) for each in planned.plans]
    estimates = [estimator.estimate(each) for each in states]
    if json_:
        return emit(plan_as_json(states, estimates, todo, store))
    print_plan(states, estimates, todo, jobs, store)


SLURM = ".slurm"  # the folder of logs, in the store's root


class _Run:
    """A sweep that is run and shown."""

    def __init__(self, planned: Any, store: Any, json_: bool, refresh: Callable[[], None]) -> None:
        from benchmark.sweep import state_of

        self.planned, self.store, self.json, self.refresh = planned, store, json_, refresh
        self.outcomes: dict[str, Any] = {}
        self.before = [state_of(each, store) for each in planned.plans]

    def all(self, executor: Any, searches: Sequence[Any], force: bool, retry_failed: bool) -> None:
        """Run the cells, then what searches ask for, until they ask for nothing that has not been tried."""
        from benchmark.sweep import Sweep, state_of

        self._batch(self.planned, executor, force, retry_failed)
        while following := {
            each.cell.id: each
            for search in searches
            for each in search.next(self.store)
            if each.cell.id not in self.outcomes
        }:
            self.planned.plans.extend(following.values())
            self._batch(Sweep(list(following.values()), {}), executor, False, False)
        known = {state.plan.cell.id for state in self.before} | set(self.outcomes)
        for stopped in (each for search in searches for each in search.stopped(self.store)):
            if stopped.cell.id not in known:
                known.add(stopped.cell.id)
                self.planned.plans.append(stopped)
                self.before.append(state_of(stopped, self.store))

    def _batch(self, batch: Any, executor: Any, force: bool, retry_failed: bool) -> None:
        from benchmark.sweep import Watch, run_sweep, to_run

        with display(self.json) as shown:
            count = len(to_run(batch, self.store, force, retry_failed))
            progress = SweepDisplay(shown, batch, count, self.refresh)
            watch = Watch(progress.report, progress.finished, progress.waiting)
            outcomes = run_sweep(batch, self.store, executor, force, retry_failed, watch)
        self.outcomes |= {outcome.plan.cell.id: outcome for outcome in outcomes}

    def finish(self) -> None:
        """Print how the sweep ended; exit with 1 if a cell failed."""
        from benchmark.sweep import state_of

        outcomes = list(self.outcomes.values())
        failed = [outcome for outcome in outcomes if outcome.error]
        old = [state for state in self.before if state.failed and state.plan.cell.id not in self.outcomes]
        if self.json:
            records = [state_of(each, self.store).record for each in self.planned.plans]
            emit([dict(record.fields) for record in records if record is not None])
        else:
            elsewhere = sum(outcome.elsewhere and not outcome.error for outcome in outcomes)
            counts = {
                "cells run": len(outcomes) - len(failed) - elsewhere,
                "run by other processes": elsewhere,
                "were finished before": len(self.planned.plans) - len(outcomes) - len(old),
                "failed": len(failed),
                "failed before (--retry-failed runs them again)": len(old),
            }
            print_line(", ".join(f"{count} {what}" for what, count in counts.items() if count or what in _ALWAYS))
        for outcome in failed:
            print_error(outcome.error, "failed")
        for state in old:
            print_error(f"{state.plan.cell}: {state.detail}", f"{state.name} before")
        if failed or old:
            raise typer.Exit(1)


_ALWAYS = ("cells run", "were finished before", "failed")  # the counts that are told also where they are 0


def _named(names: Sequence[str], task: str) -> list[Any]:
    """Return the cells that reports declare for a task."""
    import reports

    found = [each for each in reports.cells(names) if each.task == task]
    if not found:
        raise UsageError(f"--cells {','.join(names)}: no cells of {task}; give another task")
    return found


def _numbers(seeds: str) -> list[int]:
    words = split_list(seeds, "--seeds")
    if not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(f"--seeds {seeds!r}: give whole numbers, comma-separated")
    return [int(word) for word in words]


def _refresher(store: Path, out: Path | None) -> Callable[[], None]:
    """Return what rewrites the reports, or nothing to do."""
    if out is None:
        return lambda: None
    import reports

    def refresh() -> None:
        try:
            reports.build([store], out)
        except (OSError, SaibenchError) as error:  # cells go on: the reports can be written when all are there
            print_warning(f"the reports are not up to date: {error}")

    return refresh
