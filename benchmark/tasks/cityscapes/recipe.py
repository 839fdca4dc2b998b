"""What segmentation fixes at each scale (paper §4.1, §4.4)."""

from pydantic import Field

from benchmark.recipe import FINE_TUNING, FROM_NOTHING, Backbone, Recipe, Schedule
from benchmark.tasks.cityscapes.segmenter import SegmenterSize


class SegmentationRecipe(Recipe):
    """A recipe with the segmenter's widths and crops."""

    backbone: Backbone
    deep_stem: bool = False
    segmenter: SegmenterSize = Field(default_factory=SegmenterSize)


MINI = SegmentationRecipe(
    backbone="mini",
    shorter_side=128,
    longer_side=256,
    start="dense",
    shipped=("mini",),
    deep_stem=True,
    pretrain=FROM_NOTHING.replace(steps=3500),
    pretrain_passes=8,
    train=FINE_TUNING.replace(batch=4, steps=400),
    parameters={"window": 5, "grid_stride": 5, "initial_sigma": 1.4},
    curves={"gamma": (0.02, 0.1, 0.4, 2.0), "shorter_side": (112, 96, 64), "structure": ("grid",)},
    threads=1,
    evaluation_batch=8,
    segmenter=SegmenterSize(channels=48, crop=97, scales=(0.9, 1.3), aspects=(1.0, 1.0)),
)
SMALL = MINI.replace(
    shipped=(),
    shorter_side=256,
    longer_side=512,
    deformable=True,
    pretrain=FROM_NOTHING.replace(batch=16, steps=2500),
    train=FINE_TUNING.replace(batch=16, steps=300),
    parameters={"window": 7, "grid_stride": 11},
    curves={"gamma": (0.02, 0.1, 0.4), "shorter_side": (192, 128), "structure": ("grid",)},
    threads=2,
    segmenter=SegmenterSize(channels=128, crop=257, aspects=(1.0, 1.0)),
)
#: Those of TorchCV's configuration for Cityscapes, in the order of train ids: rare classes weigh a little more.
CLASS_WEIGHTS = (
    0.8373, 0.9180, 0.8660, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)  # fmt: skip
# TorchCV's defaults for Cityscapes (docs/fidelity.md); the paper's other values are those of detection.
PAPER = SegmentationRecipe(
    backbone="resnet50",
    shorter_side=1024,
    longer_side=2048,
    deformable=True,
    deep_stem=True,
    train=Schedule(batch=8, steps=40_000, learning_rate=0.01, weight_decay=5e-4, decay="poly", clip=0.0),
    curves={"gamma": (0.05, 0.1, 0.2, 0.3), "shorter_side": (1024, 896, 736, 512), "structure": ("grid",)},
    workers=8,
    segmenter=SegmenterSize(class_weights=CLASS_WEIGHTS),
)
