"""``saibench sweep``: every cell of a task's curves."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from benchmark.cli.app import app
from benchmark.cli.options import (
    DEFAULT_STORE,
    DataOption,
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
from benchmark.cli.output import emit, print_error, print_line, print_note, print_table
from benchmark.cli.progress import SweepDisplay, describe, display
from benchmark.errors import UsageError


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
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="cells at a time; 0: one a core, or one on a GPU")] = 0,
    executor: Annotated[str, typer.Option("--executor", help="local")] = "local",
    out: Annotated[Path | None, typer.Option("--out", help="also write the reports there as cells finish")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cells, run none")] = False,
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Run every point of every method's curve, or what a report needs; finished cells are not run again."""
    chosen = split_list(methods, "--methods")
    check_methods(chosen)
    numbers = _numbers(seeds)
    parameters, overrides = parse_settings(set_, "--set"), parse_recipe(recipe, from_scratch)
    if executor != "local":
        raise UsageError(f"executor {executor!r} is not there yet; there is local")

    wanted = split_list(cells, "--cells")
    if wanted and (chosen or parameters):
        raise UsageError("--cells chooses methods and parameters itself; leave out --methods and --set")

    from benchmark.search import make_searches
    from benchmark.store import Store
    from benchmark.sweep import Sweep, default_jobs, make_named_sweep, make_sweep, run_sweep
    from benchmark.tasks import find_task

    destination = Store(store)
    if not dry_run:
        destination.check_writable()
    named = _named(wanted, task) if wanted else []
    if wanted:
        planned = make_named_sweep(task, named, numbers, scale, data, overrides, precision)
    else:
        planned = make_sweep(task, chosen, numbers, scale, data, overrides, parameters, precision)
    searches = make_searches(named, numbers, scale, data, overrides, precision)
    for name, reason in planned.skipped.items():
        print_note(f"skipped {name}: {reason}")
    if dry_run:
        return _print_plan(planned, destination, json_)
    refresh = _refresher(store, out)
    workers = jobs or default_jobs(find_task(task).recipe(scale))

    def run(batch: Sweep, force: bool) -> list[Any]:
        with display(json_) as shown:
            count = len(batch.plans) if force else len(batch.pending(destination))
            progress = SweepDisplay(shown, batch, count, refresh)
            return run_sweep(batch, destination, workers, force, progress.report, progress.finished)

    outcomes = run(planned, force)
    while following := [each for search in searches for each in search.next(destination)]:
        planned.plans.extend(following)
        outcomes += run(Sweep(following, {}), False)
    _finish(planned, outcomes, destination, json_)


def _finish(planned: Any, outcomes: Sequence[Any], store: Any, json_: bool) -> None:
    """Print how the sweep ended; exit with 1 if a cell failed."""
    failed = [outcome for outcome in outcomes if outcome.status != "finished"]
    if json_:
        emit([dict(record.fields) for each in planned.plans if (record := store.find(each.cell)) is not None])
    else:
        kept = len(planned.plans) - len(outcomes)
        print_line(f"{len(outcomes) - len(failed)} cells run, {kept} were finished before, {len(failed)} failed")
    for outcome in failed:
        print_error(outcome.error, "failed")
    if failed:
        raise typer.Exit(1)


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

    return lambda: cast(None, reports.build([store], out))


def _print_plan(cells: Any, store: Any, json_: bool) -> None:
    pending = {each.cell.id for each in cells.pending(store)}
    rows = [
        {
            "cell_id": each.cell.id,
            "cell": describe(each),
            "state": "to run" if each.cell.id in pending else "finished",
        }
        for each in cells.plans
    ]
    emit(rows) if json_ else print_table(rows)
