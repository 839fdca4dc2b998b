"""Semantic segmentation in Cityscapes' layout: dilated FCN, IoU by cityscapesscripts (paper §4.1, §4.4)."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from benchmark.data.normalisation import MEAN, normalise
from benchmark.data.reader import Identifier
from benchmark.data.verification import Progress, Report
from benchmark.errors import DataError
from benchmark.flops.trace import Size
from benchmark.metric import Metric
from benchmark.nn import at_hand, build_backbone, inference
from benchmark.recipe import Recipe
from benchmark.tasks.base import Batch, Prepared, Task
from benchmark.tasks.cityscapes import verification
from benchmark.tasks.cityscapes.embedded import EMBEDDED
from benchmark.tasks.cityscapes.outcomes import confuse
from benchmark.tasks.cityscapes.reader import IGNORED, LABEL_IDS, CityscapesSegmentation
from benchmark.tasks.cityscapes.recipe import MINI, PAPER, SMALL, SegmentationRecipe
from benchmark.tasks.cityscapes.segmenter import OUTPUT_STRIDE, ExitHead, Segmenter, SegmenterSize

if TYPE_CHECKING:
    from benchmark.export import Head


class Cityscapes(Task):
    """Segmentation."""

    name = "cityscapes"
    metrics = (Metric.percent("mIoU", "mean IoU"), Metric.percent("mIoU_category", "category IoU"))
    nominal_classes = 19
    recipes: ClassVar[Mapping[str, Recipe]] = {"mini": MINI, "small": SMALL, "paper": PAPER}
    embedded = EMBEDDED

    def open(self, root: Path, split: str) -> CityscapesSegmentation:
        """Return the reader of a folder in Cityscapes' layout."""
        return CityscapesSegmentation(root, split, cache=True)

    def verify_split(self, report: Report, root: Path, split: str, progress: Progress) -> None:
        """Check a split in Cityscapes' layout."""
        verification.verify_split(report, root, split, progress)

    def compare_splits(self, report: Report, root: Path, splits: Sequence[str]) -> None:
        """Look for pictures that are in several splits."""
        verification.compare_splits(report, root, splits)

    def build(self, recipe: Recipe, backbone: str, classes: int, shorter_side: int) -> Segmenter:
        """Return a segmenter; its training crop shrinks with the images."""
        details = cast(SegmentationRecipe, recipe)
        body = build_backbone(backbone, recipe.deformable, OUTPUT_STRIDE, details.deep_stem)
        crop = round((details.segmenter.crop - 1) * shorter_side / recipe.shorter_side / OUTPUT_STRIDE)
        size = details.segmenter.replace(crop=max(4, crop) * OUTPUT_STRIDE + 1)
        return Segmenter(body, classes, shorter_side, size)

    def backbone(self, model: nn.Module) -> nn.Module:
        """Return the part below the heads."""
        return cast(Segmenter, model).backbone

    def head(self, model: nn.Module) -> "Head":
        """Return what writes the head and its upsampling."""
        from benchmark.tasks.cityscapes.exporting import write_segmenter

        return lambda graph, image, backbone: write_segmenter(graph, cast(Segmenter, model), image, backbone)

    def preparation(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the length of the shorter side."""
        return {"shorter_side": cast(Segmenter, model).shorter_side}

    def weights_names(self, recipe: Recipe, backbone: str) -> tuple[str, ...]:
        """Return a name of their own for the weights of a deep stem: detection has the plain stem under the other."""
        deep = cast(SegmentationRecipe, recipe).deep_stem
        return (f"{backbone}_deep_stem", backbone) if deep else (backbone,)

    def nominal_size(self, shorter_side: int) -> Size:
        """Return the size of an image twice as wide as it is high."""
        side, _ = super().nominal_size(shorter_side)
        return side, 2 * side

    def augment(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Batch:
        """Resize each image by random factors, cut a square at random and change its brightness."""
        segmenter = cast(Segmenter, model)
        pairs = [
            _cut(*_resize(image, labels, _jitter(image, segmenter, rng)), segmenter.size, rng)
            for image, labels in zip(batch.images, batch.targets, strict=True)
        ]
        return Batch([image for image, _ in pairs], [labels for _, labels in pairs], batch.identifiers)

    def exit_head(self, model: nn.Module, stage: str) -> ExitHead:
        """Return a head that sees the further around a position, the earlier its stage is."""
        return cast(Segmenter, model).exit_head(stage)

    def exit_outputs(self, model: nn.Module, prepared: Prepared) -> list[Tensor]:
        """Return each exit's logits, ``(N, classes, H, W)``."""
        return cast(Segmenter, model).at_exits(prepared.images)

    def training_outputs(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return the logits of the head, of the auxiliary head and of each exit, ``(N, classes, H, W)`` each."""
        segmenter, images = cast(Segmenter, model), normalise(torch.stack(batch.images))
        return (*segmenter.both(images), *segmenter.at_exits(images))

    def loss(self, model: nn.Module, batch: Batch, outputs: Sequence[Tensor]) -> Tensor:
        """Return the weighted mean cross-entropy over the evaluated pixels, the auxiliary head's and the exits'.

        The auxiliary head's has its weight, the exits' weigh as much as the head's.
        """
        segmenter = cast(Segmenter, model)
        targets = torch.stack(list(batch.targets)).long()
        weights = (
            torch.tensor(segmenter.size.class_weights, device=targets.device) if segmenter.size.class_weights else None
        )
        evaluated = targets[targets != IGNORED]
        # The mean over no pixel at all is not a number: a batch of ignored pixels teaches nothing.
        total = max(1, len(evaluated)) if weights is None else weights[evaluated].sum().clamp(min=weights.min())
        losses = [
            F.cross_entropy(logits, targets, weights, ignore_index=IGNORED, reduction="sum") / total
            for logits in outputs
        ]
        return sum(losses[2:], losses[0] + segmenter.size.auxiliary * losses[1])

    def prepare(self, model: nn.Module, batch: Batch) -> Prepared:
        """Resize and normalise whole images, which must be of one size: padding would change what the network sees."""
        images = torch.stack(batch.images)
        sides = _sides(images.shape[-2:], cast(Segmenter, model).shorter_side)
        return Prepared.whole(normalise(transforms.resize(images, sides, antialias=True)), batch)

    def decode(self, outputs: Any, prepared: Prepared) -> list[Any]:
        """Return each image's label ids, uint8 ``(H, W)``, at its own size."""
        size = prepared.originals[0]
        if outputs.shape[-2:] != size:
            outputs = F.interpolate(outputs, size, mode="bilinear")
        return [torch.from_numpy(LABEL_IDS[scores.argmax(0).cpu().numpy()]) for scores in outputs]

    def predict_with_exits(self, model: nn.Module, batch: Batch) -> list[list[Any]]:
        """Return each image's label ids, and at each exit: images of one size run as one batch, others one by one."""
        if len({image.shape for image in batch.images}) == 1:
            return super().predict_with_exits(model, batch)
        found = []
        for single in batch.split(1):
            with inference(single.identifiers, at_hand().seed):
                found.append(super().predict_with_exits(model, single))
        return [[labels for (labels,) in output] for output in zip(*found, strict=True)]

    def evaluate(self, predictions: Mapping[Identifier, Any], reader: CityscapesSegmentation) -> dict[str, float]:
        """Return cityscapesscripts' mean IoU over classes and over categories, and each class's own.

        A class that neither the labels nor the predictions show is NaN and left out of the means, as that tool does.

        Raises
        ------
        DataError
            When the labels show no class at all.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save(predictions, reader, Path(folder))
            found, truth = [], []
            for index, image in enumerate(reader.stems):
                if image in predictions:
                    found.append(str(_prediction_path(Path(folder), image)))
                    truth.append(str(_truth_path(reader, index, Path(folder))))
            scores = official.evaluateImgLists(found, truth, _options())
        if scores["averageScoreClasses"] != scores["averageScoreClasses"]:
            place = reader.root / "gtFine" / reader.split
            raise DataError(f"{place} shows no class that Cityscapes evaluates: is it a split without labels?")
        classes = {f"IoU_{name}": float(value) for name, value in scores["classScores"].items() if value == value}
        return {
            "mIoU": float(scores["averageScoreClasses"]),
            "mIoU_category": float(scores["averageScoreCategories"]),
            **{name.replace(" ", "_"): value for name, value in classes.items()},
        }

    def save(self, predictions: Mapping[Identifier, Any], reader: CityscapesSegmentation, folder: Path) -> None:
        """Write label-id maps under the names by which cityscapesscripts finds them."""
        (folder / "predictions").mkdir(exist_ok=True)
        for image, labels in predictions.items():
            Image.fromarray(labels.numpy()).save(_prediction_path(folder, str(image)))

    def outcomes(self, predictions: Mapping[Identifier, Any], reader: CityscapesSegmentation) -> pd.DataFrame:
        """Return each image's confusion matrix."""
        return pd.concat(
            confuse(image, predictions[image].numpy(), reader.label_ids(index))
            for index, image in enumerate(reader.stems)
            if image in predictions
        )

    def mirror(self, batch: Batch, chosen: np.ndarray) -> Batch:
        """Mirror images and labels."""
        flips = chosen.tolist()
        images = [image.flip(-1) if flip else image for image, flip in zip(batch.images, flips, strict=True)]
        targets = [labels.flip(-1) if flip else labels for labels, flip in zip(batch.targets, flips, strict=True)]
        return Batch(images, targets, batch.identifiers)


def _sides(size: Sequence[int], shorter: float) -> list[int]:
    """Return height and width with the given shorter side and the same aspect."""
    factor = shorter / min(size)
    return [max(1, round(side * factor)) for side in size]


def _jitter(image: Tensor, segmenter: Segmenter, rng: np.random.Generator) -> list[int]:
    """Draw the height and width to which a training image is resized."""
    size = segmenter.size
    height, width = _sides(image.shape[-2:], segmenter.shorter_side * rng.uniform(*size.scales))
    if size.aspects == (1.0, 1.0):
        return [height, width]
    stretch = rng.uniform(*size.aspects) ** 0.5
    return [max(1, round(height / stretch)), max(1, round(width * stretch))]


def _resize(image: Tensor, labels: Tensor, sides: list[int]) -> tuple[Tensor, Tensor]:
    """Resize an image bilinearly and its labels to the nearest."""
    nearest = transforms.InterpolationMode.NEAREST
    return (
        transforms.resize(image, sides, antialias=True),
        transforms.resize(labels[None], sides, interpolation=nearest)[0],
    )


def _cut(image: Tensor, labels: Tensor, size: SegmenterSize, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut a square at random; what lies outside of the image has the mean colour and is ignored."""
    height, width = image.shape[-2:]
    side = size.crop
    top, left = int(rng.integers(max(1, height - side + 1))), int(rng.integers(max(1, width - side + 1)))
    change = int(rng.integers(-size.brightness, size.brightness + 1))
    part = (image[:, top : top + side, left : left + side].short() + change).clamp(0, 255).to(torch.uint8)
    square = (255 * torch.tensor(MEAN, device=image.device)).to(torch.uint8)[:, None, None].repeat(1, side, side)
    truth = torch.full((side, side), IGNORED, dtype=labels.dtype, device=labels.device)
    square[:, : part.shape[1], : part.shape[2]] = part
    truth[: part.shape[1], : part.shape[2]] = labels[top : top + side, left : left + side]
    return square, truth


def _prediction_path(folder: Path, image: str) -> Path:
    return folder / "predictions" / f"{image}_pred_labelIds.png"


def _truth_path(reader: CityscapesSegmentation, index: int, folder: Path) -> Path:
    """Return a label file that cityscapesscripts reads; drawn from polygons, or without the 255 it rejects."""
    path, labels = reader.label_paths[index], reader.label_ids(index)
    if path.suffix == ".png" and not (labels == IGNORED).any():
        return path
    drawn = folder / f"{reader.stems[index]}_gtFine_labelIds.png"
    Image.fromarray(np.where(labels == IGNORED, 0, labels).astype(np.uint8)).save(drawn)
    return drawn


def _options() -> Any:
    """Return cityscapesscripts' options: pixel level only, nothing printed, no file written."""
    options = copy.copy(official.args)
    options.evalInstLevelScore, options.JSONOutput, options.quiet = False, False, True
    return options


TASK = Cityscapes()
