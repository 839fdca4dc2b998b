"""``saibench data make`` and ``saibench data verify``: embedded sets, and checking a folder."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from benchmark.cli.app import app
from benchmark.cli.options import DataOption, JsonOption, ScaleOption, TaskName
from benchmark.cli.output import emit, print_line
from benchmark.cli.progress import display
from benchmark.errors import UsageError

Number = TypeVar("Number", int, float)
data_app = typer.Typer(no_args_is_help=True, help="Embedded sets, and checking a folder.")
app.add_typer(data_app, name="data")


@data_app.command()
def make(
    task: TaskName,
    scale: ScaleOption = "mini",
    out: Annotated[Path | None, typer.Option("--out", help="folder to write to; the cache without it")] = None,
    pixels: Annotated[
        int | None, typer.Option("--pixels", min=64, help="height of an image, at scale evidence")
    ] = None,
    period: Annotated[float | None, typer.Option("--period", help="of the detail that tells a class, pixels")] = None,
    objects: Annotated[
        str | None, typer.Option("--objects", help="smallest and largest side over the image's, as 0.04,0.7")
    ] = None,
    images: Annotated[str | None, typer.Option("--images", help="of train and val, as 1200,300")] = None,
    json_: JsonOption = False,
) -> None:
    """Render a task's embedded set, in the real format."""
    from benchmark.data.embedded import fingerprint
    from benchmark.files import cache_folder
    from benchmark.tasks import find_task

    embedded, size = find_task(task).embedded, None
    if any(knob is not None for knob in (pixels, period, objects, images)):
        shares, numbers = _two(objects, "--objects", float), _two(images, "--images", int)
        split = None if numbers is None else dict(zip(("train", "val"), numbers, strict=True))
        size = embedded.varied(scale, pixels, split, period=period, shares=shares)
    with display(json_) as shown:
        folder = embedded.make(
            scale,
            out or cache_folder() / "data",
            size=size,
            progress=lambda done, total: shown.update(task, f"render {task} {scale}", done, total),
        )
    found = {"folder": str(folder), "fingerprint": fingerprint(folder)}
    emit(found) if json_ else print_line(f"{folder}\nfingerprint {found['fingerprint']}")


def _two(given: str | None, option: str, kind: type[Number]) -> tuple[Number, Number] | None:
    """Return the two positive numbers of an option, or None where it is not given."""
    if given is None:
        return None
    try:
        first, second = (kind(part) for part in given.split(","))
    except ValueError:
        raise UsageError(f"{option} {given}: give two numbers with a comma between them") from None
    if first <= 0 or second <= 0:
        raise UsageError(f"{option} {given}: both are above 0")
    return first, second


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
