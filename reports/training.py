"""The tables of docs/training.md, from rows kept beside the records: whole commands, what steps do, and a GPU."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from reports.base import Results

__all__ = ["BLOCKS", "commands", "gpu_memory", "gpu_speed", "steps"]

TRAINING, GPU, COMMANDS = "training.json", "gpu.json", "commands.json"
_CURVE = ("gamma", "shorter_side", "budget", "stride")  # what a row's point on its method's curve is called


def steps(results: Results) -> str:
    """Return a table of detection's cells by the length of fine-tuning: metric and computation, for each point."""
    rows = pd.DataFrame(_read(results, TRAINING))
    rows = rows[(rows["task"] == "coco") & (rows["seed"] == 0) & (rows["isa"] == "AVX512") & (rows["threads"] == 1)]
    rows = rows[[set(given or ()) <= {"train.steps", "train.batch"} for given in rows["overrides"]]]
    rows = rows.assign(point=[_point(given) for given in rows["parameters"]])
    rows = rows.drop_duplicates(["method", "point", "steps", "batch"], keep="last")
    lines = ["| method | steps × batch | AP, % | GMACs | density |", "| --- | ---: | ---: | ---: | ---: |"]
    for (method, point), group in rows.groupby(["method", "point"], sort=True):
        if len(group) < 2:
            continue
        name = f"{results.methods.label(str(method))}{point}"
        for row in group.sort_values(["steps", "batch"]).to_dict("records"):
            lines.append(
                f"| {name} | {row['steps']} × {row['batch']} | {100 * row['value']:.1f} | "
                f"{row['gmacs_measured_mean']:.4f} | {row['density_mean']:.2f} |"
            )
            name = ""
    return "\n".join(lines)


def commands(results: Results) -> str:
    """Return a table of whole commands that were timed: the time that passed, and processor time for each core."""
    lines = [
        "| command | cells | minutes | processor time, minutes a core | beside | machine |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for row in _read(results, COMMANDS):
        given = f" -- {row['arguments']}" if row["arguments"] else ""
        lines.append(
            f"| `{row['command']}{given}` | {row['cells']} | {row['wall_seconds'] / 60:.1f} | "
            f"{row['processor_seconds'] / 60 / row['cores']:.1f} | {row['beside']} | "
            f"{row['cores']} cores of {row['cpu']}, {row['isa']} |"
        )
    return "\n".join(lines)


def gpu_speed(results: Results) -> str:
    """Return a table of what one process trains on the GPU."""
    lines = [
        "| task | method | precision | batch | images/s | ms a step | GPU busy |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in _read(results, GPU)["speed"]:
        lines.append(
            f"| `{row['task']}` | {results.methods.label(row['method'])} | {row['precision']} | {row['batch']} | "
            f"{row['images_per_second']} | {row['milliseconds_per_step']} | {row['gpu_busy_percent']} % |"
        )
    return "\n".join(lines)


def gpu_memory(results: Results) -> str:
    """Return a table of a training step's memory, in GiB, by precision."""
    rows = pd.DataFrame(_read(results, GPU)["memory"])
    precisions = sorted(set(rows["precision"]))
    lines = [
        f"| task | images | method | {' | '.join(precisions)} |",
        f"| --- | --- | --- | {' | '.join('---:' for _ in precisions)} |",
    ]
    for (task, images, height, width, method), group in rows.groupby(
        ["task", "images", "height", "width", "method"], sort=False
    ):
        held = group.set_index("precision")["gib_allocated"]
        shown = " | ".join(f"{held[name]:.1f}" for name in precisions)
        lines.append(f"| `{task}` | {images} of {height}×{width} | {results.methods.label(str(method))} | {shown} |")
    return "\n".join(lines)


BLOCKS = {"commands": commands, "steps": steps, "gpu_speed": gpu_speed, "gpu_memory": gpu_memory}


def _read(results: Results, name: str) -> Any:
    return json.loads((results.stores[0] / name).read_text(encoding="utf-8"))


def _point(parameters: dict[str, Any]) -> str:
    names = [name for name in _CURVE if name in parameters]
    return "".join(f", {'γ' if name == 'gamma' else name} {parameters[name]:g}" for name in names)
