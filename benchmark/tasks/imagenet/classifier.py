"""A residual backbone with ImageNet's classifier behind it, under torchvision's state-dict keys.

Resizing, cropping and normalising the images is the task's business; the classifier only remembers the side.
"""

from torch import nn

from benchmark.errors import UsageError
from benchmark.nn.resnet import BACKBONES, ResNet

IMAGENET_CLASSES = 1000


class Classifier(ResNet):
    """Backbone, global average pooling and one linear layer.

    It is a backbone with three more children, so that torchvision's weights load key for key. They fill ``fc`` too
    where the classes are as many as ImageNet's; a classifier of other classes starts from nothing.

    Parameters
    ----------
    name
        A key of `BACKBONES`.
    classes
        Number of classes.
    side
        Side of the square images that it is trained and tested on, in pixels.
    smallest_crop
        Smallest share of an image's area that a training crop shows.

    Raises
    ------
    UsageError
        For a name that is not in `BACKBONES`.
    """

    def __init__(self, name: str, classes: int, side: int = 224, smallest_crop: float = 0.08) -> None:
        if name not in BACKBONES:
            raise UsageError(f"unknown backbone {name!r}; there are {', '.join(BACKBONES)}")
        super().__init__(BACKBONES[name], deformable=False, output_stride=32, deep_stem=False)
        self.side, self.smallest_crop = side, smallest_crop
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(self.stage_channels[-1], classes)
        if classes == IMAGENET_CLASSES:
            self.pretrained_keys += ("fc.weight", "fc.bias")
