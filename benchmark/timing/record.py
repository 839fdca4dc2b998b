"""Keeping a report where ``saibench report`` looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark.files import write_atomic
from benchmark.store import TIMINGS


def save(report: dict[str, Any], store: Path) -> Path:
    """Write a report to ``<store>/timing/``, named by machine, network and time; return the path."""
    settings, machine = report["settings"], report["machine"]
    stamp = machine["started"].replace(":", "").replace("-", "")
    name = f"{settings['backbone']}-{settings['height']}x{settings['width']}-{machine['threads']}t-{stamp}.json"
    path = store / TIMINGS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomic(path, json.dumps(report, indent=1) + "\n")
