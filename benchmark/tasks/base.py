"""What the harness asks of a task.

A task owns model, reader, recipe and metric; it knows no method. Training, counting, timing and storing are the same
for all tasks and stand elsewhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
from torch import Tensor, nn

from benchmark.data.embedded import EmbeddedSet
from benchmark.data.reader import Identifier, Reader, Sample
from benchmark.data.verification import Progress, Report
from benchmark.errors import UsageError
from benchmark.flops.adapter import Adapter, PlainAdapter
from benchmark.flops.trace import Size
from benchmark.metric import Metric
from benchmark.nn import Exit, ResNet, load_weights, residual_blocks
from benchmark.recipe import Recipe

if TYPE_CHECKING:  # it needs packages that are optional
    from benchmark.export import Head


@dataclass
class Batch:
    """What a loader gives.

    Attributes
    ----------
    images : list of Tensor
        Each ``(3, H, W)``, uint8, RGB; sizes may differ.
    targets : list
        The task's own, one an image.
    identifiers : list
        Each image's stable identifier, which keys its inference noise.
    """

    images: list[Tensor]
    targets: list[Any]
    identifiers: list[Identifier]

    @classmethod
    def collate(cls, samples: Sequence[Sample]) -> "Batch":
        """Gather samples."""
        images, targets, identifiers = zip(*samples, strict=True)
        return cls(list(images), list(targets), list(identifiers))

    def split(self, count: int) -> list["Batch"]:
        """Cut into parts of ``count`` images, the last of what is left."""
        places = [slice(first, first + count) for first in range(0, len(self.images), count)]
        return [Batch(self.images[part], self.targets[part], self.identifiers[part]) for part in places]


@dataclass
class Prepared:
    """A batch as a network reads it.

    Attributes
    ----------
    images : Tensor
        ``(N, 3, H, W)``, float32: resized, normalised, and padded to one size.
    sizes : list of (int, int)
        Height and width of each image in it, without its padding.
    originals : list of (int, int)
        Height and width that each image had before.
    """

    images: Tensor
    sizes: list[Size]
    originals: list[Size]

    @classmethod
    def whole(cls, images: Tensor, batch: Batch) -> "Prepared":
        """Return images ``(N, 3, H, W)`` that have no padding."""
        return cls(images, [_size(image) for image in images], [_size(image) for image in batch.images])


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


class Task(ABC):
    """One task.

    Inference takes three steps, which `predict` joins: `prepare` makes of images what the network reads, `forward` runs
    the network, `decode` makes predictions of what it says. Who needs only what the network reads, such as an engine or
    a look at masks, asks `prepare` alone.

    Attributes
    ----------
    name : str
        Key on the command line.
    metrics : sequence of Metric
        What predictions are judged by, the main one first.
    nominal_classes : int
        Number of classes of the data set of scale ``paper``.
    recipes : mapping
        Recipe by scale.
    embedded : EmbeddedSet
        How the task's rendered set is made.
    """

    name: ClassVar[str]
    metrics: ClassVar[Sequence[Metric]]
    nominal_classes: ClassVar[int]
    recipes: ClassVar[Mapping[str, Recipe]]
    embedded: ClassVar[EmbeddedSet]

    @abstractmethod
    def open(self, root: Path, split: str) -> Reader:
        """Return the reader of a split, ``train`` or ``val``.

        Raises
        ------
        DataError
            When the folder holds no such split in the task's format.
        """

    @abstractmethod
    def verify_split(self, report: Report, root: Path, split: str, progress: Progress) -> None:
        """Note in a report what a split of a data folder holds and what is wrong with it."""

    def compare_splits(self, report: Report, root: Path, splits: Sequence[str]) -> None:
        """Note in a report what is wrong between the splits of a data folder; nothing, unless overridden."""
        del report, root, splits

    @abstractmethod
    def build(self, recipe: Recipe, backbone: str, classes: int, shorter_side: int) -> nn.Module:
        """Return the dense model, untrained."""

    @abstractmethod
    def backbone(self, model: nn.Module) -> nn.Module:
        """Return the part of a model that methods adapt."""

    def head(self, model: nn.Module) -> "Head":
        """Return what writes the whole model around its backbone into a graph of ONNX operators.

        Raises
        ------
        UsageError
            Unless overridden: the backbone alone can be exported.
        """
        raise UsageError(f"task {self.name!r} does not say how its head is exported; export the backbone alone")

    def preparation(self, model: nn.Module) -> Mapping[str, Any]:
        """Return how an exported model's images are resized, for those who prepare them: sides in pixels by name."""
        return {}

    def nominal_size(self, shorter_side: int) -> Size:
        """Return the height and width, in pixels, at which the paper's convention counts: a square, unless overridden.

        Raises
        ------
        UsageError
            For a side smaller than 32.
        """
        if shorter_side < 32:
            raise UsageError(f"shorter side {shorter_side}: the smallest is 32")
        return shorter_side, shorter_side

    def adapter(self, model: nn.Module) -> Adapter:
        """Return how the counter enters a model, and to which scope a layer belongs: in one pass, unless overridden."""
        return PlainAdapter(model)

    def add_exits(self, model: nn.Module, stages: Sequence[str]) -> None:
        """Put an exit behind each of these stages of a model's backbone, given in their order.

        Raises
        ------
        UsageError
            For a stage that the backbone does not have, or a task without exits.
        """
        body, before = cast(ResNet, self.backbone(model)), None
        names = [name for name, _ in body.named_children() if name.startswith("layer")]
        for stage in stages:
            if stage not in names:
                raise UsageError(
                    f"the backbone has no stage {stage!r} to put an exit behind; it has {', '.join(names)}"
                )
        for name in names:
            blocks = list(residual_blocks(body.get_submodule(name)))
            blocks[0].stage.exit = before
            if name in stages:
                resolution = blocks[-1].resolution * blocks[-1].stride
                before = Exit(self.exit_head(model, name), resolution, before)
                body.get_submodule(name).add_module("exit", before)

    def exit_head(self, model: nn.Module, stage: str) -> nn.Module:
        """Return a new head for a stage's map ``(N, C, H, W)``: to logits ``(N, classes, H, W)``.

        Raises
        ------
        UsageError
            Unless overridden.
        """
        raise UsageError(f"task {self.name!r} has no exits: only a task with one prediction a position can merge them")

    def exit_outputs(self, model: nn.Module, prepared: Prepared) -> Sequence[Any]:
        """Return what each exit said of prepared images in the last forward, in the form of `forward`'s outputs."""
        del model, prepared
        return ()

    @abstractmethod
    def training_outputs(self, model: nn.Module, batch: Batch) -> Any:
        """Run a training batch through the model; methods get what it returns as `Step.outputs`.

        Say shapes here: logits, or losses by name where the model itself computes them.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, outputs: Any) -> Tensor:
        """Return the task's loss of a training batch, a scalar, from what `training_outputs` returned for it."""

    @abstractmethod
    def prepare(self, model: nn.Module, batch: Batch) -> Prepared:
        """Resize, normalise and pad a batch's images as the model reads them at inference."""

    def forward(self, model: nn.Module, prepared: Prepared) -> Any:
        """Return what the model says of prepared images: its own output for the tensor, unless overridden."""
        return model(prepared.images)

    @abstractmethod
    def decode(self, outputs: Any, prepared: Prepared) -> list[Any]:
        """Return the predictions that a forward's outputs mean, one an image, ready to be kept."""

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Return the model's predictions for an inference batch, one an image: the three steps in one."""
        return self.predict_with_exits(model, batch)[0]

    def predict_with_exits(self, model: nn.Module, batch: Batch) -> list[list[Any]]:
        """Return the predictions for an inference batch, and those of each exit, in one forward."""
        prepared = self.prepare(model, batch)
        outputs = self.forward(model, prepared)
        return [self.decode(each, prepared) for each in (outputs, *self.exit_outputs(model, prepared))]

    @abstractmethod
    def evaluate(self, predictions: Mapping[Identifier, Any], reader: Any) -> dict[str, float]:
        """Return the metrics of the predictions for a split: shares from 0 to 1, or NaN where one is not defined."""

    @abstractmethod
    def save(self, predictions: Mapping[Identifier, Any], reader: Any, folder: Path) -> None:
        """Keep the predictions in the task's usual file format."""

    def outcomes(self, predictions: Mapping[Identifier, Any], reader: Any) -> pd.DataFrame | None:
        """Return what the predictions got right on each image, as one of the tables of `benchmark.stats.outcomes`.

        None, unless overridden: methods are then compared over seeds alone, not over images.
        """
        return None

    def mirror(self, batch: Batch, chosen: np.ndarray) -> Batch:
        """Return the batch with the chosen images, and what their targets say, mirrored left to right."""
        raise NotImplementedError

    def augment(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Batch:
        """Return a training batch, mirrored already, as the model is to see it; ``rng`` is seeded for the step."""
        return batch

    def load_weights(self, model: nn.Module, path: Path) -> None:
        """Load ImageNet weights from a safetensors file into a model's backbone.

        Raises
        ------
        DataError
            When the file is missing or does not fit.
        """
        load_weights(cast(ResNet, self.backbone(model)), path)

    def weights_names(self, recipe: Recipe, backbone: str) -> tuple[str, ...]:
        """Return the names under which the ImageNet weights of a backbone may lie, the best first."""
        return (backbone,)

    def recipe(self, scale: str) -> Recipe:
        """Return the recipe of a scale.

        Raises
        ------
        UsageError
            For a scale that is not there.
        """
        if scale not in self.recipes:
            raise UsageError(f"task {self.name!r} has no scale {scale!r}; it has {', '.join(self.recipes)}")
        return self.recipes[scale]
