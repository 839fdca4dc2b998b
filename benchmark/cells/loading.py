"""From a record back to what made it: its plan, its trained model, and what the model's backbone reads."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmark.cells.planning import Plan, plan
from benchmark.cells.request import Request, reader
from benchmark.cells.running import MODEL, load_start
from benchmark.errors import SaibenchError, StoreError, UsageError
from benchmark.hardware import FULL
from benchmark.method import address, discover
from benchmark.store import Record, Store
from benchmark.tasks import Batch, find_task
from benchmark.tensors import load_into


def load_model(record: Record, planned: Plan) -> nn.Module:
    """Return a finished cell's trained model, in inference mode."""
    classes = len(reader(planned.task.name, planned.folder, "train").classes)
    model = planned.build(classes)
    planned.method.restore(planned.task.backbone(model))
    load_into(model, record.path(MODEL), "run the cell again with --force")
    planned.method.configure(planned.task.backbone(model))
    return model.eval()


def starting_model(planned: Plan, store: Store) -> nn.Module:
    """Return a plan's network as it is before its first training step, in inference mode: masks are untrained.

    Raises
    ------
    SaibenchError
        When the network that it starts from was not trained yet.
    """
    method, planned = planned.method, planned.trained
    start = None if planned.start is None else store.find(planned.start.cell)
    if planned.start is not None and (start is None or not start.finished):
        request = planned.start.request
        raise SaibenchError(
            f"{planned.cell.method} starts from {planned.start.cell}, which is not in {store.root}: run it with "
            f"`saibench run {request.task} --method {request.method} --scale {request.scale}`"
        )
    model = planned.build(len(reader(planned.task.name, planned.folder, "train").classes))
    if not planned.from_nothing:
        load_start(planned, model, None if start is None else start.path(MODEL))
    body = planned.task.backbone(model)
    method.prepare(body)
    method.finish(body)
    method.configure(body)
    return model.eval()


def plan_of(record: Record, data: Path | None = None, plugins: Sequence[Path] = ()) -> Plan:
    """Return the plan that a record was made by.

    Parameters
    ----------
    data
        The data set's folder, where it was not the embedded one.
    plugins
        Files of methods and folders of tasks, where these are not the project's or an installed package's: a record
        has their names and no path, and nothing in a record is ever executed.

    Raises
    ------
    SaibenchError
        When the method or the task is not found, or data, recipe or code are not those of the record any more.
    """
    fields, overrides = record.fields, _overrides(record)
    task, method = _task_of(record, plugins), _method_of(record, plugins)
    precision = fields.get("precision") or FULL
    planned = plan(
        Request(task, method, fields["scale"], record.parameters, fields["seed"], data, overrides, precision)
    )
    here = planned.imagenet is not None and planned.imagenet.is_file()
    if planned.imagenet is not None and not (here and planned.imagenet.name == fields.get("start_weights")):
        # What is loaded are the trained weights: those that it started from need not be here.
        start = {**planned.cell.determinants, "start": fields.get("start")}
        planned = dataclasses.replace(planned, cell=dataclasses.replace(planned.cell, determinants=start))
    if planned.cell.id != record.cell_id:
        changed = _changed(record, planned)
        remedy = f"check out the commit that made it ({fields['git_sha'] or 'which it does not say'})"
        if changed == ["data"]:
            remedy = f"give the data set {fields['dataset']} with --data"
        elif changed == ["starting weights"] and planned.imagenet is not None:
            remedy = f"put the weights with the SHA-256 {fields.get('start')} at {planned.imagenet}"
        raise SaibenchError(
            f"cell {record.cell_id} ({fields['method']}) was made with other {', '.join(changed) or 'code'} "
            f"(now {planned.cell.id}): {remedy}, or run the cell again"
        )
    return planned


def _overrides(record: Record) -> dict[str, Any]:
    """Return what was changed in a record's recipe, by dotted name."""
    try:
        overrides = json.loads(record.fields.get("overrides") or "{}")
    except (ValueError, RecursionError):
        overrides = None
    if not isinstance(overrides, dict):
        raise SaibenchError(
            f"cell {record.cell_id} says what was changed in its recipe in an older form: run the cell again"
        )
    return overrides


def _task_of(record: Record, plugins: Sequence[Path]) -> str:
    """Return the name of a record's task once it is known by it."""
    for folder in plugins:
        if folder.is_dir():
            find_task(str(folder.resolve()))
    name = str(record["task"])
    try:
        return find_task(name).name
    except UsageError:
        raise UsageError(f"{record.folder}: its task {name!r} is not here; give its folder with --plugin") from None


def _method_of(record: Record, plugins: Sequence[Path]) -> str:
    """Return what finds a record's method."""
    name = str(record["method"])
    found = discover([path for path in plugins if not path.is_dir()])
    if name not in found:
        raise UsageError(f"{record.folder}: its method {name!r} is not here; give its file with --plugin")
    return address(found[name])


#: What the parts of a cell's identity are called in messages.
_PARTS = {
    "dataset_fingerprint": "data",
    "parameters": "parameters of the method",
    "recipe": "recipe",
    "schedules": "training schedule",
    "method": "code of the method",
    "start": "starting weights",
    "harness": "version of the harness",
    "precision": "precision of training",
    "task": "code of the task",
}


def _changed(record: Record, planned: Plan) -> list[str]:
    """Return which parts of a record's identity are not those of a plan, in words."""
    try:
        before = json.loads(record.read("cell.json"))
        before = {**before["determinants"], **{name: before[name] for name in ("dataset_fingerprint", "parameters")}}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{record.folder}: cell.json cannot be read ({error}); delete the folder to run the cell again"
        ) from None
    now = {**planned.cell.identity, **planned.cell.determinants}
    return [words for name, words in _PARTS.items() if name in before and before[name] != now.get(name)]


def backbone_inputs(model: nn.Module, planned: Plan, count: int) -> list[tuple[str | int, np.ndarray]]:
    """Return what the backbone of a trained model reads for the first validation images.

    Returns
    -------
    list of (identifier, array)
        Arrays ``(3, H, W)``, float32: resized, normalised and padded as the task does.
    """
    val = reader(planned.task.name, planned.folder, "val")
    inputs: list[tuple[str | int, np.ndarray]] = []
    for index in range(min(count, len(val))):
        sample = val[index]
        with torch.inference_mode():
            prepared = planned.task.prepare(model, Batch.collate([sample]))
        inputs.append((sample.identifier, prepared.images[0].contiguous().numpy()))
    return inputs
