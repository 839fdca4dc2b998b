"""The command ``saibench``: what it accepts and how it prints; the work is done elsewhere.

Exit codes: 0, 1 (a result failed, or an error that the user can mend), 2 (usage).
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from benchmark.errors import SaibenchError, UsageError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True, help="Embedded sets, and checking a folder.")
app.add_typer(data_app, name="data")
console = Console()
errors = Console(stderr=True)

TaskName = Annotated[str, typer.Argument(help="coco, cityscapes or imagenet", metavar="TASK")]
ScaleOption = Annotated[str, typer.Option("--scale", help="mini, small or paper")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="seed of everything random")]
DataOption = Annotated[Path | None, typer.Option("--data", help="the data set's folder; the embedded set without it")]
StoreOption = Annotated[Path, typer.Option("--store", help="folder of the records", envvar="SAIBENCH_STORE")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a method's parameter, name=value; repeatable")]
RecipeOption = Annotated[
    list[str] | None, typer.Option("--recipe", help="a recipe's field, such as train.steps=100; repeatable")
]
ForceOption = Annotated[bool, typer.Option("--force", help="run finished cells again")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
DEFAULT_STORE = Path("results/runs")


def main() -> NoReturn:
    """Run the command; every error that the user can mend becomes one line."""
    _silence_libraries()
    try:
        app(standalone_mode=True)
    except SaibenchError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("interrupted: finished cells are kept; the same command goes on from here")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def _silence_libraries() -> None:
    """Keep what torchvision says of its own code while it is imported from the user, here and in worker processes."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit\._script")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning:torch.jit._script")


def emit(value: Any) -> None:
    """Print JSON; NaN becomes null."""
    sys.stdout.write(json.dumps(_plain(value), indent=1, ensure_ascii=False, default=str) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def parse_settings(settings: Sequence[str] | None, option: str) -> dict[str, Any]:
    """Turn ``name=value`` words into values: JSON where it is JSON, text otherwise.

    Raises
    ------
    UsageError
        For a word without ``=``.
    """
    values = {}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {setting!r}: write it as name=value")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def split_list(text: str) -> list[str]:
    """Split a comma-separated option."""
    return [word for word in text.split(",") if word]


@app.command()
def methods(
    files: Annotated[list[Path] | None, typer.Argument(help="plug-in files to list too")] = None,
    json_: JsonOption = False,
) -> None:
    """List methods and baselines: parameters, curve, references, tasks."""
    from benchmark.method import discover
    from benchmark.tasks.base import task_names

    rows: list[dict[str, Any]] = []
    for method in discover(files or ()).values():
        reasons = {task: method.make({}).skip(task) for task in task_names()}
        rows.append(
            {
                "name": method.name,
                "what": (method.__doc__ or "").strip().splitlines()[0],
                "parameters": {name: field.default for name, field in method.model_fields.items()},
                "curve": {name: list(values) for name, values in method.curve.items()},
                "references": list(method.references),
                "tasks": [task for task, reason in reasons.items() if reason is None],
                "skipped": {task: reason for task, reason in reasons.items() if reason is not None},
            }
        )
    if json_:
        return emit(rows)
    table = Table("method", "what it does", "parameters (defaults)", "curve", "tasks", show_lines=True)
    for row in rows:
        table.add_row(
            row["name"],
            row["what"],
            "\n".join(f"{name}={value}" for name, value in row["parameters"].items()),
            "\n".join(f"{name}: {', '.join(map(str, values))}" for name, values in row["curve"].items()),
            "\n".join(row["tasks"] + [f"not {task}: {reason}" for task, reason in row["skipped"].items()]),
        )
    console.print(table)


@app.command()
def check(method: Annotated[str, typer.Argument(help="a method's name or file")], json_: JsonOption = False) -> None:
    """Check a method against the contract."""
    from benchmark.checks import check_method
    from benchmark.method import resolve

    results = check_method(resolve([method])[0])
    if json_:
        emit([vars(result) for result in results])
    else:
        table = Table("task", "check", "result")
        for result in results:
            colour = {"passed": "green", "failed": "red"}.get(result.status, "yellow")
            table.add_row(result.task, result.name, f"[{colour}]{result.status}[/{colour}] {escape(result.detail)}")
        console.print(table)
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


@data_app.command("make")
def data_make(
    task: TaskName,
    scale: ScaleOption = "mini",
    out: Annotated[Path | None, typer.Option("--out", help="folder to write to; the cache without it")] = None,
    json_: JsonOption = False,
) -> None:
    """Render a task's embedded set, in the real format."""
    from benchmark.cells import cache_folder
    from benchmark.data import embedded

    with _bar(json_) as bar:
        line = bar.add_task(f"render {task} {scale}", total=None)
        folder = embedded.make(
            task,
            scale,
            out or cache_folder() / "data",
            progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    found = {"folder": str(folder), "fingerprint": embedded.fingerprint(folder)}
    emit(found) if json_ else console.print(f"{folder}\nfingerprint {found['fingerprint']}", soft_wrap=True)


@data_app.command("verify")
def data_verify(
    task: TaskName, data: DataOption = None, scale: ScaleOption = "mini", json_: JsonOption = False
) -> None:
    """Check a data folder and say what is wrong, file by file."""
    from benchmark.cells import Request, data_folder
    from benchmark.data.verify import verify
    from benchmark.tasks import find_task

    find_task(task)
    report = verify(task, data_folder(Request(task, "", scale, data=data)))
    emit(report.to_dict()) if json_ else console.print(
        "\n".join(report.lines()), soft_wrap=True, highlight=False, markup=False
    )
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def run(
    task: TaskName,
    method: Annotated[str, typer.Option("--method", help="a method's name or file")],
    set_: SetOption = None,
    scale: ScaleOption = "mini",
    seed: SeedOption = 0,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    recipe: RecipeOption = None,
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Train, evaluate and count one cell, or show its record."""
    from lightning.pytorch.callbacks import RichProgressBar

    from benchmark.cells import Request, execute, plan
    from benchmark.store import Store

    request = Request(
        task, method, scale, parse_settings(set_, "--set"), seed, data, parse_settings(recipe, "--recipe")
    )
    destination = Store(store)
    destination.check_writable()
    planned = plan(request)
    record = execute(planned, destination, force, [] if json_ else [RichProgressBar()])
    if json_:
        return emit(dict(record.fields))
    table = Table("field", "value", title=str(planned.cell))
    for name, value in record.fields.items():
        if value is not None and not isinstance(value, list | dict):
            table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)
    console.print(str(record.folder), soft_wrap=True)


@app.command()
def sweep(
    task: TaskName,
    methods: Annotated[str, typer.Option("--methods", help="names or files, comma-separated; all without it")] = "",
    seeds: Annotated[str, typer.Option("--seeds", help="comma-separated")] = "0",
    scale: ScaleOption = "mini",
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    set_: SetOption = None,
    recipe: RecipeOption = None,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="cells at a time; 0: one a core, or one on a GPU")] = 0,
    executor: Annotated[str, typer.Option("--executor", help="local")] = "local",
    out: Annotated[Path | None, typer.Option("--out", help="also write the reports there as cells finish")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cells, run none")] = False,
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Run every point of every method's curve; finished cells are not run again."""
    from benchmark.store import Store
    from benchmark.sweep import default_jobs, make_sweep, run_sweep
    from benchmark.tasks import find_task

    if executor != "local":
        raise UsageError(f"executor {executor!r} is not there yet; there is local")
    if not all(seed.isdigit() for seed in split_list(seeds)):
        raise UsageError(f"--seeds {seeds!r}: give whole numbers, comma-separated")
    destination = Store(store)
    if not dry_run:
        destination.check_writable()
    cells = make_sweep(
        task,
        split_list(methods),
        [int(seed) for seed in split_list(seeds)],
        scale,
        data,
        parse_settings(recipe, "--recipe"),
        parse_settings(set_, "--set"),
    )
    for name, reason in cells.skipped.items():
        errors.print(f"skipped {name}: {escape(reason)}", soft_wrap=True, highlight=False)
    if dry_run:
        return _print_plan(cells, destination, json_)
    refresh = _refresher(store, out)
    with _bar(json_) as bar:
        display = SweepDisplay(bar, cells, len(cells.plans) if force else len(cells.pending(destination)), refresh)
        outcomes = run_sweep(
            cells,
            destination,
            jobs or default_jobs(find_task(task).recipe(scale)),
            force,
            display.report,
            display.finished,
        )
    failed = [outcome for outcome in outcomes if outcome.status != "finished"]
    if json_:
        emit([dict(record.fields) for each in cells.plans if (record := destination.find(each.cell)) is not None])
    else:
        kept = len(cells.plans) - len(outcomes)
        console.print(f"{len(outcomes) - len(failed)} cells run, {kept} were finished before, {len(failed)} failed")
    for outcome in failed:
        errors.print(f"[red]failed:[/red] {escape(outcome.error)}", soft_wrap=True, highlight=False)
    if failed:
        raise typer.Exit(1)


class SweepDisplay:
    """Progress of a sweep: a bar for the whole, a bar for each running cell; rewrites reports as cells finish."""

    def __init__(self, bar: Progress, sweep: Any, pending: int, refresh: Callable[[], None]) -> None:
        self.bar, self.refresh = bar, refresh
        self.names = {each.cell.id: _short(each) for each in sweep.plans}
        self.whole = bar.add_task("cells", total=pending)
        self.lines: dict[str, TaskID] = {}

    def report(self, cell_id: str, phase: str, done: int, total: int) -> None:
        """Move a cell's bar."""
        if cell_id not in self.lines:
            self.lines[cell_id] = self.bar.add_task("")
        text = f"{self.names.get(cell_id, cell_id)}: {phase}"
        self.bar.update(self.lines[cell_id], description=escape(text), completed=done, total=total)

    def finished(self, outcome: Any) -> None:
        """Count a cell and redraw."""
        line = self.lines.pop(outcome.plan.cell.id, None)
        if line is not None:
            self.bar.remove_task(line)
        self.bar.advance(self.whole)
        self.bar.console.print(f"{outcome.status}: {escape(_short(outcome.plan))}", highlight=False)
        self.refresh()


def _short(planned: Any) -> str:
    point = " ".join(f"{name}={value}" for name, value in planned.request.parameters.items())
    return f"{planned.method.name} {point} seed={planned.request.seed}".replace("  ", " ")


def _refresher(store: Path, out: Path | None) -> Callable[[], None]:
    """Return what rewrites the reports, or nothing to do."""
    if out is None:
        return lambda: None
    import reports

    return lambda: cast(None, reports.build([store], out))


def _print_plan(cells: Any, store: Any, json_: bool) -> None:
    pending = {each.cell.id for each in cells.pending(store)}
    rows = [
        {"cell_id": each.cell.id, "cell": _short(each), "state": "to run" if each.cell.id in pending else "finished"}
        for each in cells.plans
    ]
    if json_:
        return emit(rows)
    table = Table("cell", "what", "state")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


@app.command()
def flops(
    task: TaskName,
    backbone: Annotated[str | None, typer.Option("--backbone", help="in place of the recipe's")] = None,
    shorter_side: Annotated[
        int | None, typer.Option("--shorter-side", min=32, help="of the nominal image, pixels")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="a method's name or file; dense without it")] = None,
    set_: SetOption = None,
    density: Annotated[float | None, typer.Option("--density", help="of every masked layer, 0 to 1")] = None,
    convention: Annotated[str, typer.Option("--convention", help="paper or measured")] = "paper",
    scope: Annotated[str, typer.Option("--scope", help="backbone, neck, head or all")] = "all",
    scale: ScaleOption = "paper",
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Count a task's model at a nominal image size, layer by layer, without running it."""
    from benchmark.flops.command import FlopsRequest, count_flops

    request = FlopsRequest(
        task, backbone, shorter_side, method, parse_settings(set_, "--set"), density,
        cast(Any, convention), cast(Any, scope), scale, seed,
    )  # fmt: skip
    answer = count_flops(request)
    if json_:
        return emit(answer)
    table = Table("layer", "kind", "scope", "density", "MMACs")
    for row in answer["layers"]:
        part = "" if row["density"] is None else f"{row['density']:.3f}"
        table.add_row(row["layer"], row["kind"], row["scope"], part, f"{row['macs'] / 1e6:,.2f}")
    console.print(table)
    console.print(f"not counted: {', '.join(answer['uncounted'])}", highlight=False)
    console.print(
        f"{answer['gmacs']:.3f} GMACs ({answer['convention']} convention, {answer['height']}x{answer['width']}); "
        "the paper writes GFLOPs for GMACs",
        highlight=False,
    )


_TIMED = {
    "backbone": ("deformable", "density", "gmacs", "seconds", "speedup", "speedup_theoretical", "share"),
    "peers": ("peer", "version", "seconds", "engine_dense_speedup", "skipped"),
}
"""What of a timing's rows fits a terminal; the file has all of it."""


@app.command("time")
def time_(
    backbone: Annotated[str, typer.Option("--backbone", help="a backbone's name")] = "resnet101",
    size: Annotated[str, typer.Option("--size", help="HxW in pixels; small: 256x416, full: 992x1664")] = "full",
    density: Annotated[list[float] | None, typer.Option("--density", help="share sampled; repeatable")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="of every runtime; all without it")] = None,
    peers: Annotated[str, typer.Option("--peers", help="torch,torch-frozen,onnxruntime,openvino; or all")] = "",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="timed rounds, after one that is not")] = 5,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="a trained cell's id: its own masks")] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="validation images of the cell to time")] = 10,
    data: DataOption = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Time the CPU engine, dense and sparse, beside other runtimes; Table 5's densities included."""
    from benchmark.engine import timer

    cell = None if checkpoint is None else _trained(checkpoint, store, data, images)
    with _bar(json_) as bar:
        line = bar.add_task("compile", total=None)
        measured = timer.run(
            backbone,
            _size(size, timer.SIZES),
            density or timer.DENSITIES,
            peers=timer.PEERS if peers == "all" else split_list(peers),
            threads=threads,
            rounds=rounds,
            cell=cell,
            progress=lambda done, total, what: bar.update(line, completed=done, total=total, description=escape(what)),
        )
    path = timer.save(measured, store)
    if json_:
        return emit(measured)
    for name, fields in _TIMED.items():
        rows = measured.get(name) or []
        if rows:
            _print_rows(name, [{field: row[field] for field in fields} for row in rows])
    if measured.get("cell"):
        console.print_json(json.dumps(_plain(measured["cell"]), default=str))
    console.print(f"break-even density: {measured['break_even']}", highlight=False)
    console.print(str(path), soft_wrap=True)


def _size(text: str, known: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    if text in known:
        return known[text]
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) >= 32 and int(width) >= 32):
        raise UsageError(f"--size {text!r}: write it as HxW in pixels, at least 32x32, or {', '.join(known)}")
    return int(height), int(width)


def _trained(cell: str, store: Path, data: Path | None, images: int) -> tuple[Any, Any, int]:
    """Return a trained cell's backbone, what it reads for some validation images, and its seed."""
    from benchmark.cells import backbone_inputs, load_model, plan_of
    from benchmark.store import Store

    record = Store(store).get(cell)
    planned = plan_of(record, data)
    model = load_model(record, planned)
    return planned.task.backbone(model), backbone_inputs(model, planned, images), planned.request.seed


def _print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


@app.command()
def report(
    only: Annotated[str, typer.Option("--only", help="comma-separated, such as figure4,table4; all without it")] = "",
    store: Annotated[list[Path] | None, typer.Option("--store", help="folder of records; repeatable")] = None,
    out: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path("results/reports"),
    json_: JsonOption = False,
) -> None:
    """Write the paper's tables and figures from the records: Markdown, CSV, LaTeX, PNG, SVG."""
    import reports

    outputs = reports.build(store or [DEFAULT_STORE], out, split_list(only) or None)
    if json_:
        return emit([{**vars(output), "files": [str(path) for path in output.files]} for output in outputs])
    for output in outputs:
        console.print(output.text, soft_wrap=True, highlight=False, markup=False)
        for warning in output.warnings:
            errors.print(f"warning: {escape(warning)}", soft_wrap=True, highlight=False)
        for path in output.files:
            console.print(str(path), soft_wrap=True, highlight=False)


@app.command()
def info(json_: JsonOption = False) -> None:
    """Show versions, hardware and the data found."""
    from benchmark.cells import cache_folder
    from benchmark.data import embedded
    from benchmark.store import provenance

    found = {name: value for name, value in provenance().items() if name not in ("started", "finished")}
    found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found["cache"] = str(cache_folder())
    rendered = cache_folder() / "data"
    found["embedded sets"] = sorted(path.parent.name for path in rendered.glob(f"*/{embedded.MANIFEST}"))
    found["weights"] = sorted(path.name for path in (cache_folder() / "weights").glob("*.safetensors"))
    if json_:
        return emit(found)
    table = Table("what", "value")
    for name, value in found.items():
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    console.print(table)


def _bar(quiet: bool) -> Progress:
    """Return a progress display on standard error, silent for JSON."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=errors, disable=quiet,
    )  # fmt: skip


if __name__ == "__main__":
    main()
