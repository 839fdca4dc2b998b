"""Image classification on image folders: ResNet with basic blocks, top-1 and top-5 accuracy (paper §4.1, §4.5)."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from benchmark.data.imagenet import ImageNet as ImageFolders
from benchmark.nn import load_weights
from benchmark.nn.classifier import Classifier
from benchmark.recipe import FINE_TUNING, FROM_NOTHING, Recipe, Schedule
from benchmark.tasks.base import Batch, Task

KEPT = 5  # classes kept of a prediction, best first
# The colours' mean and deviation that torchvision's weights expect.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClassificationRecipe(Recipe):
    """A recipe with the classifier's crops.

    `shorter_side` is the side of the square that the network sees; an inference image is resized to 8/7 of it first and
    cropped in the middle (224 of 256, as the standard evaluation has it). `longer_side` is the same square's.

    Attributes
    ----------
    smallest_crop : float
        Smallest share of an image's area that a training crop shows.
    """

    smallest_crop: float = 0.08


MINI = ClassificationRecipe(
    backbone="mini_basic",
    shorter_side=64,
    longer_side=64,
    start="dense",
    pretrain=replace(FROM_NOTHING, batch=32, steps=900),
    # Batch norm goes on measuring: gates bring their own, and pruning changes what the others see.
    train=replace(FINE_TUNING, batch=32, steps=150, freeze_statistics=False),
    parameters={"window": 5, "grid_stride": 2, "initial_lambda": 1.0},
    curves={"gamma": (0.05, 0.3, 1.5, 6.0), "shorter_side": (64, 56, 48, 40), "structure": ("grid",)},
    threads=1,
    smallest_crop=0.5,
)
SMALL = replace(
    MINI,
    backbone="resnet34",
    shorter_side=128,
    longer_side=128,
    pretrain=replace(FROM_NOTHING, batch=64, steps=4000, learning_rate=1e-3),
    train=replace(MINI.train, batch=64, steps=1500, learning_rate=3e-4),
    parameters={"window": 5, "grid_stride": 2},
    curves={"gamma": (0.05, 0.1, 0.2, 0.4), "shorter_side": (128, 112, 96, 64), "structure": ("grid",)},
    threads=None,
    workers=8,
)
# The standard 90 epochs of SGD with a tenth of the learning rate after 30, 60 and 80, our choice: the paper follows
# LCCL's training, which is not released.
PAPER = ClassificationRecipe(
    backbone="resnet34",
    shorter_side=224,
    longer_side=224,
    train=Schedule(
        batch=256, epochs=90, learning_rate=0.1, weight_decay=1e-4, milestones=(30 / 90, 60 / 90, 80 / 90), clip=0.0,
    ),
    parameters={"window": 5, "grid_stride": 2},
    curves={"gamma": (0.01, 0.015), "shorter_side": (224, 192, 160, 128), "structure": ("grid",)},
    workers=8,
)  # fmt: skip


class ImageNet(Task):
    """Classification."""

    name = "imagenet"
    metric = "top1"
    recipes: ClassVar[Mapping[str, Recipe]] = {"mini": MINI, "small": SMALL, "paper": PAPER}

    def open(self, root: Path, split: str) -> ImageFolders:
        """Return the reader of an image folder."""
        return ImageFolders(root, split, cache=True)

    def build(self, recipe: Recipe, backbone: str, classes: int, shorter_side: int) -> Classifier:
        """Return a classifier."""
        smallest_crop = cast(ClassificationRecipe, recipe).smallest_crop
        return Classifier(backbone, classes, shorter_side, smallest_crop)

    def backbone(self, model: nn.Module) -> nn.Module:
        """Return the classifier itself: its residual blocks are its own children."""
        return model

    def load_weights(self, model: nn.Module, path: Path) -> None:
        """Load torchvision's weights; the linear layer too where the number of classes is the same."""
        load_weights(model, path)

    def augment(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Batch:
        """Cut a crop of random area and shape from each image and resize it to the classifier's square."""
        classifier = cast(Classifier, model)
        images = []
        for image in batch.images:
            top, left, height, width = _crop(image.shape[-2:], classifier.smallest_crop, rng)
            square = [classifier.side, classifier.side]
            images.append(transforms.resized_crop(image, top, left, height, width, square, antialias=True))
        return Batch(images, batch.targets, batch.identifiers)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy."""
        side = cast(Classifier, model).side
        square = (side, side)
        images = torch.stack([image if image.shape[-2:] == square else _fit(image, side) for image in batch.images])
        targets = torch.tensor(batch.targets, device=images.device)
        return F.cross_entropy(model(normalise(images)), targets)

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Return the best classes of each image, best first, and their probabilities."""
        images = torch.stack([_fit(image, cast(Classifier, model).side) for image in batch.images])
        shares = model(normalise(images)).softmax(1)
        best = shares.topk(min(KEPT, shares.shape[1]))
        return [
            {"labels": labels.cpu(), "scores": scores.cpu()}
            for labels, scores in zip(best.indices, best.values, strict=True)
        ]

    def evaluate(self, predictions: Mapping[str | int, Any], reader: ImageFolders) -> dict[str, float]:
        """Return the shares of images whose class is the best, and among the five best."""
        truth = {reader.image_id(index): reader.labels[index] for index in range(len(reader))}
        hits = torch.stack([found["labels"] == truth[str(image)] for image, found in predictions.items()]).double()
        return {"top1": float(hits[:, 0].mean()), "top5": float(hits.sum(1).mean())}

    def save(self, predictions: Mapping[str | int, Any], reader: ImageFolders, folder: Path) -> None:
        """Write a table: image, and its best classes with their probabilities."""
        with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            count = min(KEPT, len(reader.classes))
            rows.writerow(
                ["image", *(f"{what}{place}" for place in range(1, count + 1) for what in ("class", "score"))]
            )
            for image, found in sorted(predictions.items()):
                cells: list[Any] = [image]
                for label, score in zip(found["labels"].tolist(), found["scores"].tolist(), strict=True):
                    cells += [reader.classes[label], f"{score:.6f}"]
                rows.writerow(cells)

    def mirror(self, batch: Batch, chosen: np.ndarray) -> Batch:
        """Mirror images."""
        images = [image.flip(-1) if flip else image for image, flip in zip(batch.images, chosen.tolist(), strict=True)]
        return Batch(images, batch.targets, batch.identifiers)


def normalise(images: Tensor) -> Tensor:
    """Return uint8 images ``(N, 3, H, W)`` as float32 in the scale of torchvision's weights."""
    return transforms.normalize(transforms.to_dtype(images, torch.float32, scale=True), list(MEAN), list(DEVIATION))


def _crop(size: Sequence[int], smallest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a crop (top, left, height, width) of a share of the area in [smallest, 1] and aspect in [3/4, 4/3]."""
    height, width = size
    area, aspect = rng.uniform(smallest, 1.0) * height * width, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    tall = min(height, max(1, round(np.sqrt(area / aspect))))
    wide = min(width, max(1, round(np.sqrt(area * aspect))))
    return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide


def _fit(image: Tensor, side: int) -> Tensor:
    """Resize an image so that its shorter side is 8/7 of the square's and crop the square in the middle."""
    return transforms.center_crop(transforms.resize(image, [round(side * 8 / 7)], antialias=True), [side, side])


TASK = ImageNet()
