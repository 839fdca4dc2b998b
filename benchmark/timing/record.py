"""Keeping reports where ``saibench report`` looks: written after each row, and found again after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark.files import write_atomic
from benchmark.store import TIMINGS, Store, timestamp

_SAME = ("git_sha", "git_dirty", "torch", "cpu", "threads", "instruction_set")
"""What of the machine must be as it was, for a report to be continued or a cell's timing to stand."""


def named_engine(engine: str) -> dict[str, str]:
    """Return what settings say of the engine: nothing of the first, which older reports do not name."""
    return {} if engine == "cpu" else {"engine": engine}


def save(report: dict[str, Any], store: Path) -> Path:
    """Write a report as it is to ``<store>/timing/``, named by what was timed, threads and time; return the path."""
    settings, machine = report["settings"], report["machine"]
    machine["finished"] = timestamp()
    stamp = machine["started"].replace(":", "").replace("-", "")
    cell = (report.get("cell") or {}).get("cell_id")
    what = f"cell-{cell}" if cell else f"{settings['backbone']}-{settings['height']}x{settings['width']}"
    path = store / TIMINGS / f"{what}-{machine['threads']}t-{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomic(path, json.dumps(report, indent=1) + "\n")


def kept(report: dict[str, Any], store: Path) -> dict[str, Any] | None:
    """Return the newest report in a store that an earlier run of the same made; None if there is none.

    The same are settings, cell, machine, code and versions.
    """
    found = []
    for content in Store(store).timings().values():
        try:
            other = json.loads(content)
            if _identity(other) == _identity(report):
                found.append(other)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # no timing: reports say so
    return max(found, key=lambda other: str(other["machine"]["finished"]), default=None)


def _identity(report: dict[str, Any]) -> str:
    cell = (report.get("cell") or {}).get("cell_id")
    return json.dumps([report["settings"], cell, [report["machine"][name] for name in _SAME]], sort_keys=True)
