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
    train=FINE_TUNING.replace(steps=140),
    parameters={"window": 5, "grid_stride": 5, "initial_sigma": 1.4},
    curves={"gamma": (0.02, 0.1, 0.4, 1.5), "shorter_side": (112, 96, 64), "structure": ("grid",)},
    threads=1,
    evaluation_batch=8,
    segmenter=SegmenterSize(channels=48, crop=97, scales=(0.9, 1.3)),
)
SMALL = MINI.replace(
    shipped=(),
    shorter_side=256,
    longer_side=512,
    deformable=True,
    pretrain=FROM_NOTHING.replace(batch=16, steps=6000),
    train=FINE_TUNING.replace(batch=16, steps=1500),
    parameters={"window": 7, "grid_stride": 11},
    curves={"gamma": (0.05, 0.1, 0.2, 0.4), "shorter_side": (256, 224, 192, 128), "structure": ("grid",)},
    threads=None,
    workers=8,
    evaluation_batch=1,
    segmenter=SegmenterSize(channels=128, crop=257),
)
# TorchCV's defaults for Cityscapes (FIDELITY); the paper's other values are those of detection.
PAPER = SegmentationRecipe(
    backbone="resnet50",
    shorter_side=1024,
    longer_side=2048,
    deformable=True,
    deep_stem=True,
    train=Schedule(batch=8, steps=40_000, learning_rate=0.01, weight_decay=5e-4, decay="poly", clip=0.0),
    curves={"gamma": (0.05, 0.1, 0.2, 0.3), "shorter_side": (1024, 896, 736, 512), "structure": ("grid",)},
    workers=8,
)
