"""``saibench weights make`` and ``saibench weights verify``: the starting weights that the project ships."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.app import app
from benchmark.cli.options import JsonOption, ScaleOption, TaskName
from benchmark.cli.output import emit, print_line
from benchmark.cli.progress import Display, display

weights_app = typer.Typer(no_args_is_help=True, help="The starting weights of scales mini and evidence.")
app.add_typer(weights_app, name="weights")


@weights_app.command()
def make(
    task: TaskName,
    scale: ScaleOption = "mini",
    backbone: Annotated[list[str] | None, typer.Option("--backbone", help="repeatable; all without it")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="in place of the recipe's")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder to write to; the task's own without it")] = None,
    json_: JsonOption = False,
) -> None:
    """Train a task's starting weights from nothing, on rendered scenes; resumes where it was interrupted."""
    from benchmark.progress import StepReporter
    from benchmark.tasks import find_task
    from benchmark.weights import files, making

    found = find_task(task)
    records = []
    for each in making.makings(found, scale, backbone or (), steps):
        destination = out or files.folder(found)
        with display(json_) as shown:
            report = functools.partial(_report, shown, each.backbone)
            each.data(functools.partial(report, "render"))
            records.append(making.make(each, destination, StepReporter(report)))
        if not json_:
            record = records[-1]
            print_line(f"{destination / each.backbone}.safetensors: {record['metric']} {record['value']:.4f}")
    if json_:
        emit(records)


def _report(shown: Display, backbone: str, phase: str, done: int, total: int) -> None:
    """Show how far one phase of making a backbone's weights is."""
    shown.update(phase, f"{backbone}: {phase}", done, total)


@weights_app.command()
def verify(task: Annotated[str | None, typer.Argument(help="all tasks without it", metavar="TASK")] = None) -> None:
    """Check starting weights against their record: hash, keys, and the metric on the validation images."""
    from benchmark.listing import task_names
    from benchmark.tasks import find_task
    from benchmark.weights import making, verifying

    wrong = []
    for found_task in map(find_task, [task] if task else task_names()):
        for scale in (scale for scale, recipe in found_task.recipes.items() if recipe.shipped):
            for each in making.makings(found_task, scale):
                found = verifying.verify(each)
                print_line("\n".join(found) or f"{found_task.name} {each.backbone}: as its record says")
                wrong += found
    if wrong:
        raise typer.Exit(1)
