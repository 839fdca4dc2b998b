"""A request: what a user asks for, and the data that it leads to."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.data.examining import examine
from benchmark.errors import DataError
from benchmark.files import cache_folder
from benchmark.hardware import FULL, Hardware
from benchmark.tasks import Reader, find_task


@dataclass(frozen=True)
class Request:
    """What a user asks for; plain values, so that it can be sent to another process.

    Attributes
    ----------
    method
        Name, or a plug-in's path.
    parameters
        What the user set; the recipe's and the method's own values stand for the rest.
    data
        Folder of the data set; None for the embedded one.
    overrides
        Recipe fields by dotted name, such as ``train.steps``; values as JSON has them.
    precision
        Of training; see `benchmark.hardware`.
    devices
        How many compute the cell; it changes no result but by rounding.
    """

    task: str
    method: str
    scale: str = "mini"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    data: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    precision: str = FULL
    devices: int = 1

    @property
    def hardware(self) -> Hardware:
        """What it runs on.

        Raises
        ------
        UsageError
            For a precision or a number of devices that there is not.
        """
        return Hardware(self.precision, self.devices)


def data_folder(request: Request) -> Path:
    """Return the data set's folder; the embedded one is rendered on first use.

    Raises
    ------
    DataError
        When the folder is not there, or the scale has no embedded set and none was given.
    """
    if request.data is not None:
        if not request.data.is_dir():
            raise DataError(f"no data folder {request.data}: give --data the folder of a {request.task} data set")
        return request.data.resolve()
    embedded = find_task(request.task).embedded
    if request.scale not in embedded.sizes:
        raise DataError(f"{request.task} at scale {request.scale!r} has no embedded set: give the real one with --data")
    return embedded.make(request.scale, cache_folder() / "data")


@functools.cache
def examined(task: str, folder: Path) -> list[str]:
    """Look at a data set before anything is trained on it; return what is doubtful in it, a line each.

    Raises
    ------
    DataError
        For a validation image that cannot be decoded.
    """
    return examine(reader(task, folder, "train"), reader(task, folder, "val"), folder)


@functools.cache
def reader(task: str, folder: Path, split: str) -> Reader:
    """Return a split's reader, opened once in a process: decoded images stay in memory where they fit."""
    return find_task(task).open(folder, split)
