"""``saibench time``: real time of an engine beside other runtimes, and of trained cells."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmark.cli.app import app
from benchmark.cli.options import (
    DEFAULT_STORE,
    DataOption,
    ForceOption,
    JsonOption,
    PluginOption,
    StoreOption,
    split_list,
)
from benchmark.cli.output import emit, print_line, print_note
from benchmark.cli.progress import Display, display
from benchmark.cores import usable_cores
from benchmark.errors import SaibenchError, UsageError

#: Of the image and of the maps with which a bottleneck ResNet's stem and stages end, 4 bytes a number.
BYTES_A_PIXEL = 4 * sum(
    channels / stride**2 for channels, stride in ((3, 1), (64, 2), (256, 4), (512, 8), (1024, 16), (2048, 32))
)

#: With --quick: seconds within which to end, the start of Python and PyTorch not included, and what is timed.
QUICK_SECONDS = 45.0
QUICK: dict[str, Any] = {"densities": (0.264, 0.5), "deformable": (False,), "table5": False}


class Sources(NamedTuple):
    """Where trained cells come from, beside the store: the data set's folder, methods and tasks that are not found."""

    data: Path | None
    plugins: tuple[Path, ...]


SizesOption = Annotated[
    list[str] | None,
    typer.Option("--size", help="HxW in pixels; small: 256x416, full: 992x1664; repeatable; full without it"),
]
CheckpointsOption = Annotated[
    list[str] | None,
    typer.Option("--checkpoint", help="a trained cell's id: time it alone, with its own masks; repeatable"),
]


@app.command("time")
def time_(
    backbone: Annotated[str, typer.Option("--backbone", help="a backbone's name")] = "resnet101",
    size: SizesOption = None,
    density: Annotated[list[float] | None, typer.Option("--density", help="share sampled; repeatable")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="of every runtime; all without it")] = None,
    peers: Annotated[
        str | None, typer.Option("--peers", help="torch,torch-frozen,onnxruntime,openvino; or all; none without it")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="cpu, or onnx: the exported graph in ONNX Runtime")] = "cpu",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="timed rounds, after one that is not")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="two densities at 256x416 within a minute")] = False,
    checkpoint: CheckpointsOption = None,
    cells: Annotated[bool, typer.Option("--cells", help="time all finished trained cells of the store")] = False,
    images: Annotated[int, typer.Option("--images", min=1, help="validation images of a cell to time")] = 100,
    data: DataOption = None,
    plugin: PluginOption = None,
    store: StoreOption = DEFAULT_STORE,
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Time an engine, dense and sparse, beside other runtimes; or trained cells with their own masks.

    Each row is printed and kept as soon as it is measured; the same command goes on where it was interrupted.
    """
    named_peers = None if peers == "all" else split_list(peers, "--peers")
    pixels = {text: _pixels(text) for text in size or ["small" if quick else "full"]}
    if threads is not None and threads > usable_cores():
        raise UsageError(
            f"--threads {threads}: this process may use {usable_cores()} of the machine's {os.cpu_count()} cores "
            "(affinity, control groups)"
        )
    if checkpoint or cells:
        if quick or size or density or peers:
            raise UsageError("trained cells are timed at their own size and density, without peers")
        settings = {"images": images, "rounds": rounds, "threads": threads, "engine": engine}
        return _time_cells(checkpoint or [], store, Sources(data, tuple(plugin or ())), settings, force, json_)

    from benchmark import timing

    for text, found in pixels.items():
        if found is None and text not in timing.SIZES:
            known = ", ".join(timing.SIZES)
            raise UsageError(f"--size {text!r}: write it as HxW in pixels, at least 32x32, or {known}")
    options: dict[str, Any] = dict(QUICK) if quick else {}
    if density:
        options["densities"] = density
    wanted = timing.Wanted(
        backbone,
        [found or timing.SIZES[text] for text, found in pixels.items()],
        peers=timing.PEERS if named_peers is None else named_peers,
        threads=threads,
        rounds=rounds,
        engine=engine,
        **options,
    )
    with display(json_) as shown:
        measured = timing.Timing(
            wanted,
            store,
            QUICK_SECONDS if quick else None,
            lambda done, total, what: shown.update(backbone, what, done, total),
        )
        _print_networks(measured, shown, json_)
    if json_:
        return emit(measured.reports)
    for report in measured.reports:
        for even in report["break_even"]:
            print_line(f"{_network(report, even)}: {_even(even['density'])}")
        print_line(str(timing.save(report, store)))


def _print_networks(measured: Any, shown: Display, quiet: bool) -> None:
    """Measure networks; print a line before, and one for each row."""
    if not quiet:
        there = sum(len(report["backbone"]) + len(report["peers"]) for report in measured.reports)
        going_on = f" ({there} more are kept from an interrupted run)" if there else ""
        print_note(f"{len(measured.jobs)} rows, about {_duration(measured.seconds)}{going_on}")
    for report, kind, row in measured.rows():
        if not quiet:
            print_line(f"{_network(report, row)}: {_peer(row) if kind == 'peers' else _row(row)}")
    _say_unsteady([row for report in measured.reports for row in (*report["backbone"], *report["peers"])])
    if measured.left_out:
        print_note(f"{measured.left_out} rows left out for want of time: without --quick they are measured")


def _time_cells(
    named: Sequence[str], store: Path, sources: Sources, settings: dict[str, Any], force: bool, quiet: bool
) -> None:
    """Time trained cells, each into a report of its own; the ids given, or all of the store."""
    from benchmark import timing

    records = _trained(named, store)
    measured, begun = [], False
    with display(quiet) as shown:
        for number, record in enumerate(records):
            report = timing.empty_report(_what(record), **settings)
            before = None if force else timing.kept(report, store)
            if before is None:
                try:
                    begun = begun or quiet or _say_how_long(record, sources, len(records) - number, report)
                    _time_cell(report, record, sources, shown)
                except SaibenchError as error:
                    if named:
                        raise
                    print_note(f"{record.cell_id} left out: {error}")
                    continue
                timing.save(report, store)
            measured.append(before or report)
            if not quiet:
                again = ", kept from an earlier run (--force times it again)" if before else ""
                print_line(_cell(measured[-1]) + again)
    _say_unsteady([report["cell"] for report in measured])
    if not measured:
        raise SaibenchError(f"{store}: none of its {len(records)} trained cells was timed; the lines above say why")
    if quiet:
        emit(measured)
    elif measured:
        print_line(f"accuracy over milliseconds: saibench report --only table5,figure4 --store {store}")


def _trained(named: Sequence[str], store: Path) -> list[Any]:
    """Return the records of cells to time.

    Raises
    ------
    SaibenchError
        For a name that no cell has, or if none has weights.
    """
    from benchmark.cells import MODEL
    from benchmark.store import Store

    if named:
        return [Store(store).get(name) for name in named]
    finished = [record for record in Store(store).scan()[0] if record.finished]
    trained = [record for record in finished if record.has(MODEL)]
    if not trained:
        raise SaibenchError(
            f"{store}: none of its {len(finished)} finished cells has weights ({MODEL}); "
            "run cells with saibench sweep, or name the store that they were run into"
        )
    if len(trained) < len(finished):
        print_note(f"{len(finished) - len(trained)} of {len(finished)} finished cells have no weights: left out")
    return trained


def _what(record: Any) -> dict[str, Any]:
    """Return what a report says of a cell: its id, by which reports find it, and what it is."""
    named = {name: record.fields[name] for name in ("cell_id", "task", "scale", "method", "seed")}
    return {**named, "parameters": record.parameters}


def _open(report: dict[str, Any], record: Any, sources: Sources, images: int) -> tuple[Any, Any, int]:
    """Return a trained cell's backbone, what it reads for some validation images, and its seed.

    Its accuracy, by its task's main metric, goes into the report.
    """
    from benchmark.cells import backbone_inputs, load_model, plan_of

    planned = plan_of(record, sources.data, sources.plugins)
    model = load_model(record, planned)
    (main, *_) = planned.task.metrics
    report["cell"] |= {"metric": main.name, "score": record.metrics.get(main.name)}
    return planned.task.backbone(model), backbone_inputs(model, planned, images), planned.request.seed


def _time_cell(report: dict[str, Any], record: Any, sources: Sources, shown: Display) -> None:
    from benchmark import timing

    def progress(done: int, total: int, what: str) -> None:
        shown.update(record.cell_id, f"{record.cell_id}, {what}", done, total)

    timing.time_cell(report, *_open(report, record, sources, report["settings"]["images"]), progress)
    shown.end(record.cell_id)


def _say_how_long(record: Any, sources: Sources, cells: int, report: dict[str, Any]) -> bool:
    """Say from one measured round of one image how long all cells will take; return that it is said."""
    import time

    from benchmark import timing

    once = {**report, "settings": {**report["settings"], "rounds": 1}, "cell": {}}
    start = time.monotonic()
    opened, inputs, seed = _open(once, record, sources, 1)
    loaded = time.monotonic()
    timing.time_cell(once, opened, inputs, seed)
    a_round = once["cell"]["seconds"] + once["cell"]["seconds_dense"]
    rounds, images = report["settings"]["rounds"] + 1, report["settings"]["images"]
    print_note(f"{cells} cells, about {_duration(cells * (loaded - start + images * rounds * a_round))}")
    return True


def _duration(seconds: float) -> str:
    """Return a time in words that are right to a unit or two."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _network(report: dict[str, Any], row: dict[str, Any]) -> str:
    settings = report["settings"]
    name = f"{settings['backbone']} {settings['height']}x{settings['width']}"
    return f"{name}, deformable" if row.get("deformable") else name


def _times(row: dict[str, Any]) -> str:
    return f"{_seconds(row['seconds'])} ({_seconds(row['seconds_p10'])} to {_seconds(row['seconds_p90'])} in 8 of 10)"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _row(row: dict[str, Any]) -> str:
    if row["density"] is None:
        return f"dense {_times(row)}{_unsteady(row)}"
    return (
        f"density {row['density']:g} {_times(row)}, {_seconds(row['seconds_masks'])} of it masks; "
        f"{_speedup(row, row['speedup_theoretical'])}{_unsteady(row)}"
    )


def _speedup(row: dict[str, Any], promised: float) -> str:
    """Say how much faster than the dense run of the same rounds; the ratio of the two times that are printed."""
    return (
        f"dense beside it {_seconds(row['seconds_dense'])}, {row['speedup']:.2f} times as fast of {promised:.2f} in "
        f"theory, a share of {row['share']:.2f}"
    )


def _unsteady(row: dict[str, Any]) -> str:
    """Say where rounds disagree by more than half: the row then says little."""
    from benchmark import timing

    # Records of older versions, which may be continued or stand, do not say.
    found = row.get("disagreement") or 0.0
    return f"; rounds disagree by {100 * found:.0f} %" if found > timing.UNSTEADY else ""


def _say_unsteady(rows: Sequence[dict[str, Any]]) -> None:
    """Warn where some rows' rounds disagree by more than half."""
    count = sum(bool(_unsteady(row)) for row in rows)
    if count:
        print_note(
            f"warning: in {count} of {len(rows)} rows, rounds disagree by more than half: other work runs on these "
            "cores; time again on an idle machine, or with more --rounds"
        )


def _peer(row: dict[str, Any]) -> str:
    if row["skipped"]:
        return f"{row['peer']} not run: {row['skipped']}"
    return (
        f"{row['peer']} {row['version']} {_times(row)}, {row['engine_dense_speedup']:.2f} times as long as the "
        f"engine's dense run beside it, {_seconds(row['seconds_dense'])}{_unsteady(row)}"
    )


def _even(density: float | None) -> str:
    if density is None:
        return "sparse is faster than dense at none of the densities that were timed"
    return f"sparse is faster than dense up to density {density:.2f}"


def _cell(report: dict[str, Any]) -> str:
    cell = report["cell"]
    point = " ".join(f"{name}={value}" for name, value in cell["parameters"].items() if value is not None)
    score = "no score" if cell["score"] is None else f"{cell['metric']} {cell['score']:.4g}"
    return (
        f"{cell['cell_id']} {cell['task']} {cell['method']} {point} seed={cell['seed']}: {score}, density "
        f"{cell['density']:.2f}, {_seconds(cell['seconds'])}{_percentiles(cell)}; "
        f"{_speedup(cell, cell['speedup_measured_macs'])}; energy {_energy(report)}{_unsteady(cell)}"
    )


def _percentiles(cell: dict[str, Any]) -> str:
    """Say how times differ over images; p99 of fewer than a hundred is the slowest."""
    times = cell["percentiles"]["seconds"]
    shown = ", ".join(f"{name} {_seconds(value)}" for name, value in times.items())
    return f" ({shown} over {len(cell['images'])} images)"


def _energy(report: dict[str, Any]) -> str:
    joules = report["cell"]["joules"]
    return str(report["machine"]["energy"]) if joules is None else f"{joules:.3g} J an image"


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
