"""What detection fixes at each scale (paper §4.1, §4.3)."""

from pydantic import Field

from benchmark.recipe import FINE_TUNING, FROM_NOTHING, Backbone, Recipe, Schedule
from benchmark.tasks.coco.detector import DetectorSize


class DetectionRecipe(Recipe):
    """A recipe with the detector's widths and budgets."""

    backbone: Backbone
    detector: DetectorSize = Field(default_factory=DetectorSize)


# The small scales keep torchvision's rules: they are nobody's reference, and their starting weights know them.
TORCHVISIONS = DetectorSize(
    box_beta=1 / 9, weakest_match=0.0, border=None, anchor_centre="corner", initialisation="torchvision"
)
MINI_DETECTOR = TORCHVISIONS.replace(
    pyramid_channels=32,
    representation=128,
    smallest_anchor=8,
    proposals_before=(100, 100),
    proposals_after=(64, 40),
    anchors_per_image=64,
    boxes_per_image=32,
    positive_share=0.5,
    detections=30,
    pooled=5,
    samples=1,
)
MINI = DetectionRecipe(
    backbone="mini",
    shorter_side=128,
    longer_side=224,
    start="dense",
    shipped=("mini", "mini_small"),
    pretrain=FROM_NOTHING.replace(steps=4000),
    # Masks settle by the number of steps more than by that of images (docs/training.md), so batches are small.
    train=FINE_TUNING.replace(batch=4, steps=400),
    parameters={"window": 5, "grid_stride": 5, "initial_sigma": 1.4},
    curves={
        "gamma": (0.02, 0.15, 0.6, 3.0),
        # From the dense network's own size on, as in the paper. Between 96 and 128 there is none: images are padded to
        # multiples of 32, so that 112 would compute as much as 128, on smaller objects.
        "shorter_side": (128, 96, 64),
        "structure": ("grid",),
        "rate": (0.5, 0.75),
        "ponder_weight": (0.005, 0.05, 0.3),
    },
    threads=1,
    evaluation_batch=8,
    detector=MINI_DETECTOR,
)
# Chosen by docs/decisions/0007-evidence.md.
EVIDENCE = MINI.replace(
    backbone="evidence",
    shorter_side=256,
    longer_side=448,
    # Its starting weights are still to be made: until then, `dense` trains from nothing and the others start from it.
    shipped=(),
    pretrain=FROM_NOTHING.replace(batch=4, steps=2400),
    pretrain_passes=5,
    operator="fused",
    parameters={"window": 7, "grid_stride": 11},
    curves={**MINI.curves, "gamma": (0.05, 0.3, 1.0, 3.0), "shorter_side": (256, 192, 128)},
    detector=MINI_DETECTOR.replace(smallest_anchor=12),
)
SMALL = MINI.replace(
    shipped=(),
    shorter_side=256,
    longer_side=448,
    deformable=True,
    pretrain=FROM_NOTHING.replace(batch=16, steps=2500),
    train=FINE_TUNING.replace(batch=16, steps=400),
    parameters={"window": 7, "grid_stride": 11},
    curves={"gamma": (0.05, 0.3, 1.5), "shorter_side": (192, 128), "structure": ("grid",), "rate": (0.5, 0.75)},
    threads=2,
    detector=TORCHVISIONS.replace(
        pyramid_channels=64, representation=256, smallest_anchor=16, proposals_before=(500, 250),
        proposals_after=(250, 100), anchors_per_image=128, boxes_per_image=64,
    ),
)  # fmt: skip
PAPER = DetectionRecipe(
    backbone="resnet101",
    shorter_side=1000,
    longer_side=1667,
    deformable=True,
    # Eight images of one GPU each, as released: padded to a common size, the sparse loss would average over padding.
    train=Schedule(batch=8, micro_batch=1, epochs=12, learning_rate=0.01, warmup_steps=500, freeze_statistics=True),
    curves={"gamma": (0.02, 0.05, 0.1, 0.2), "shorter_side": (1000, 800, 600, 500)},
    frozen=("conv1", "bn1"),
    workers=8,
)
