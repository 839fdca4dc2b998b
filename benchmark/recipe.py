"""What a scale fixes for every method alike: model, image size, training schedule, and the values of the curves.

A recipe is part of a cell's identity, field for field. Methods cannot touch it but through their hooks. A user changes
fields with ``--recipe``; they are checked here, before any work.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from benchmark.errors import UsageError
from benchmark.nn import BACKBONES, Exit, Mask


class Fields(BaseModel):
    """A part of a recipe: typed fields that never change, checked when they are given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def replace(self, **changes: Any) -> Self:
        """Return a copy in which some fields have other values, checked like the first."""
        return type(self)(**{**dict(self), **changes})


class Schedule(Fields):
    """One training run.

    Attributes
    ----------
    batch : int
        Images a step, over all devices.
    micro_batch : int
        Images whose gradients are computed at a time and averaged over the step; 0 for all. With 1, images of several
        sizes are each padded alone.
    steps, epochs
        Length of the run; one of them is given, and steps count where both are.
    from_nothing : bool
        Whether it is a run from random weights. Others start from trained ones.
    learning_rate, mask_learning_rate
        Of the network, and of masks and exits, which are new, where it differs.
    decay
        ``milestones``: a tenth at each of these shares of the run; ``poly``: to the power 0.9; ``cosine``.
    warmup_steps, warmup_start
        Linear warm-up from this share of the learning rate.
    clip : float
        Largest norm of the gradient; 0 for no clipping.
    freeze_statistics : bool
        Keep the network's running statistics of batch norm, train its affine part. That of masks and exits goes on.
    flip : bool
        Mirror half of the images.
    """

    batch: int = Field(ge=1)
    micro_batch: int = Field(default=0, ge=0)
    learning_rate: float = Field(gt=0)
    steps: int = Field(default=0, ge=0)
    epochs: int = Field(default=0, ge=0)
    from_nothing: bool = False
    optimizer: Literal["sgd", "adamw"] = "sgd"
    mask_learning_rate: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    decay: Literal["milestones", "poly", "cosine"] = "milestones"
    milestones: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (8 / 12, 11 / 12)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_start: float = Field(default=1 / 3, ge=0, le=1)
    clip: float = Field(default=35.0, ge=0)
    freeze_statistics: bool = False
    flip: bool = True

    def length(self, images: int) -> int:
        """Return the number of steps on a training set of so many images."""
        return self.steps or self.epochs * math.ceil(images / self.batch)

    def factor(self, step: int, steps: int) -> float:
        """Return the share of the learning rate that holds at a step of the run."""
        if step < self.warmup_steps:
            return self.warmup_start + (1 - self.warmup_start) * step / self.warmup_steps
        progress = min(step / steps, 1.0)
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.decay == "poly":
            return (1 - progress) ** 0.9
        return 0.1 ** sum(progress >= milestone for milestone in self.milestones)

    def optimize(self, model: nn.Module, steps: int) -> tuple[Optimizer, LambdaLR]:
        """Return the optimizer over the model's parameters, those of masks and exits apart, and its schedule."""
        masks = {id(p) for module in model.modules() if isinstance(module, Mask | Exit) for p in module.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": [p for p in trained if id(p) not in masks], "lr": self.learning_rate}]
        gated = [p for p in trained if id(p) in masks]
        if gated:
            groups.append({"params": gated, "lr": self.mask_learning_rate or self.learning_rate})
        optimizer: Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                groups, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
            )
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, steps))


#: How a scale of minutes trains a network from nothing, and how it goes on from there with a method's changes: slowly,
#: the masks above all, or gates close for good before the network adapts. A recipe adds lengths.
FROM_NOTHING = Schedule(
    batch=8, learning_rate=3e-3, optimizer="adamw", weight_decay=0.02, decay="cosine", warmup_steps=50, clip=5.0,
    from_nothing=True,
)  # fmt: skip
FINE_TUNING = FROM_NOTHING.replace(
    learning_rate=5e-4, mask_learning_rate=1e-3, warmup_steps=10, freeze_statistics=True, from_nothing=False
)


def _known(backbone: str) -> str:
    if backbone not in BACKBONES:
        raise ValueError(f"there are {', '.join(BACKBONES)}")
    return backbone


def _with_a_length(schedule: Schedule) -> Schedule:
    if not schedule.steps and not schedule.epochs:
        raise ValueError("give it steps or epochs")
    return schedule


#: The name of a backbone of `benchmark.nn`.
Backbone = Annotated[str, AfterValidator(_known)]
#: A schedule that is complete.
Run = Annotated[Schedule, AfterValidator(_with_a_length)]


class Recipe(Fields):
    """What a task fixes at a scale.

    Attributes
    ----------
    backbone : str
        Name of the backbone that adaptive methods adapt.
    shorter_side, longer_side : int
        Images are resized so that the shorter side has the first length and the longer at most the second, in pixels.
    train : Schedule
        What every method runs, from trained weights.
    pretrain : Schedule or None
        The run from nothing, of the network whose weights the others start from.
    own_schedules : bool
        Whether a method that was published with another run keeps it (`Method.schedule`).
    start : str
        The method whose checkpoint (same task, scale, data and seed) the others start from; it runs `pretrain`, as do
        methods with a backbone of their own. Empty: start from ImageNet weights.
    shipped : sequence of str
        Backbones whose starting weights the project ships, made by `pretrain` (`benchmark.weights`): methods with one
        of them start from these, whatever `start` says.
    from_scratch : bool
        Leave these weights alone: start as `start` says. Where it says ImageNet weights, every method runs `pretrain`
        from nothing instead.
    pretrain_passes : int
        How often making these weights sees each of its images.
    parameters : mapping
        Values at this scale for method parameters of these names, in place of the methods' own defaults.
    curves : mapping
        The recipe's own curve values by parameter name, in place of the methods' own.
    threads : int or None
        PyTorch threads of a cell; None for all cores.
    operator : str
        What training computes windowed fills by: their ``definition``, or the ``fused`` operator, the same but for
        rounding (docs/decisions/0006-fused-fill.md).
    evaluation_batch : int
        Images that are evaluated at a time; more than 1 only where all have one size, or padding would change results.
    frozen : sequence of str
        Backbone children that are not trained.
    """

    backbone: str
    shorter_side: int = Field(ge=32)
    longer_side: int = Field(ge=32)
    train: Run
    pretrain: Run | None = None
    own_schedules: bool = False
    start: str = ""
    shipped: tuple[Backbone, ...] = ()
    from_scratch: bool = False
    pretrain_passes: int = Field(default=3, ge=1)
    deformable: bool = False
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    curves: Mapping[str, tuple[Any, ...]] = Field(default_factory=dict)
    threads: int | None = Field(default=None, ge=1)
    frozen: tuple[str, ...] = ()
    workers: int = Field(default=0, ge=0)
    evaluation_batch: int = Field(default=1, ge=1)
    operator: Literal["definition", "fused"] = "definition"

    def determinants(self) -> dict[str, Any]:
        """Return the fields that change every cell's result.

        Curves and workers change none; parameters, schedules and what a network starts from are told with each cell's
        own. The operator is told where it is not the definition.
        """
        told = {"parameters", "train", "pretrain", "pretrain_passes", "shipped", "from_scratch"}
        if self.operator == "definition":
            told.add("operator")
        return self.model_dump(exclude={"curves", "workers", *told})

    def override(self, values: Mapping[str, Any]) -> Self:
        """Return the recipe with some fields changed.

        Parameters
        ----------
        values
            By dotted name, as JSON has them: ``{"train.steps": 100, "detector.proposals_after": [64, 40]}``.

        Raises
        ------
        UsageError
            Naming the first field that is not there, or whose value has another type or is out of range.
        """
        content = self.model_dump(mode="json")
        for path, value in values.items():
            _place(self, content, path)[path.rpartition(".")[2]] = value
        try:
            return type(self).model_validate_json(json.dumps(content), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(map(str, first["loc"]))
            reason = first["msg"].removeprefix("Value error, ")
            given = "" if isinstance(first["input"], dict) else f", got {json.dumps(first['input'], default=str)}"
            raise UsageError(f"recipe field {path!r}: {reason[0].lower()}{reason[1:]}{given}") from None
        except TypeError as error:
            raise UsageError(f"a recipe's field takes what JSON can write: {error}") from None

    def select(self, paths: Iterable[str]) -> dict[str, Any]:
        """Return the values of some fields by dotted name, as `override` takes them."""
        content = self.model_dump(mode="json")
        return {path: _place(self, content, path)[path.rpartition(".")[2]] for path in paths}


def _place(recipe: Recipe, content: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the part of a recipe's content that holds a field, or may hold it.

    The recipe is followed beside its content, because a mapping takes any name and a model only its own fields.
    """
    part: Any = recipe
    *parents, last = path.split(".")
    for depth, name in enumerate([*parents, last]):
        known = type(part).model_fields if isinstance(part, Fields) else part if isinstance(part, Mapping) else {}
        if name not in known and not (isinstance(part, Mapping) and name == last):
            owner = ".".join(parents[:depth]) or "the recipe"
            raise UsageError(f"there is no recipe field {path!r}; {owner} has {', '.join(known) or 'none'}")
        if depth == len(parents):
            break
        part = getattr(part, name) if isinstance(part, Fields) else part[name]
        content = content[name]
        if part is None:
            raise UsageError(
                f"recipe field {path!r}: this scale has no {name}; give it whole, as --recipe '{name}={{…}}'"
            )
    return content
