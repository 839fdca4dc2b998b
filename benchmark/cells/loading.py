"""From a record back to what made it: its plan, its trained model, and what the model's backbone reads."""

import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from benchmark.cells.planning import Plan, plan
from benchmark.cells.request import Request, reader
from benchmark.cells.running import MODEL, load_start
from benchmark.errors import SaibenchError
from benchmark.hardware import FULL
from benchmark.nn import inference
from benchmark.store import Record, Store
from benchmark.tasks import Batch


def load_model(record: Record, planned: Plan) -> nn.Module:
    """Return a finished cell's trained model, in inference mode."""
    classes = len(reader(planned.task.name, planned.folder, "train").classes)
    model = planned.build(classes)
    planned.method.restore(planned.task.backbone(model))
    model.load_state_dict(load_file(record.path(MODEL)))
    return model.eval()


def starting_model(planned: Plan, store: Store) -> nn.Module:
    """Return a plan's network as it is before its first training step, in inference mode: masks are untrained.

    Raises
    ------
    SaibenchError
        When the network that it starts from was not trained yet.
    """
    start = None if planned.start is None else store.find(planned.start.cell)
    if planned.start is not None and (start is None or not start.finished):
        request = planned.start.request
        raise SaibenchError(
            f"{planned.cell.method} starts from {planned.start.cell}, which is not in {store.root}: run it with "
            f"`saibench run {request.task} --method {request.method} --scale {request.scale}`"
        )
    model = planned.build(len(reader(planned.task.name, planned.folder, "train").classes))
    if not planned.from_nothing:
        load_start(planned, model, start)
    body = planned.task.backbone(model)
    planned.method.prepare(body)
    planned.method.finish(body)
    return model.eval()


def plan_of(record: Record, data: Path | None = None) -> Plan:
    """Return the plan that a record was made by.

    Parameters
    ----------
    data
        The data set's folder, where it was not the embedded one.

    Raises
    ------
    SaibenchError
        When data, recipe or code are not those of the record any more.
    """
    fields = record.fields
    try:
        overrides = json.loads(fields.get("overrides") or "{}")
    except json.JSONDecodeError:
        raise SaibenchError(
            f"cell {record.cell_id} says what was changed in its recipe in an older form: run the cell again"
        ) from None
    planned = plan(
        Request(
            fields["task"], fields["method"], fields["scale"], record.parameters, fields["seed"], data, overrides,
            fields.get("precision") or FULL,
        )
    )  # fmt: skip
    if planned.cell.id != record.cell_id:
        raise SaibenchError(
            f"cell {record.cell_id} was made with other data, recipe or code (now {planned.cell.id}): "
            f"give the data set {fields['dataset']} with --data, or run the cell again"
        )
    return planned


def backbone_inputs(model: nn.Module, planned: Plan, count: int) -> list[tuple[str | int, np.ndarray]]:
    """Return what the backbone of a trained model reads for the first validation images.

    Returns
    -------
    list of (identifier, array)
        Arrays ``(3, H, W)``, float32: resized, normalised and padded as the task does.
    """
    val, body = reader(planned.task.name, planned.folder, "val"), planned.task.backbone(model)
    inputs: list[tuple[str | int, np.ndarray]] = []
    stem = cast(nn.Module, body.conv1)
    for index in range(min(count, len(val))):
        batch = Batch.collate([val[index]])
        hook = stem.register_forward_pre_hook(
            lambda module, given, name=batch.identifiers[0]: inputs.append((name, given[0][0].contiguous().numpy()))
        )
        with inference(batch.identifiers, planned.request.seed), torch.inference_mode():
            planned.task.predict(model, batch)
        hook.remove()
    return inputs
