"""Measured times: what ``saibench time`` leaves in ``<store>/timing``, read once for all reports.

A file is the timing of a network under random masks, or of a trained cell with its own (``--checkpoint``, ``--cells``).
Of several timings of one thing, the newest counts.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmark.store import Store
from reports.base import Results

__all__ = ["BETWEEN", "Timings", "dense_row", "in_pytorch", "milliseconds", "paired_dense", "read"]

_MACHINE = ("cpu", "threads", "instruction_set")

#: The kind of layer under which a timing has what is not in any layer: between the kernels.
BETWEEN = "between"


@dataclass(frozen=True)
class Timings:
    """The timings of some stores.

    Attributes
    ----------
    networks
        One for each network, size, machine, number of threads and instruction set, with the file that it is from.
    cells
        One for each trained cell, by its id; its ``cell`` has a row for each image.
    warnings
        One line for each file that is no timing.
    """

    networks: list[tuple[Path, dict[str, Any]]]
    cells: dict[str, dict[str, Any]]
    warnings: list[str]


def read(results: Results) -> Timings:
    """Return the timings that lie beside the records."""
    return results.once("timings", lambda: _read(results.stores))


def milliseconds(results: Results) -> dict[str, float]:
    """Return the backbone's mean milliseconds per image of each timed cell, by its id.

    A shared machine's speed drifts between one cell and the next by more than methods differ. Each round of a timing
    runs the network without its masks, too. So an image's time is what the network takes without masks, in the median
    over all cells whose network is the same one and that were timed on the machine, over the speed-up of this cell.
    """
    dense: dict[Hashable, list[float]] = {}
    cells = read(results).cells
    for run in cells.values():
        for row in _images(run):
            dense.setdefault(_dense_run(run, row), []).append(row["seconds_dense"])
    return {
        name: 1000 * float(np.mean([np.median(dense[_dense_run(run, row)]) / row["speedup"] for row in _images(run)]))
        for name, run in cells.items()
    }


def in_pytorch(results: Results) -> dict[str, int]:
    """Return how many masks of each timed cell PyTorch decides, by the cell's id: their time is not the engine's."""
    return {name: int(run["cell"]["masks_in_pytorch"]) for name, run in read(results).cells.items()}


def _images(run: dict[str, Any]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", run["cell"]["images"])


def _dense_run(run: dict[str, Any], row: dict[str, Any]) -> Hashable:
    """Return what two runs without masks share that take equally long: machine, image, multiply-accumulates."""
    macs = round(row["gmacs"] * row["speedup_measured_macs"] * 1e9)
    return (*(run["machine"][name] for name in _MACHINE), str(row["image"]), macs)


def dense_row(run: dict[str, Any]) -> dict[str, Any] | None:
    """Return the row of a network's dense run without deformable convolution; None if it was not timed."""
    return next((row for row in run["backbone"] if row["density"] is None and not row["deformable"]), None)


def paired_dense(row: dict[str, Any]) -> tuple[float, bool]:
    """Return the seconds of the dense run that a sparse row was timed beside, and whether the row has them.

    Older records have the median of the ratios within a round alone: the seconds are then what it makes of the row's.
    """
    measured = row.get("seconds_dense")
    return (row["seconds"] * row["speedup"], False) if measured is None else (measured, True)


def _read(stores: list[Path]) -> Timings:
    newest: dict[Hashable, tuple[Path, dict[str, Any]]] = {}
    warnings = []
    for path, content in (timing for store in stores for timing in Store(store).timings().items()):
        try:
            run = json.loads(content)
            what, finished = _what(run), str(run["machine"]["finished"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.append(f"{path}: not a timing of saibench time ({type(error).__name__}: {error}); left out")
            continue
        if what is not None and (what not in newest or finished >= str(newest[what][1]["machine"]["finished"])):
            newest[what] = path, run
    cells = {what: run for what, (_, run) in newest.items() if isinstance(what, str)}
    return Timings([found for what, found in newest.items() if not isinstance(what, str)], cells, warnings)


def _what(run: dict[str, Any]) -> Hashable:
    """Return what was timed: a cell's id, or what tells a network's timings apart; None if no row is there yet.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        If something that reports read is missing.
    """
    machine, settings = run["machine"], run["settings"]
    where = tuple(machine[name] for name in _MACHINE)
    cell = run.get("cell")
    if cell:
        if not cell.get("images"):
            return None
        _need(cell, "masks_in_pytorch")
        for row in cell["images"]:
            if not row["speedup"] > 0:
                raise ValueError(f"image {row['image']} with a speed-up of {row['speedup']}")
            _need(row, "gmacs", "seconds_dense", "speedup_measured_macs")
        return str(cell["cell_id"])
    for row in run["backbone"]:
        _need(row, "backbone", "deformable", "density", "gmacs", "seconds", "seconds_iqr")
    _need(run, "peers", "break_even")
    return (settings["backbone"], int(settings["height"]), int(settings["width"]), *where) if run["backbone"] else None


def _need(fields: dict[str, Any], *names: str) -> None:
    """Raise a KeyError that names the first field that is missing."""
    for name in names:
        fields[name]
