"""Tables from what is kept beside the records: commands, steps, machines, a GPU, an exported network's time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import StoreError
from benchmark.stats import task_metrics
from benchmark.store import Record, Store
from reports.base import Results

__all__ = ["BLOCKS", "commands", "export_speed", "gpu_memory", "gpu_speed", "machines", "steps", "weights"]

TRAINING, GPU, COMMANDS, EXPORT = "training.json", "gpu.json", "commands.json", "export.json"
REPRODUCED = "reproduced"  # a folder: the `record.json` of cells that were run again
_TASKS = Path(__file__).parents[1] / "benchmark" / "tasks"  # beside each task lie the records of its starting weights
REMADE = "weights"  # a folder: by task, the records of starting weights that were made again
_CURVE = ("gamma", "shorter_side", "budget", "stride")  # what a row's point on its method's curve is called


def weights(results: Results) -> str:
    """Return a table of the starting weights: how they were made, their metric, and that of those made again."""
    lines = [
        "| task | backbone | steps × batch | images | metric, % | made again, % |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    known = Store(results.stores[0]).documents(REMADE)
    for path in sorted(_TASKS.glob("*/weights/*.json")):
        made = json.loads(path.read_text(encoding="utf-8"))
        remade = results.stores[0] / REMADE / made["task"] / path.name
        again = _remade(results, made, remade, known[remade]) if remade in known else "–"
        lines.append(
            f"| `{made['task']}` | `{made['backbone']}` | {made['steps']} × {made['batch']} | {made['images']} | "
            f"{_metric(results, made)} | {again} |"
        )
    return "\n".join(lines)


def _metric(results: Results, made: dict[str, Any]) -> str:
    said = next((record["metrics"] for record in results.records if record["task"] == made["task"]), None)
    metric = next(each for each in task_metrics(made["task"], said) if each.name == made["metric"])
    return f"{metric.label} {metric.scale * made['value']:.1f}"


def _remade(results: Results, made: dict[str, Any], path: Path, content: bytes) -> str:
    """Return the metric of weights that were made again, whether the files are equal, machine and commit.

    Raises
    ------
    StoreError
        If they were not made in the same way: number of steps, scenes, validation images and the like.
    """
    again = json.loads(content)
    for name in ("backbone", "steps", "batch", "images", "seed", "scenes", "metric", "validation"):
        if again[name] != made[name]:
            raise StoreError(f"{path}: {name} is {again[name]}, and {made[name]} of the shipped weights")
    same = ", the same file" if again["sha256"] == made["sha256"] else ""
    return f"{_metric(results, again)}{same} ({again['isa']}, commit {again['git_sha'][:7]})"


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


def machines(results: Results) -> str:
    """Return a table of cells that ran twice: metric, density and computation, as recorded and as run again.

    Raises
    ------
    StoreError
        If a cell was run again whose record is not there.
    """
    lines = [
        "| cell | seed | recorded on | run again on | metric, % | density | GMACs |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    known = {_setting(record): record for record in results.records}
    kept = Store(results.stores[0]).documents(REPRODUCED)
    found = [Record(path, json.loads(content)) for path, content in kept.items()]
    for again in sorted(found, key=lambda record: (record["task"], record["method"], record.cell_id, _machine(record))):
        before = known.get(_setting(again))
        if before is None:
            raise StoreError(f"{again.folder}: the cell was run again, and no such record is there")
        name = f"`{again['task']}` {results.methods.label(again['method'])}{_point(again.parameters)}"
        metric = task_metrics(again["task"], again["metrics"])[0]
        values = (
            _twice(before, again, f"metric_{metric.name}", 2, metric.scale),
            _twice(before, again, "density_mean", 3),
            _twice(before, again, "gmacs_measured_mean", 5),
        )
        lines.append(f"| {name} | {again['seed']} | {_machine(before)} | {_machine(again)} | {' | '.join(values)} |")
    return "\n".join(lines)


def _setting(record: Record) -> tuple[Any, ...]:
    """Return what a cell is on any machine. Its id has the number of threads, too, which is the recipe's."""
    names = ("task", "scale", "dataset_fingerprint", "method", "seed")
    return (*(record[name] for name in names), *sorted(record.parameters.items()))


def _machine(record: Record) -> str:
    torch, python = record["torch"].partition("+")[0], ".".join(record["python"].split(".")[:2])
    threads = "" if record["threads"] == 1 else f", {record['threads']} threads"
    return f"{record['isa']}, PyTorch {torch}, Python {python}{threads}"


def _twice(before: Record, after: Record, name: str, digits: int, scale: float = 1.0) -> str:
    """Return a field of two records, or the one value that both have to the last digit."""
    if before[name] == after[name]:
        return f"{scale * before[name]:.{digits}f}, identical"
    return f"{scale * before[name]:.{digits}f} → {scale * after[name]:.{digits}f}"


def export_speed(results: Results) -> str:
    """Return a table of exported networks' time beside the dense one's in the same runtime, by design of the fills."""
    kept = _read(results, EXPORT)
    lines = [
        f"{kept['backbone']} at density {kept['density']}, masks included, {kept['runtime']}, "
        f"{kept['threads']} threads, {kept['conditions']}; rounds are paired with the dense network's:",
        "",
        "| image | fills over | rounds | dense, s | exported, s | speed-up | share of time by operator |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in kept["rows"]:
        for design, speedup in row["speedup"].items():
            operators = ", ".join(f"{name} {share:.0f} %" for name, share in list(row["operators"][design].items())[:6])
            lines.append(
                f"| {row['height']}×{row['width']} | {design} | {row['rounds']} | {row['seconds']['dense']:.2f} | "
                f"{row['seconds'][design]:.2f} | {speedup:.2f} | {operators} |"
            )
    return "\n".join(lines)


BLOCKS = {
    "weights": weights,
    "commands": commands,
    "steps": steps,
    "machines": machines,
    "gpu_speed": gpu_speed,
    "gpu_memory": gpu_memory,
    "export_speed": export_speed,
}


def _read(results: Results, name: str) -> Any:
    return json.loads((results.stores[0] / name).read_text(encoding="utf-8"))


def _point(parameters: dict[str, Any]) -> str:
    names = [name for name in _CURVE if name in parameters]
    return "".join(f", {'γ' if name == 'gamma' else name} {parameters[name]:g}" for name in names)
