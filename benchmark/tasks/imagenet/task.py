"""Image classification on image folders: ResNet with basic blocks, top-1 and top-5 accuracy (paper §4.1, §4.5)."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from benchmark.data.normalisation import normalise
from benchmark.data.reader import Identifier
from benchmark.data.verification import Progress, Report
from benchmark.metric import Metric
from benchmark.recipe import Recipe
from benchmark.tasks.base import Batch, Prepared, Task
from benchmark.tasks.imagenet import verification
from benchmark.tasks.imagenet.classifier import Classifier
from benchmark.tasks.imagenet.embedded import EMBEDDED
from benchmark.tasks.imagenet.reader import ImageFolders
from benchmark.tasks.imagenet.recipe import MINI, PAPER, SMALL, ClassificationRecipe

if TYPE_CHECKING:
    from benchmark.export import Head

KEPT = 5  # classes kept of a prediction, best first
MARGIN = 8 / 7  # shorter side of a resized image, in sides of the square that is cut from it


class ImageNet(Task):
    """Classification."""

    name = "imagenet"
    metrics = (Metric.percent("top1", "top-1"), Metric.percent("top5", "top-5"))
    nominal_classes = 1000
    recipes: ClassVar[Mapping[str, Recipe]] = {"mini": MINI, "small": SMALL, "paper": PAPER}
    embedded = EMBEDDED

    def open(self, root: Path, split: str) -> ImageFolders:
        """Return the reader of an image folder."""
        return ImageFolders(root, split, cache=True)

    def verify_split(self, report: Report, root: Path, split: str, progress: Progress) -> None:
        """Check a split in image folders."""
        verification.verify_split(report, root, split, progress)

    def compare_splits(self, report: Report, root: Path, splits: Sequence[str]) -> None:
        """Look for pictures that are in several splits."""
        verification.compare_splits(report, root, splits)

    def build(self, recipe: Recipe, backbone: str, classes: int, shorter_side: int) -> Classifier:
        """Return a classifier."""
        smallest_crop = cast(ClassificationRecipe, recipe).smallest_crop
        return Classifier(backbone, classes, shorter_side, smallest_crop)

    def backbone(self, model: nn.Module) -> nn.Module:
        """Return the classifier itself: its residual blocks are its own children."""
        return model

    def head(self, model: nn.Module) -> "Head":
        """Return what writes average pooling and the linear layer."""
        from benchmark.tasks.imagenet.exporting import write_classifier

        return lambda graph, image, backbone: write_classifier(graph, cast(Classifier, model), image, backbone)

    def preparation(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the length of the shorter side, and the side of the square that is cut from the middle."""
        side = cast(Classifier, model).side
        return {"shorter_side": round(side * MARGIN), "crop": side}

    def augment(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Batch:
        """Cut a crop of random area and shape from each image and resize it to the classifier's square."""
        classifier = cast(Classifier, model)
        images = []
        for image in batch.images:
            top, left, height, width = _crop(image.shape[-2:], classifier.smallest_crop, rng)
            square = [classifier.side, classifier.side]
            images.append(transforms.resized_crop(image, top, left, height, width, square, antialias=True))
        return Batch(images, batch.targets, batch.identifiers)

    def training_outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits, ``(N, classes)``."""
        side = cast(Classifier, model).side
        square = (side, side)
        images = torch.stack([image if image.shape[-2:] == square else _fit(image, side) for image in batch.images])
        return cast(Tensor, model(normalise(images)))

    def loss(self, model: nn.Module, batch: Batch, outputs: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(outputs, torch.tensor(batch.targets, device=outputs.device))

    def prepare(self, model: nn.Module, batch: Batch) -> Prepared:
        """Cut the classifier's square from the middle of each image."""
        images = torch.stack([_fit(image, cast(Classifier, model).side) for image in batch.images])
        return Prepared.whole(normalise(images), batch)

    def decode(self, outputs: Any, prepared: Prepared) -> list[Any]:
        """Return the best classes of each image, best first, and their probabilities."""
        shares = outputs.softmax(1)
        best = shares.topk(min(KEPT, shares.shape[1]))
        return [
            {"labels": labels.cpu(), "scores": scores.cpu()}
            for labels, scores in zip(best.indices, best.values, strict=True)
        ]

    def evaluate(self, predictions: Mapping[Identifier, Any], reader: ImageFolders) -> dict[str, float]:
        """Return the shares of images whose class is the best, and among the five best."""
        truth = dict(zip(reader.names, reader.labels, strict=True))
        hits = torch.stack([found["labels"] == truth[str(image)] for image, found in predictions.items()]).double()
        return {"top1": float(hits[:, 0].mean()), "top5": float(hits.sum(1).mean())}

    def save(self, predictions: Mapping[Identifier, Any], reader: ImageFolders, folder: Path) -> None:
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

    def outcomes(self, predictions: Mapping[Identifier, Any], reader: ImageFolders) -> pd.DataFrame:
        """Return whether each image's best class is the right one."""
        truth = dict(zip(reader.names, reader.labels, strict=True))
        right = [int(found["labels"][0]) == truth[str(image)] for image, found in predictions.items()]
        return pd.DataFrame({"image": list(map(str, predictions)), "correct": right})

    def mirror(self, batch: Batch, chosen: np.ndarray) -> Batch:
        """Mirror images."""
        images = [image.flip(-1) if flip else image for image, flip in zip(batch.images, chosen.tolist(), strict=True)]
        return Batch(images, batch.targets, batch.identifiers)


def _crop(size: Sequence[int], smallest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a crop (top, left, height, width) of a share of the area in [smallest, 1] and aspect in [3/4, 4/3]."""
    height, width = size
    area, aspect = rng.uniform(smallest, 1.0) * height * width, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    tall = min(height, max(1, round(np.sqrt(area / aspect))))
    wide = min(width, max(1, round(np.sqrt(area * aspect))))
    return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide


def _fit(image: Tensor, side: int) -> Tensor:
    """Resize an image so that its shorter side is `MARGIN` of the square's and crop the square in the middle."""
    return transforms.center_crop(transforms.resize(image, [round(side * MARGIN)], antialias=True), [side, side])


TASK = ImageNet()
