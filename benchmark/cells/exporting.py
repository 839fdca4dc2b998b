"""A network on its way out of Saibench: a trained cell's or an untrained one, and what its file says about itself."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from benchmark._version import __version__
from benchmark.cells.loading import load_model, plan_of, starting_model
from benchmark.cells.planning import Plan
from benchmark.cells.request import reader
from benchmark.data.normalisation import DEVIATION, MEAN
from benchmark.errors import SaibenchError, UsageError
from benchmark.nn import GumbelMask, residual_blocks
from benchmark.store import Record, Store, provenance, timestamp

Part = Literal["network", "backbone"]

LICENCE = "MIT; weights also under the terms of the data that they were trained on"


@dataclass(frozen=True)
class Exported:
    """A network to be exported.

    Attributes
    ----------
    planned : Plan
        Of its cell.
    model : nn.Module
        In inference mode.
    record : Record or None
        Of the trained cell.
    weights : str
        ``trained``, ``starting`` or ``random``.
    """

    planned: Plan
    model: nn.Module
    record: Record | None
    weights: str

    def metadata(self, part: Part, noise: str) -> dict[str, str]:
        """Return what the file says about itself; values that are no text are JSON."""
        record, cell = self.record, self.planned.cell
        commit = provenance(timestamp())["git_sha"] if record is None else record.fields["git_sha"]
        preparation = {"mean": MEAN, "deviation": DEVIATION, **self.planned.task.preparation(self.model)}
        said: dict[str, Any] = {
            "saibench": __version__,
            "cell": "" if record is None else record.cell_id,
            "task": cell.task,
            "method": cell.method,
            "parameters": json.dumps(cell.parameters),
            "scale": cell.scale,
            "dataset": cell.dataset,
            "seed": cell.seed,
            "weights": self.weights,
            "part": part,
            "noise": noise,
            "commit": commit or "",
            "licence": LICENCE,
            "classes": json.dumps(list(reader(cell.task, self.planned.folder, "train").classes)),
            "preparation": json.dumps(preparation),
        }
        return {name: str(value) for name, value in said.items()}


def trained_network(record: Record, data: Path | None, plugins: tuple[Path, ...]) -> Exported:
    """Return a finished cell's network.

    Raises
    ------
    SaibenchError
        For a cell that failed or diverged, or that kept no weights.
    """
    if not record.finished:
        raise SaibenchError(
            f"cell {record.cell_id} {record['status']}: it has no network to export; "
            "run it again with saibench run --force"
        )
    planned = plan_of(record, data, plugins)
    return Exported(planned, load_model(record, planned), record, "trained")


def untrained_network(planned: Plan, store: Store, own_backbone: bool, density: float | None) -> Exported:
    """Return a method's network before training: with the weights that it starts from, or with random ones.

    Parameters
    ----------
    own_backbone
        Whether the user chose the backbone: no starting weights fit it.
    density
        Share of positions that stochastic masks sample on average.
    """
    if own_backbone:
        model = planned.build(len(reader(planned.task.name, planned.folder, "train").classes)).eval()
        body = planned.task.backbone(model)
        planned.method.prepare(body)
        planned.method.finish(body)
    else:
        model = starting_model(planned, store)
    if density is not None:
        _set_density(planned.task.backbone(model), density)
    weights = "random" if own_backbone or planned.from_nothing else "starting"
    return Exported(planned, model.eval(), None, weights)


def _set_density(body: nn.Module, density: float) -> None:
    """Make every stochastic mask sample a share of the positions, wherever it looks.

    Raises
    ------
    UsageError
        For a share that cannot be, or a network without such masks.
    """
    if not 0 < density < 1:
        raise UsageError(f"--density {density:g}: give a share between 0 and 1")
    masks = [getattr(block, f"mask{number}") for block in residual_blocks(body) for number in block.work.masks]
    stochastic = [mask for mask in masks if isinstance(mask, GumbelMask) and mask.stochastic]
    if not stochastic:
        raise UsageError("--density is for masks that are drawn from a confidence, as those of method stochastic")
    for mask in stochastic:
        nn.init.zeros_(mask.conv.weight)
        nn.init.constant_(cast(Tensor, mask.conv.bias), math.log(density / (1 - density)))
