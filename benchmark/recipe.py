"""What a scale fixes for every method alike: model, image size, training schedule, and the values of the curves.

A recipe is part of a cell's identity, field for field. Methods cannot touch it but through their hooks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from benchmark.nn import Mask


@dataclass(frozen=True)
class Schedule:
    """One training run.

    Attributes
    ----------
    batch : int
        Images a step, over all devices.
    steps, epochs
        Length of the run; one of them is given.
    learning_rate, mask_learning_rate
        Of the network, and of the masks' confidence convolutions where it differs.
    decay
        ``milestones``: a tenth at each of these shares of the run; ``poly``: to the power 0.9; ``cosine``.
    warmup_steps, warmup_start
        Linear warm-up from this share of the learning rate.
    clip : float
        Largest norm of the gradient; 0 for no clipping.
    freeze_statistics : bool
        Keep batch norm's running statistics, train its affine part.
    flip : bool
        Mirror half of the images.
    """

    batch: int
    learning_rate: float
    steps: int = 0
    epochs: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    mask_learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay: Literal["milestones", "poly", "cosine"] = "milestones"
    milestones: Sequence[float] = (8 / 12, 11 / 12)
    warmup_steps: int = 0
    warmup_start: float = 1 / 3
    clip: float = 35.0
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
        """Return the optimizer over the model's trainable parameters, masks apart, and its schedule by step."""
        masks = {id(p) for module in model.modules() if isinstance(module, Mask) for p in module.parameters()}
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
            optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, steps))


#: How a scale of minutes trains a network from nothing, and how it goes on from there with a method's changes: slowly,
#: the masks above all, or gates close for good before the network adapts. A recipe adds lengths.
FROM_NOTHING = Schedule(
    batch=8, learning_rate=3e-3, optimizer="adamw", weight_decay=0.02, decay="cosine", warmup_steps=50, clip=5.0
)
FINE_TUNING = replace(
    FROM_NOTHING, learning_rate=5e-4, mask_learning_rate=1e-3, warmup_steps=10, freeze_statistics=True
)


@dataclass(frozen=True)
class Recipe:
    """What a task fixes at a scale.

    Attributes
    ----------
    backbone : str
        Name of the backbone that adaptive methods adapt.
    shorter_side, longer_side : int
        Images are resized so that the shorter side has the first length and the longer at most the second, in pixels.
    train : Schedule
        What every method runs.
    start : str
        The method whose checkpoint (same task, scale, data and seed) the others start from; it runs `pretrain`, as do
        methods with a backbone of their own. Empty: start from ImageNet weights.
    parameters : mapping
        Values at this scale for method parameters of these names, in place of the methods' own defaults.
    curves : mapping
        The recipe's own curve values by parameter name, in place of the methods' own.
    threads : int or None
        PyTorch threads of a cell; None for all cores.
    frozen : sequence of str
        Backbone children that are not trained.
    """

    backbone: str
    shorter_side: int
    longer_side: int
    train: Schedule
    pretrain: Schedule | None = None
    start: str = ""
    deformable: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    threads: int | None = None
    frozen: Sequence[str] = ()
    workers: int = 0

    def determinants(self) -> dict[str, Any]:
        """Return the fields that change every cell's result.

        Curves and workers change none; parameters and schedules are told with each cell's own.
        """
        fields = asdict(self)
        for name in ("curves", "workers", "parameters", "train", "pretrain"):
            del fields[name]
        return fields
