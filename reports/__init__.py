"""Reports: one module a table or figure, found by being here.

A report is a module of this package with a ``TITLE`` and a function ``build(results, out) -> Output``; its
file's name is its name on the command line. Under ``CELLS`` it may declare the cells that it needs, which
``saibench sweep TASK --cells NAME`` runs. Reports read stores through `benchmark.store`, compute through
`benchmark.stats`, and touch nothing else of the harness. See `reports.base` for what they share.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmark.errors import UsageError
from benchmark.selection import Cells
from reports.base import Output, Results, writable
from reports.page import write_page

__all__ = ["Output", "Results", "available", "build", "cells"]


def available() -> dict[str, ModuleType]:
    """Return the reports by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "TITLE")}


def cells(names: Sequence[str]) -> list[Cells]:
    """Return the cells that reports declare under ``CELLS``.

    Parameters
    ----------
    names
        Names of reports; "all" stands for every one.

    Raises
    ------
    UsageError
        For a name that is no report with cells, listing those that are.
    """
    declared = {name: module.CELLS for name, module in available().items() if hasattr(module, "CELLS")}
    unknown = [name for name in names if name not in declared and name != "all"]
    if unknown:
        raise UsageError(f"no cells {unknown[0]!r}; there are {', '.join(declared)}, all")
    chosen = declared if "all" in names else {name: declared[name] for name in names}
    return [each for sets in chosen.values() for each in sets]


def build(
    stores: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    only: Sequence[str] | None = None,
) -> list[Output]:
    """Write reports.

    Parameters
    ----------
    stores
        Folders of records. A cell that lies in several is shown once.
    out
        Where figures and tables go; made if it is not there. Files of an earlier call are replaced whole.
    only
        Names of reports; all, if not given.

    Returns
    -------
    list of Output
        One a report, by name; with all of them the page, ``index.html``, is written too. A report that finds no data
        says so in its text.

    Raises
    ------
    UsageError
        For a name in `only` that is no report, listing those that are.
    StoreError
        If a store is not a folder.
    SaibenchError
        If `out` cannot be written.
    """
    modules = available()
    unknown = [name for name in only or () if name not in modules]
    if unknown:
        raise UsageError(f"no report {unknown[0]!r}; there are {', '.join(modules)}")
    results = Results.read(stores)
    folder = Path(out)
    with writable(folder):
        outputs = [module.build(results, folder) for name, module in modules.items() if not only or name in only]
        if not only:
            write_page(results, outputs, folder)
        return outputs
