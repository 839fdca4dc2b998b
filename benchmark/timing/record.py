"""Keeping a report where ``saibench report`` looks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def save(report: dict[str, Any], store: Path) -> Path:
    """Write a report to ``<store>/timing/``, named by machine, network and time; return the path."""
    settings, machine = report["settings"], report["machine"]
    stamp = machine["started"].replace(":", "").replace("-", "")
    name = f"{settings['backbone']}-{settings['height']}x{settings['width']}-{machine['threads']}t-{stamp}.json"
    path = store / "timing" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path
