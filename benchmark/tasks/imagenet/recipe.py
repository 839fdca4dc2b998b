"""What classification fixes at each scale (paper §4.1, §4.5)."""

from pydantic import Field

from benchmark.recipe import FINE_TUNING, FROM_NOTHING, Backbone, Recipe, Schedule


class ClassificationRecipe(Recipe):
    """A recipe with the classifier's crops.

    `shorter_side` is the side of the square that the network sees; an inference image is resized to 8/7 of it first and
    cropped in the middle (224 of 256, as the standard evaluation has it). `longer_side` is the same square's.

    Attributes
    ----------
    smallest_crop : float
        Smallest share of an image's area that a training crop shows.
    """

    backbone: Backbone
    smallest_crop: float = Field(default=0.08, gt=0, le=1)


MINI = ClassificationRecipe(
    backbone="mini_basic",
    shorter_side=64,
    longer_side=64,
    start="dense",
    shipped=("mini_basic", "mini_basic_small"),
    pretrain=FROM_NOTHING.replace(batch=32, steps=5000),
    pretrain_passes=8,
    # Batch norm goes on measuring: gates bring their own, and pruning changes what the others see.
    train=FINE_TUNING.replace(batch=32, steps=300, freeze_statistics=False),
    # The paper's stride of 2 computes a quarter of all positions by itself, so that no density below it can be seen.
    parameters={"window": 5, "grid_stride": 4, "initial_sigma": 1.4},
    curves={
        "gamma": (0.01, 0.1, 0.6, 6.0),
        "shorter_side": (56, 48, 40),
        "structure": ("grid",),
        "ponder_weight": (0.005, 0.05, 0.3),
    },
    threads=1,
    evaluation_batch=32,
    smallest_crop=0.5,
)
SMALL = MINI.replace(
    shipped=(),
    backbone="resnet34",
    shorter_side=128,
    longer_side=128,
    pretrain=FROM_NOTHING.replace(batch=64, steps=3000, learning_rate=1e-3),
    train=MINI.train.replace(batch=64, steps=300, learning_rate=3e-4),
    parameters={"window": 5, "grid_stride": 2},
    curves={"gamma": (0.05, 0.2, 1.0), "shorter_side": (96, 64), "structure": ("grid",)},
    threads=2,
)
# The standard 90 epochs of SGD with a tenth of the learning rate after 30, 60 and 80, our choice: the paper follows
# LCCL's training, which is not released. From trained weights they start at a tenth.
STANDARD = Schedule(
    batch=256, epochs=90, learning_rate=0.1, weight_decay=1e-4, milestones=(30 / 90, 60 / 90, 80 / 90), clip=0.0,
    from_nothing=True,
)  # fmt: skip
PAPER = ClassificationRecipe(
    backbone="resnet34",
    shorter_side=224,
    longer_side=224,
    pretrain=STANDARD,
    train=STANDARD.replace(learning_rate=0.01, from_nothing=False),
    own_schedules=True,
    parameters={"window": 5, "grid_stride": 2},
    curves={"gamma": (0.01, 0.015), "shorter_side": (224, 192, 160, 128), "structure": ("grid",)},
    workers=8,
)
