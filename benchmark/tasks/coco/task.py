"""Object detection on COCO-format data: Faster R-CNN with FPN, average precision by pycocotools (paper §4.1, §4.3)."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes

from benchmark.data.reader import Identifier
from benchmark.data.verification import Progress, Report
from benchmark.errors import DataError
from benchmark.flops.trace import Size
from benchmark.metric import Metric
from benchmark.nn import build_backbone, padded
from benchmark.recipe import Recipe
from benchmark.tasks.base import Batch, Prepared, Task
from benchmark.tasks.coco import verification
from benchmark.tasks.coco.counting import DetectorAdapter
from benchmark.tasks.coco.detector import build_detector
from benchmark.tasks.coco.embedded import EMBEDDED
from benchmark.tasks.coco.outcomes import match
from benchmark.tasks.coco.reader import CocoDetection, find_split, read_categories
from benchmark.tasks.coco.recipe import EVIDENCE, MINI, PAPER, SMALL, DetectionRecipe

if TYPE_CHECKING:
    from benchmark.export import Head

METRICS = tuple(map(Metric.percent, ("AP", "AP50", "AP75", "APs", "APm", "APl")))  # in the order of COCOeval


class Coco(Task):
    """Detection."""

    name = "coco"
    metrics = METRICS
    nominal_classes = 80
    recipes: ClassVar[Mapping[str, Recipe]] = {"mini": MINI, "evidence": EVIDENCE, "small": SMALL, "paper": PAPER}
    embedded = EMBEDDED

    def open(self, root: Path, split: str) -> CocoDetection:
        """Return the reader of a COCO folder; validation categories are matched with those of training by name."""
        like = None
        if split != "train":
            with contextlib.suppress(DataError):  # a split alone, to be looked at
                like = read_categories(find_split(root, "train")[1])
        return CocoDetection(root, split, training=split == "train", cache=True, like=like)

    def verify_split(self, report: Report, root: Path, split: str, progress: Progress) -> None:
        """Check a split in COCO's format."""
        verification.verify_split(report, root, split, progress)

    def compare_splits(self, report: Report, root: Path, splits: Sequence[str]) -> None:
        """Make sure that the splits have the same categories."""
        verification.compare_splits(report, root, splits)

    def build(self, recipe: Recipe, backbone: str, classes: int, shorter_side: int) -> GeneralizedRCNN:
        """Return a Faster R-CNN."""
        body = build_backbone(backbone, deformable=recipe.deformable)
        longer_side = round(recipe.longer_side * shorter_side / recipe.shorter_side)
        return build_detector(body, classes, shorter_side, longer_side, cast(DetectionRecipe, recipe).detector)

    def backbone(self, model: nn.Module) -> nn.Module:
        """Return the body below the pyramid."""
        return cast(Any, model).backbone.body

    def head(self, model: nn.Module) -> "Head":
        """Return what writes pyramid, proposals and box head, for images of any size, not padded."""
        from benchmark.tasks.coco.exporting import write_detector

        return lambda graph, image, backbone: write_detector(graph, model, image, backbone)

    def preparation(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the length of the shorter side, and the most that the longer may have."""
        transform = cast(GeneralizedRCNN, model).transform
        return {"shorter_side": transform.min_size[-1], "longer_side": transform.max_size}

    def nominal_size(self, shorter_side: int) -> Size:
        """Return both sides of a 3:5 image rounded down to multiples of 32: 1000 gives 992 x 1664."""
        side, _ = super().nominal_size(shorter_side)
        return side // 32 * 32, 5 * side // 3 // 32 * 32

    def adapter(self, model: nn.Module) -> DetectorAdapter:
        """Return how the counter enters a detector: once an image, and once a region in its box head."""
        return DetectorAdapter(model)

    def training_outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return proposal and box losses by torchvision's names, scalars: the detector computes them itself."""
        return cast(dict[str, Tensor], model([image.float() / 255 for image in batch.images], batch.targets))

    def loss(self, model: nn.Module, batch: Batch, outputs: dict[str, Tensor]) -> Tensor:
        """Return the sum of proposal and box losses."""
        return sum(outputs.values(), torch.zeros((), device=batch.images[0].device))

    def prepare(self, model: nn.Module, batch: Batch) -> Prepared:
        """Normalise images, resize them within the detector's two sides, and pad them to multiples of 32."""
        images, _ = cast(GeneralizedRCNN, model).transform([image.float() / 255 for image in batch.images])
        originals = [(image.shape[-2], image.shape[-1]) for image in batch.images]
        return Prepared(images.tensors, images.image_sizes, originals)

    def forward(self, model: nn.Module, prepared: Prepared) -> list[dict[str, Tensor]]:
        """Return each image's boxes as corners in pixels of the prepared image, scores and labels."""
        detector, images = cast(Any, model), ImageList(prepared.images, prepared.sizes)
        with padded(images.image_sizes):
            features = detector.backbone(images.tensors)
        proposals, _ = detector.rpn(images, features)
        return detector.roi_heads(features, proposals, images.image_sizes)[0]

    def decode(self, outputs: Any, prepared: Prepared) -> list[Any]:
        """Return boxes ``(K, 4)`` as x, y, width, height in the image's own pixels, scores and labels of each image."""
        kept = []
        for detected, size, original in zip(outputs, prepared.sizes, prepared.originals, strict=True):
            boxes = resize_boxes(detected["boxes"], size, original).cpu()
            boxes[:, 2:] -= boxes[:, :2]
            kept.append({"boxes": boxes, "scores": detected["scores"].cpu(), "labels": detected["labels"].cpu()})
        return kept

    def evaluate(self, predictions: Mapping[Identifier, Any], reader: CocoDetection) -> dict[str, float]:
        """Return COCO's average precisions; NaN where the split has no object of that size."""
        results = _results(predictions, reader)
        with contextlib.redirect_stdout(io.StringIO()):
            # `loadRes` takes no empty list, and a set that nothing was loaded into has no detections.
            detected = reader.coco.loadRes(results) if results else COCO()
            evaluation = COCOeval(reader.coco, detected, "bbox")
            evaluation.params.imgIds = sorted(predictions)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        named = zip(METRICS, evaluation.stats[: len(METRICS)], strict=True)
        return {metric.name: float(value) if value >= 0 else float("nan") for metric, value in named}

    def save(self, predictions: Mapping[Identifier, Any], reader: CocoDetection, folder: Path) -> None:
        """Write COCO's results format."""
        (folder / "predictions.json").write_text(json.dumps(_results(predictions, reader)))

    def outcomes(self, predictions: Mapping[Identifier, Any], reader: CocoDetection) -> pd.DataFrame:
        """Return COCO's matches of detections and objects."""
        return match(reader.coco, _results(predictions, reader), list(predictions))

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


def _results(predictions: Mapping[Identifier, Any], reader: CocoDetection) -> list[dict[str, Any]]:
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
