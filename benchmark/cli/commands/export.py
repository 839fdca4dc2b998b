"""``saibench export``: a network as a file that runs without Saibench."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from benchmark.cli.app import app
from benchmark.cli.options import (
    DEFAULT_STORE,
    DataOption,
    JsonOption,
    PluginOption,
    Scale,
    SetOption,
    ShownMethodName,
    ShownTaskName,
    StoreOption,
    parse_settings,
)
from benchmark.cli.output import emit, print_line
from benchmark.errors import SaibenchError, UsageError

FORMATS = (".onnx", ".pt2")
SMALLEST = 32  # pixels of a side: the stem and the stages halve it five times


@app.command()
def export(
    cell: Annotated[str | None, typer.Argument(help="a trained cell's id", metavar="[CELL]")] = None,
    out: Annotated[Path, typer.Option("--out", help="file to write: .onnx, or .pt2 for PyTorch")] = Path(
        "network.onnx"
    ),
    part: Annotated[
        Literal["network", "backbone"], typer.Option("--part", help="all of it, or the backbone's stage maps")
    ] = "network",
    noise: Annotated[
        Literal["seeded", "input"],
        typer.Option("--noise", help="of stochastic masks: drawn in the file, or an input for each mask"),
    ] = "seeded",
    size: Annotated[
        str | None, typer.Option("--size", help="HxW of all images; any size without it, where masks allow it")
    ] = None,
    method: ShownMethodName = None,
    task: ShownTaskName = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="of an untrained network, with random weights")
    ] = None,
    set_: SetOption = None,
    density: Annotated[
        float | None, typer.Option("--density", help="share that an untrained network's stochastic masks sample")
    ] = None,
    scale: Annotated[Scale | None, typer.Option("--scale", help="of an untrained network; mini without it")] = None,
    data: DataOption = None,
    plugin: PluginOption = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Write a network to a file that runs without Saibench: in any ONNX runtime, or in PyTorch."""
    parameters = parse_settings(set_, "--set")
    if (cell is None) == (method is None):
        raise UsageError("give either a trained cell's id, or --method for an untrained network")
    if cell is not None and (task or parameters or scale or backbone or density is not None):
        raise UsageError("a cell says task, backbone, parameters and scale: leave these options out")
    extent = None if size is None else _pixels(size)
    _check_out(out)
    if out.suffix == ".pt2" and noise == "input":
        raise UsageError("--noise input is for .onnx: a .pt2 draws its noise from PyTorch's generator")

    from benchmark.cells import Request, plan, trained_network, untrained_network
    from benchmark.store import Store

    records = Store(store)
    if cell is not None:
        exported = trained_network(records.get(cell), data, tuple(plugin or ()))
    else:
        overrides = {"backbone": backbone} if backbone else {}
        try:
            planned = plan(Request(task or "coco", str(method), scale or "mini", parameters, 0, data, overrides))
            exported = untrained_network(planned, records, backbone is not None, density)
        except ValueError as error:  # a backbone that the task or the method has no form for
            raise UsageError(str(error)) from error
    metadata = exported.metadata(part, noise)
    described = _write_onnx(exported, part, noise, extent, metadata, out) if out.suffix == ".onnx" else None
    if described is None:
        described = _write_program(exported, part, extent, metadata, out)
    if json_:
        return emit({"file": str(out), "bytes": out.stat().st_size, **described, "metadata": metadata})
    for name in ("inputs", "outputs"):
        print_line(f"{name}: {', '.join(described[name])}")
    print_line(f"{out}: {metadata['task']} {metadata['method']}, {part}, {out.stat().st_size / 1e6:.1f} MB")


def _write_onnx(
    exported: Any, part: str, noise: Any, size: tuple[int, int] | None, metadata: dict[str, str], out: Path
) -> dict[str, Any]:
    """Write an ONNX file; return its opset, and the names of its inputs and outputs."""
    try:
        from benchmark.export import OPSET, Options, write_network
    except ModuleNotFoundError as error:
        raise SaibenchError(f"{error.name} is not installed: pip install 'saibench[export]'") from None
    from benchmark.files import write_atomic

    task, model = exported.planned.task, exported.model
    head = task.head(model) if part == "network" else None
    written = write_network(task.backbone(model), Options(size, noise, metadata=metadata), head)
    write_atomic(out, written.SerializeToString())
    graph = written.graph
    return {
        "opset": OPSET,
        "inputs": [value.name for value in graph.input],
        "outputs": [value.name for value in graph.output],
    }


def _write_program(
    exported: Any, part: str, size: tuple[int, int] | None, metadata: dict[str, str], out: Path
) -> dict[str, Any]:
    """Write a program of PyTorch; return the names of its input and outputs."""
    import torch

    from benchmark.export.program import record_program

    task = exported.planned.task
    program = record_program(exported.model, task.backbone, part == "network", size)
    with out.open("wb") as file:
        torch.export.save(program, file, extra_files=metadata)
    stages = [name for name, _ in task.backbone(exported.model).named_children() if name.startswith("layer")]
    return {"inputs": ["image"], "outputs": stages if part == "backbone" else ["logits"]}


def _check_out(out: Path) -> None:
    """Refuse a place that cannot be written to, before anything is loaded."""
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file in it, such as {out / 'network.onnx'}")
    if out.suffix not in FORMATS:
        raise UsageError(f"--out {out}: end it in {' or '.join(FORMATS)}")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.absolute().parent}; make it first")


def _pixels(size: str) -> tuple[int, int]:
    numbers = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size, re.ASCII)
    if numbers is None:
        raise UsageError(f"--size {size!r}: write it as HxW in pixels, such as 480x640")
    height, width = int(numbers[1]), int(numbers[2])
    if min(height, width) < SMALLEST:
        raise UsageError(f"--size {size}: the smallest that a backbone takes is {SMALLEST}x{SMALLEST}")
    return height, width
