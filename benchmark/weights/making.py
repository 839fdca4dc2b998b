"""Making starting weights: the recipe's `pretrain` from nothing, on scenes of a seed of their own."""

import functools
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmark.cells.request import reader
from benchmark.errors import UsageError
from benchmark.evaluate import evaluate
from benchmark.files import atomic_path, cache_folder, write_atomic
from benchmark.method import Method
from benchmark.progress import Report
from benchmark.recipe import Recipe, Schedule
from benchmark.store import provenance, timestamp
from benchmark.tasks import Reader, Task
from benchmark.tensors import write_tensors
from benchmark.train import LOSSES, Loop, TrainingStep, derive_seed, fit
from benchmark.weights import files

SEED = 1000  # of the scenes and of the training: far from the seeds of cells, whose images these networks must not know


class WithoutMethod(Method):
    """What trains a network as it is."""


@dataclass(frozen=True)
class Making:
    """How the starting weights of one backbone are made.

    Attributes
    ----------
    scale : str
        The scale whose recipe and scenes train it.
    backbone : str
        Name of the backbone.
    schedule : Schedule
        The recipe's, or a shortened one.
    """

    task: Task
    scale: str
    backbone: str
    schedule: Schedule

    @property
    def recipe(self) -> Recipe:
        """The scale's."""
        return self.task.recipe(self.scale)

    @property
    def images(self) -> int:
        """Number of rendered training images: each is seen `Recipe.pretrain_passes` times."""
        return math.ceil(self.schedule.steps * self.schedule.batch / self.recipe.pretrain_passes)

    def data(self, progress: Any = None) -> Path:
        """Return the folder of the training scenes, rendered on first use."""
        embedded = self.task.embedded
        extent = embedded.sizes[self.scale]
        share = math.ceil(self.images / len(embedded.classes)) if embedded.per_class else self.images
        size = replace(extent, images={"train": share})
        return embedded.make(self.scale, cache_folder() / "data", SEED, size=size, progress=progress)

    def build(self, classes: int) -> nn.Module:
        """Return the untrained network."""
        torch.manual_seed(derive_seed(SEED, "weights"))
        return self.task.build(self.recipe, self.backbone, classes, self.recipe.shorter_side)


def makings(task: Task, scale: str, backbones: Sequence[str] = (), steps: int | None = None) -> list[Making]:
    """Return how a task's starting weights of a scale are made, for all of its backbones unless some are named.

    Raises
    ------
    UsageError
        For a scale or a backbone without starting weights.
    """
    recipe = task.recipe(scale)
    unknown = [name for name in backbones if name not in recipe.shipped]
    if recipe.pretrain is None or not recipe.shipped:
        raise UsageError(f"{task.name} ships no starting weights at scale {scale!r}")
    if unknown:
        raise UsageError(f"{task.name} ships no weights of {unknown[0]!r}; it has {', '.join(recipe.shipped)}")
    schedule = recipe.pretrain.replace(steps=steps or recipe.pretrain.steps)
    return [Making(task, scale, name, schedule) for name in backbones or recipe.shipped]


def make(making: Making, out: Path, report: Report | None = None) -> dict[str, Any]:
    """Train a backbone from nothing and write its weights and their record.

    A call that was interrupted resumes from its last checkpoint.

    Parameters
    ----------
    out
        Folder to write to.
    report
        Called as ``report("train", steps done, steps)`` after each step.

    Returns
    -------
    dict
        The record.
    """
    torch.set_num_threads(making.recipe.threads or torch.get_num_threads())
    started = timestamp()
    train = reader(making.task.name, making.data(), "train")
    model = making.build(len(train.classes))
    scratch = cache_folder() / "weights" / f"{making.task.name}-{making.backbone}-{making.schedule.steps}.partial"
    scratch.mkdir(parents=True, exist_ok=True)
    step = TrainingStep(making.task, WithoutMethod(), model, making.schedule, making.schedule.steps, SEED)
    progress = None if report is None else functools.partial(report, "train")
    seconds = fit(step, train, Loop(scratch, making.recipe.workers, progress))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{making.backbone}{files.ENDING}"
    with atomic_path(path) as temporary:
        write_tensors({key: _compact(value) for key, value in model.state_dict().items()}, temporary)
    files.fill(model, path)  # the metric is that of the rounded weights
    record = {
        "task": making.task.name,
        "backbone": making.backbone,
        "command": f"saibench weights make {making.task.name} --scale {making.scale} --backbone {making.backbone}"
        f" --steps {making.schedule.steps}",
        "steps": making.schedule.steps,
        "batch": making.schedule.batch,
        "images": len(train),
        "seed": SEED,
        "scenes": train.fingerprint(),
        "metric": making.task.metrics[0].name,
        **measure(making, model),
        "sha256": files.digest(path),
        "losses": _tenths(pd.read_parquet(scratch / LOSSES)["loss"].to_numpy()),
        "seconds": seconds,
        **provenance(started),
    }
    write_atomic(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    shutil.rmtree(scratch)
    return record


def _tenths(losses: np.ndarray) -> list[float]:
    """Return the mean loss of each tenth of a run, in order."""
    return [float(part.mean()) for part in np.array_split(losses, min(10, len(losses)))]


def _compact(value: Tensor) -> Tensor:
    """Return a tensor in half precision, vectors (batch norm's, biases) as they are: they are few and span more."""
    value = value.detach().cpu().contiguous()
    return value.half() if value.is_floating_point() and value.ndim > 1 else value


def validation(making: Making) -> Reader:
    """Return the scale's validation images, on which cells are evaluated too."""
    task = making.task
    return reader(task.name, task.embedded.make(making.scale, cache_folder() / "data"), "val")


def measure(making: Making, model: nn.Module) -> dict[str, Any]:
    """Return the value of the metric on the scale's validation images, and what these are."""
    val = validation(making)
    recipe = making.recipe
    found = evaluate(making.task, model, val, SEED, recipe.workers, recipe.evaluation_batch)
    value = making.task.evaluate(found.predictions, val)[making.task.metrics[0].name]
    return {"value": value, "validation": val.fingerprint()}
