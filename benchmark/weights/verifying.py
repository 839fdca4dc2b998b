"""Checking starting weights against their record."""

import hashlib
import json
from pathlib import Path

from benchmark.metric import MACHINE_TOLERANCE
from benchmark.weights import files
from benchmark.weights.making import Making, measure, validation


def verify(making: Making, where: Path | None = None) -> list[str]:
    """Check a backbone's starting weights against their record: hash, keys, metric.

    Parameters
    ----------
    where
        Folder of the weights; the task's own without it.

    Returns
    -------
    list of str
        What is wrong, a line each; empty where all is well.
    """
    place = where or files.folder(making.task)
    path, described = (place / f"{making.backbone}.{ending}" for ending in ("safetensors", "json"))
    missing = [str(each) for each in (path, described) if not each.is_file()]
    if missing:
        return [f"no such file: {name}" for name in missing]
    record = json.loads(described.read_text(encoding="utf-8"))
    if hashlib.sha256(path.read_bytes()).hexdigest() != record["sha256"]:
        return [f"{path} has another SHA-256 than {described.name} says: fetch both again, or make them again"]
    model = making.build(len(validation(making).classes))
    unfilled = files.fill(model, path)
    if unfilled:
        return [f"{path} leaves {len(unfilled)} keys of the network unfilled, such as {unfilled[0]}"]
    value = measure(making, model)["value"]
    if abs(value - record["value"]) > MACHINE_TOLERANCE:
        return [f"{path}: {record['metric']} is {value:.4f}, its record says {record['value']:.4f}"]
    return []
