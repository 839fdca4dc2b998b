"""Object detection on COCO-format data: Faster R-CNN with FPN, average precision by pycocotools (paper §4.1, §4.3)."""

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from benchmark.data.coco import CocoDetection
from benchmark.nn import build_backbone
from benchmark.nn.detector import DetectorSize, build_detector
from benchmark.recipe import FINE_TUNING, FROM_NOTHING, Recipe, Schedule
from benchmark.tasks.base import Batch, Task

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class DetectionRecipe(Recipe):
    """A recipe with the detector's widths and budgets."""

    detector: DetectorSize = field(default_factory=DetectorSize)


MINI_DETECTOR = DetectorSize(
    pyramid_channels=48,
    representation=128,
    smallest_anchor=8,
    proposals_before=(100, 100),
    proposals_after=(64, 40),
    anchors_per_image=64,
    boxes_per_image=32,
    positive_share=0.5,
    detections=30,
)
MINI = DetectionRecipe(
    backbone="mini",
    shorter_side=128,
    longer_side=224,
    start="dense",
    pretrain=replace(FROM_NOTHING, steps=1000),
    train=replace(FINE_TUNING, steps=120),
    parameters={"window": 5, "grid_stride": 5, "initial_lambda": 1.0},
    curves={
        "gamma": (0.05, 0.3, 1.0, 3.0),
        "shorter_side": (128, 96, 64),
        "rate": (0.5, 0.75),
    },
    threads=1,
    detector=MINI_DETECTOR,
)
SMALL = replace(
    MINI,
    shorter_side=256,
    longer_side=448,
    deformable=True,
    pretrain=replace(FROM_NOTHING, batch=16, steps=8000),
    train=replace(FINE_TUNING, batch=16, steps=1500),
    parameters={"window": 7, "grid_stride": 11},
    curves={"gamma": (0.05, 0.1, 0.2, 0.4), "shorter_side": (256, 192, 160, 128)},
    threads=None,
    workers=8,
    detector=DetectorSize(
        pyramid_channels=128, representation=512, smallest_anchor=16, proposals_before=(1000, 500),
        proposals_after=(500, 300), anchors_per_image=256, boxes_per_image=128,
    ),
)  # fmt: skip
PAPER = DetectionRecipe(
    backbone="resnet101",
    shorter_side=1000,
    longer_side=1667,
    deformable=True,
    train=Schedule(batch=8, epochs=12, learning_rate=0.01, warmup_steps=500, freeze_statistics=True),
    curves={"gamma": (0.02, 0.05, 0.1, 0.2), "shorter_side": (1000, 800, 600, 500)},
    frozen=("conv1", "bn1"),
    workers=8,
)


class Coco(Task):
    """Detection."""

    name = "coco"
    metric = "AP"
    recipes: ClassVar[Mapping[str, Recipe]] = {"mini": MINI, "small": SMALL, "paper": PAPER}

    def open(self, root: Path, split: str) -> CocoDetection:
        """Return the reader of a COCO folder."""
        return CocoDetection(root, split, training=split == "train", cache=True)

    def build(self, recipe: Recipe, backbone: str, classes: int, shorter_side: int) -> FasterRCNN:
        """Return a Faster R-CNN."""
        body = build_backbone(backbone, deformable=recipe.deformable)
        longer_side = round(recipe.longer_side * shorter_side / recipe.shorter_side)
        return build_detector(body, classes, shorter_side, longer_side, cast(DetectionRecipe, recipe).detector)

    def backbone(self, model: nn.Module) -> nn.Module:
        """Return the body below the pyramid."""
        return cast(Any, model).backbone.body

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of proposal and box losses."""
        losses = model([image.float() / 255 for image in batch.images], batch.targets)
        return sum(losses.values(), torch.zeros((), device=batch.images[0].device))

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """Return boxes ``(K, 4)`` as x, y, width, height in pixels, scores and labels of each image."""
        kept = []
        for detected in model([image.float() / 255 for image in batch.images]):
            boxes = detected["boxes"].cpu()
            boxes[:, 2:] -= boxes[:, :2]
            kept.append({"boxes": boxes, "scores": detected["scores"].cpu(), "labels": detected["labels"].cpu()})
        return kept

    def evaluate(self, predictions: Mapping[str | int, Any], reader: CocoDetection) -> dict[str, float]:
        """Return COCO's average precisions; NaN where the split has no object of that size."""
        results = _results(predictions, reader)
        if not results:
            return dict.fromkeys(METRICS, 0.0)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(reader.coco, reader.coco.loadRes(results), "bbox")
            evaluation.params.imgIds = sorted(predictions)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values = evaluation.stats[: len(METRICS)]
        return {name: float(value) if value >= 0 else float("nan") for name, value in zip(METRICS, values, strict=True)}

    def save(self, predictions: Mapping[str | int, Any], reader: CocoDetection, folder: Path) -> None:
        """Write COCO's results format."""
        (folder / "predictions.json").write_text(json.dumps(_results(predictions, reader)))

    def mirror(self, batch: Batch, chosen: np.ndarray) -> Batch:
        """Mirror images and boxes."""
        images, targets = list(batch.images), list(batch.targets)
        for index in np.flatnonzero(chosen):
            width = images[index].shape[-1]
            images[index] = images[index].flip(-1)
            boxes = targets[index]["boxes"]
            mirrored = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), dim=1)
            targets[index] = {**targets[index], "boxes": mirrored}
        return Batch(images, targets, batch.identifiers)


def _results(predictions: Mapping[str | int, Any], reader: CocoDetection) -> list[dict[str, Any]]:
    """Return predictions as COCO's list of results, in the order of the images."""
    return [
        {
            "image_id": image,
            "category_id": reader.category_ids[int(label) - 1],
            "bbox": [round(value, 3) for value in box],
            "score": score,
        }
        for image, found in sorted(predictions.items())
        for box, score, label in zip(
            found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True
        )
    ]


TASK = Coco()
