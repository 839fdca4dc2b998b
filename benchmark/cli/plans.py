"""A sweep before and while it runs: how far its cells are, and what they will take."""

import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmark.cli.output import emit, print_line, print_table, print_warning
from benchmark.cli.progress import describe

_STATES = ("finished", "running", "failed", "diverged", "to do")
UNKNOWN = "unknown"


def print_status(states: Sequence[Any], json_: bool) -> None:
    """Print how far each cell is."""
    rows = [{**_cell(each), "detail": each.detail} for each in states]
    if json_:
        return emit(rows)
    print_table(rows)
    print_line(_count(states))


def print_plan(states: Sequence[Any], estimates: Sequence[Any], todo: Sequence[Any], jobs: int, store: Any) -> None:
    """Print what each cell takes, and what is to do as a whole.

    Parameters
    ----------
    estimates
        One a state.
    todo
        The states of the cells that a run of the sweep starts or waits for.
    jobs
        Cells at a time; 0 for any number.
    """
    rows = []
    for state, estimate in zip(states, estimates, strict=True):
        counted = f"dense {estimate.gmacs_dense:.4g}" if estimate.gmacs is None else f"{estimate.gmacs:.4g}"
        row = {"GMACs": counted, "time": _time(estimate.seconds), "disk": _bytes(estimate.size)}
        rows.append({**_cell(state), **row, "measured by": estimate.source})
    print_table(rows)
    print_line(_count(states))
    total = _total(states, estimates, todo)
    print_line(f"to run: {_sum(len(todo) - total.untimed, _time(total.seconds), total.untimed)}")
    if jobs and total.seconds:
        print_line(f"with {jobs} at a time: at least {_time(total.span(jobs))}")
    free = _free(store)
    print_line(f"disk: {_sum(len(todo) - total.unsized, _bytes(total.size), total.unsized)}; {_bytes(free)} free")
    if total.size > free:
        print_warning(f"{store.root}: has less space than the records will take")


def plan_as_json(states: Sequence[Any], estimates: Sequence[Any], todo: Sequence[Any], store: Any) -> dict[str, Any]:
    """Return what `print_plan` prints, for programs: seconds, bytes, and null for what nothing measured."""
    total = _total(states, estimates, todo)
    return {
        "cells": [
            {**_cell(state), "detail": state.detail, **vars(estimate)}
            for state, estimate in zip(states, estimates, strict=True)
        ],
        "to_run": {"cells": len(todo), **vars(total), "bytes_free": _free(store)},
    }


def _total(states: Sequence[Any], estimates: Sequence[Any], todo: Sequence[Any]) -> Any:
    from benchmark.sweep.estimates import Total

    chosen = {state.plan.cell.id for state in todo}
    return Total.of([each for state, each in zip(states, estimates, strict=True) if state.plan.cell.id in chosen])


def _cell(state: Any) -> dict[str, str]:
    return {"cell_id": state.plan.cell.id, "cell": describe(state.plan), "state": state.name}


def _count(states: Sequence[Any]) -> str:
    counts = Counter(each.name for each in states)
    return f"{len(states)} cells: " + ", ".join(f"{counts[name]} {name}" for name in _STATES if counts[name])


def _sum(known: int, amount: str, unknown: int) -> str:
    """Say a sum over some cells, and how many are not in it."""
    rest = f"{unknown} cells {UNKNOWN}, nothing measured"
    if not known:
        return rest if unknown else "nothing"
    return f"{known} cells {amount}" + (f", {rest}" if unknown else "")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _bytes(count: float | None) -> str:
    if count is None:
        return UNKNOWN
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def _free(store: Any) -> int:
    """Return the free bytes where a store is, or will be."""
    root = store.root.resolve()
    return shutil.disk_usage(next(each for each in (root, *root.parents) if each.exists())).free
