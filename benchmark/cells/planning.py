"""From a request to a plan: names, parameters, recipe and data resolved, the cell's identity, nothing trained."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from benchmark.cells.request import Request, data_folder, reader
from benchmark.data.examining import check_classes
from benchmark.errors import UsageError
from benchmark.files import cache_folder
from benchmark.hardware import FULL
from benchmark.method import Method, resolve
from benchmark.nn.interpolation import use_operator
from benchmark.recipe import Recipe, Schedule
from benchmark.store import Cell
from benchmark.tasks import Task, find_task
from benchmark.tasks.discovery import outside_code
from benchmark.train import derive_seed
from benchmark.weights import files

HARNESS_VERSION = 3  # part of every cell's identity; raise it when a change of the harness changes results


@dataclass(frozen=True)
class Plan:
    """A request resolved: everything that `execute` needs.

    Attributes
    ----------
    request, task, recipe, method
        What was asked for, with the recipe's and the method's own values in place.
    folder : Path
        The data set's.
    cell : Cell
        The identity.
    start : Plan or None
        The plan of the cell whose weights this one starts from; with another value of a parameter of
        `Method.at_inference`, of the cell whose trained network this one evaluates.
    weights : Path or None
        The file of the shipped weights that it starts from; then there is no such cell.
    imagenet : Path or None
        The file of ImageNet weights that it starts from, at a scale that has neither; it may be missing.
    """

    request: Request
    task: Task
    recipe: Recipe
    method: Method
    folder: Path
    cell: Cell
    start: "Plan | None" = None
    weights: Path | None = None
    imagenet: Path | None = None

    @property
    def is_start(self) -> bool:
        """Whether the other methods start from this cell's weights."""
        return self.weights is None and self.method.name == self.recipe.start

    @property
    def trained(self) -> "Plan":
        """The plan of the cell that trains this one's network: itself, but for other values at inference."""
        return self.start if self.start is not None and type(self.start.method) is type(self.method) else self

    @property
    def from_nothing(self) -> bool:
        """Whether the network starts from random weights."""
        return self.trained is self and self.schedules[0].from_nothing

    @property
    def schedules(self) -> list[Schedule]:
        """The training runs, one after the other; none where another cell trains the network."""
        return _schedules(self.recipe, self.method, self.weights) if self.trained is self else []

    def build(self, classes: int) -> nn.Module:
        """Return the untrained model with the method's masks in place, on the CPU."""
        torch.manual_seed(derive_seed(self.request.seed, "weights"))
        shorter_side = self.method.image_size(self.recipe.shorter_side)
        model = self.task.build(self.recipe, self.method.backbone(self.recipe.backbone), classes, shorter_side)
        self.task.add_exits(model, self.method.exits)
        body = self.task.backbone(model)
        self.method.adapt(body)
        use_operator(body, self.recipe.operator)
        for name in self.recipe.frozen:
            for parameter in cast(nn.Module, getattr(body, name)).parameters():
                parameter.requires_grad_(False)
        return model


def plan(request: Request) -> Plan:
    """Resolve a request.

    Raises
    ------
    UsageError
        For names or values that do not exist.
    DataError
        For a data folder that cannot be read.
    """
    hardware = request.hardware
    task = find_task(request.task)
    recipe = task.recipe(request.scale).override(request.overrides)
    kind = resolve([request.method])[0]
    reason = kind.make({}).skip(task.name)
    if reason:
        raise UsageError(f"method {kind.name!r} does not run on {task.name}: {reason}")
    method = kind.make({**kind.defaults(recipe.parameters), **request.parameters})
    in_training = {name: value for name, value in request.parameters.items() if name not in kind.at_inference}
    if kind.make({**kind.defaults(recipe.parameters), **in_training}) != method:
        return _at_other_values(plan(dataclasses.replace(request, parameters=in_training)), request, method)
    weights = _weights(task, recipe, method)
    _check_own_schedule(request, recipe, method, weights)
    schedules = _schedules(recipe, method, weights)
    for schedule in schedules:
        _check_shares(schedule, "train" if schedule == recipe.train else "pretrain", hardware.devices)
    folder = data_folder(request)
    start = None if weights else _start(request, recipe, method)
    imagenet = None if recipe.start or schedules[0].from_nothing else _imagenet_weights(task, recipe, method)
    outside = outside_code(task)
    cell = Cell(
        task=task.name,
        scale=request.scale,
        dataset=folder.name,
        dataset_fingerprint=data_fingerprint(task.name, folder),
        method=kind.name,
        parameters=method.model_dump(),
        seed=request.seed,
        determinants={
            "recipe": recipe.determinants(),
            "schedules": [schedule.model_dump() for schedule in schedules],
            "method": kind.code_fingerprint(),
            "start": start.cell.id if start else _digest(weights or imagenet),
            "harness": HARNESS_VERSION,
            **({} if outside is None else {"task": outside}),
            **({} if hardware.precision == FULL else {"precision": hardware.precision}),
        },
    )
    return Plan(request, task, recipe, method, folder, cell, start, weights, imagenet)


def _at_other_values(trained: Plan, request: Request, method: Method) -> Plan:
    """Return the plan of a cell that evaluates the network of a trained one at its own values of `at_inference`."""
    determinants = {**trained.cell.determinants, "schedules": [], "start": trained.cell.id}
    cell = dataclasses.replace(trained.cell, parameters=method.model_dump(), determinants=determinants)
    return dataclasses.replace(
        trained, request=request, method=method, cell=cell, start=trained, weights=None, imagenet=None
    )


def _own_backbone(recipe: Recipe, method: Method) -> bool:
    return method.backbone(recipe.backbone) != recipe.backbone


def _weights(task: Task, recipe: Recipe, method: Method) -> Path | None:
    """Return the file of the shipped weights that a method starts from, if it starts from such."""
    backbone = method.backbone(recipe.backbone)
    return files.find(task, backbone) if backbone in recipe.shipped and not recipe.from_scratch else None


def _imagenet_weights(task: Task, recipe: Recipe, method: Method) -> Path:
    """Return the file of ImageNet weights that fits best among those that are there; the best of all if none is."""
    names = task.weights_names(recipe, method.backbone(recipe.backbone))
    paths = [cache_folder() / "weights" / f"{name}{files.ENDING}" for name in names]
    return next((path for path in paths if path.is_file()), paths[0])


def _digest(weights: Path | None) -> str | None:
    return files.digest(weights) if weights is not None and weights.is_file() else None


def _start(request: Request, recipe: Recipe, method: Method) -> Plan | None:
    """Return the plan of the cell that a method starts from, if it starts from one."""
    if not recipe.start or method.name == recipe.start or _own_backbone(recipe, method):
        return None
    return plan(dataclasses.replace(request, method=recipe.start, parameters={}))


def _schedules(recipe: Recipe, method: Method, weights: Path | None) -> list[Schedule]:
    if not recipe.start:  # ImageNet weights, or none where the run is one from nothing
        return [_run_at_paper_scale(recipe, method)]
    if recipe.pretrain is None or weights is not None:
        return [recipe.train]
    if method.name == recipe.start:
        return [recipe.pretrain]
    return [recipe.pretrain, recipe.train] if _own_backbone(recipe, method) else [recipe.train]


def _run_at_paper_scale(recipe: Recipe, method: Method) -> Schedule:
    """Return the recipe's run from nothing where a user asks for it, the method's own where that holds, or `train`."""
    if recipe.from_scratch:
        if recipe.pretrain is None:
            raise UsageError("this scale trains from ImageNet weights alone: leave --from-scratch out")
        return recipe.pretrain
    return method.schedule(recipe.train) if recipe.own_schedules else recipe.train


def _check_own_schedule(request: Request, recipe: Recipe, method: Method, weights: Path | None) -> None:
    """Refuse a change of the common run that a method's own run would hide."""
    (own, *_) = _schedules(recipe, method, weights)
    for path in request.overrides:
        part, _, field = path.partition(".")
        if (
            recipe.own_schedules
            and not recipe.from_scratch
            and part == "train"
            and getattr(own, field, None) != getattr(recipe.train, field, None)
        ):
            raise UsageError(
                f"method {method.name!r} keeps its publication's training at scale {request.scale!r}, with {field} "
                f"{getattr(own, field)}: also give --recipe own_schedules=false to train it as the recipe says"
            )


def _check_shares(schedule: Schedule, name: str, devices: int) -> None:
    """Refuse a run whose steps have no equal number of whole parts for each device."""
    part = schedule.micro_batch or schedule.batch
    if devices == 1 or schedule.batch % (part * devices) == 0:
        return
    if schedule.batch % devices:
        raise UsageError(
            f"--devices {devices}: {name}.batch {schedule.batch} is not divisible by it; give --recipe "
            f"{name}.batch={devices * (schedule.batch // devices + 1)} or another number of devices"
        )
    raise UsageError(
        f"--devices {devices}: a step of {schedule.batch} images runs {part} at a time, and each device takes whole "
        f"parts; give --recipe {name}.micro_batch={schedule.batch // devices} or a divisor of that"
    )


@functools.cache
def data_fingerprint(task: str, folder: Path) -> str:
    """Return a hash of both splits of a data set, computed once in a process.

    Raises
    ------
    DataError
        Where a split is missing or broken, or both do not have the same classes.
    """
    check_classes(reader(task, folder, "train"), reader(task, folder, "val"), folder)
    return "-".join(reader(task, folder, split).fingerprint()[:12] for split in ("train", "val"))
