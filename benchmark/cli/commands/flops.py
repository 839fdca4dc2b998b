"""``saibench flops``: counting a model without running it."""

from typing import Annotated, Any, cast

import typer

from benchmark.cli.app import app
from benchmark.cli.options import JsonOption, ScaleOption, SeedOption, SetOption, TaskName, parse_settings
from benchmark.cli.output import emit, print_line, print_table


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
    print_table(
        [
            {
                "layer": row["layer"],
                "kind": row["kind"],
                "scope": row["scope"],
                "density": "" if row["density"] is None else f"{row['density']:.3f}",
                "MMACs": f"{row['macs'] / 1e6:,.2f}",
            }
            for row in answer["layers"]
        ]
    )
    print_line(f"not counted: {', '.join(answer['uncounted'])}")
    print_line(
        f"{answer['gmacs']:.3f} GMACs ({answer['convention']} convention, {answer['height']}x{answer['width']}); "
        "the paper writes GFLOPs for GMACs"
    )
