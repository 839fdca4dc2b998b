"""``saibench data make`` and ``saibench data verify``: embedded sets, and checking a folder."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.app import app
from benchmark.cli.options import DataOption, JsonOption, ScaleOption, TaskName
from benchmark.cli.output import emit, print_line
from benchmark.cli.progress import display

data_app = typer.Typer(no_args_is_help=True, help="Embedded sets, and checking a folder.")
app.add_typer(data_app, name="data")


@data_app.command()
def make(
    task: TaskName,
    scale: ScaleOption = "mini",
    out: Annotated[Path | None, typer.Option("--out", help="folder to write to; the cache without it")] = None,
    json_: JsonOption = False,
) -> None:
    """Render a task's embedded set, in the real format."""
    from benchmark.cells import cache_folder
    from benchmark.data.embedded import fingerprint
    from benchmark.tasks import find_task

    with display(json_) as shown:
        folder = find_task(task).embedded.make(
            scale,
            out or cache_folder() / "data",
            progress=lambda done, total: shown.update(task, f"render {task} {scale}", done, total),
        )
    found = {"folder": str(folder), "fingerprint": fingerprint(folder)}
    emit(found) if json_ else print_line(f"{folder}\nfingerprint {found['fingerprint']}")


@data_app.command()
def verify(task: TaskName, data: DataOption = None, scale: ScaleOption = "mini", json_: JsonOption = False) -> None:
    """Check a data folder and say what is wrong, file by file."""
    from benchmark.cells import Request, data_folder
    from benchmark.data.verification import verify as verify_folder
    from benchmark.tasks import find_task

    folder = data_folder(Request(task, "", scale, data=data))
    with display(json_) as shown:
        report = verify_folder(
            find_task(task), folder, progress=lambda done, total: shown.update(task, f"verify {task}", done, total)
        )
    emit(report.to_dict()) if json_ else print_line("\n".join(report.lines()))
    if not report.ok:
        raise typer.Exit(1)
