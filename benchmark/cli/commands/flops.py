"""``saibench flops``: counting a model without running it."""

from typing import Annotated, Literal

import typer

from benchmark.cli.app import app
from benchmark.cli.options import (
    JsonOption,
    OptionalMethodName,
    ScaleOption,
    SeedOption,
    SetOption,
    TaskName,
    parse_settings,
)
from benchmark.cli.output import emit, print_line, print_table


@app.command()
def flops(
    task: TaskName,
    backbone: Annotated[str | None, typer.Option("--backbone", help="in place of the recipe's")] = None,
    shorter_side: Annotated[
        int | None, typer.Option("--shorter-side", min=32, help="of the nominal image, pixels")
    ] = None,
    method: OptionalMethodName = None,
    set_: SetOption = None,
    density: Annotated[float | None, typer.Option("--density", help="of every masked layer, 0 to 1")] = None,
    convention: Annotated[Literal["paper", "measured"], typer.Option("--convention", help="how to count")] = "paper",
    scope: Annotated[
        Literal["backbone", "neck", "head", "all"], typer.Option("--scope", help="part of the model")
    ] = "all",
    scale: ScaleOption = "paper",
    seed: SeedOption = 0,
    floor: Annotated[
        bool, typer.Option("--floor", help="what the backbone computes where the method samples nothing")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Count a task's model at a nominal image size, layer by layer, without running it."""
    parameters = parse_settings(set_, "--set")

    from benchmark.flops.command import FlopsRequest, count_flops

    request = FlopsRequest(task, backbone, shorter_side, method, parameters, density, convention, scope, scale, seed)
    if floor:
        from benchmark.flops.floor import count_floor

        found = count_floor(request)
        if json_:
            return emit(found)
        pieces = ", ".join(f"{name} {share:.3f}" for name, share in found["parts"].items() if share)
        return print_line(f"floor {found['floor']:.3f} of {found['gmacs']:.3f} GMACs dense: {pieces or 'nothing'}")
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
