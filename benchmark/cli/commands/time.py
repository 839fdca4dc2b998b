"""``saibench time``: real time of the CPU engine beside other runtimes."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.app import app
from benchmark.cli.options import DEFAULT_STORE, DataOption, JsonOption, PluginOption, StoreOption, split_list
from benchmark.cli.output import console, emit, plain, print_line, print_table
from benchmark.cli.progress import display
from benchmark.errors import UsageError

#: Of the image and of the maps with which a bottleneck ResNet's stem and stages end, 4 bytes a number.
BYTES_A_PIXEL = 4 * sum(
    channels / stride**2 for channels, stride in ((3, 1), (64, 2), (256, 4), (512, 8), (1024, 16), (2048, 32))
)

_SHOWN = {
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
    peers: Annotated[
        str | None, typer.Option("--peers", help="torch,torch-frozen,onnxruntime,openvino; or all; none without it")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="timed rounds, after one that is not")] = 5,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="a trained cell's id: its own masks")] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="validation images of the cell to time")] = 10,
    data: DataOption = None,
    plugin: PluginOption = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Time the CPU engine, dense and sparse, beside other runtimes; Table 5's densities included."""
    named_peers = None if peers == "all" else split_list(peers, "--peers")
    pixels = _pixels(size)
    if threads is not None and threads > (os.cpu_count() or 1):
        raise UsageError(f"--threads {threads}: this machine has {os.cpu_count()} cores")

    from benchmark import timing

    if pixels is None and size not in timing.SIZES:
        raise UsageError(f"--size {size!r}: write it as HxW in pixels, at least 32x32, or {', '.join(timing.SIZES)}")
    cell = None if checkpoint is None else _trained(checkpoint, store, data, plugin or (), images)
    with display(json_) as shown:
        measured = timing.run(
            backbone,
            pixels or timing.SIZES[size],
            density or timing.DENSITIES,
            peers=timing.PEERS if named_peers is None else named_peers,
            threads=threads,
            rounds=rounds,
            cell=cell,
            progress=lambda done, total, what: shown.update(backbone, what, done, total),
        )
    if checkpoint is not None:
        measured["cell"]["cell_id"] = checkpoint  # by which reports find the cell's accuracy
    path = timing.save(measured, store)
    if json_:
        return emit(measured)
    for name, fields in _SHOWN.items():
        rows = measured.get(name) or []
        if rows:
            print_table([{field: row[field] for field in fields} for row in rows], title=name)
    if measured.get("cell"):
        console.print_json(json.dumps(plain(measured["cell"]), default=str))
    print_line(f"break-even density: {measured['break_even']}")
    print_line(str(path))


def _pixels(size: str) -> tuple[int, int] | None:
    """Read ``HxW``; None for another word, which may be a size's name."""
    numbers = re.fullmatch(r"(\d{1,9})x(\d{1,9})", size, re.ASCII)
    if numbers is None:
        return None
    height, width = int(numbers[1]), int(numbers[2])
    if min(height, width) < 32:
        raise UsageError(f"--size {size!r}: at least 32x32 pixels")
    needed, there = height * width * BYTES_A_PIXEL, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UsageError(
            f"--size {size}: its feature maps take {needed / 2**30:,.0f} GiB, this machine has {there / 2**30:,.1f}; "
            "choose a smaller size"
        )
    return height, width


def _trained(cell: str, store: Path, data: Path | None, plugins: Sequence[Path], images: int) -> tuple[Any, Any, int]:
    """Return a trained cell's backbone, what it reads for some validation images, and its seed."""
    from benchmark.cells import backbone_inputs, load_model, plan_of
    from benchmark.store import Store

    record = Store(store).get(cell)
    planned = plan_of(record, data, plugins)
    model = load_model(record, planned)
    return planned.task.backbone(model), backbone_inputs(model, planned, images), planned.request.seed
