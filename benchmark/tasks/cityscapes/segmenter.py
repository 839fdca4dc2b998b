"""A dilated fully convolutional network around one of our backbones, in the form of TorchCV's (paper §4.1, §4.4).

Images go in whole, at their own size, and logits come out at that size. Losses, crops and label ids are the task's
business.
"""

from typing import Annotated, cast

import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from benchmark.errors import UsageError
from benchmark.nn.exits import exits
from benchmark.nn.resnet import ResNet
from benchmark.recipe import Fields

OUTPUT_STRIDE = 8
DROPOUT = 0.1  # TorchCV's, of whole channels
EXIT_LEVELS = 3  # of the first stage's exit; each later one has one less


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError("give two positive numbers, the smaller first")
    return pair


class SegmenterSize(Fields):
    """Widths of the heads and what a training crop is; the defaults are TorchCV's for Cityscapes.

    Attributes
    ----------
    channels : int
        Of the hidden layer of both heads.
    auxiliary : float
        Weight of the loss at layer3.
    crop : int
        Side of a square training crop, in pixels.
    scales : tuple of float
        Smallest and largest factor by which a training image is resized before it is cropped.
    aspects : tuple of float
        Smallest and largest factor by which its ratio of width to height changes at the same area.
    brightness : int
        Largest change of all pixel values of a training image, up or down, of 255.
    class_weights : tuple of float
        Weight of each class's pixels in the loss, in the order of train ids; none for equal weights.
    """

    channels: int = Field(default=512, ge=1)
    auxiliary: float = Field(default=0.4, ge=0)
    crop: int = Field(default=769, ge=1)
    scales: Annotated[tuple[float, float], AfterValidator(_ascending)] = (0.5, 2.0)
    aspects: Annotated[tuple[float, float], AfterValidator(_ascending)] = (0.9, 1.1)
    brightness: int = Field(default=10, ge=0, le=255)
    class_weights: tuple[Annotated[float, Field(gt=0)], ...] = ()


class Segmenter(nn.Module):
    """Backbone and head; in training, a second head behind layer3 whose loss helps the deeper layers.

    Parameters
    ----------
    backbone
        With output stride `OUTPUT_STRIDE`.
    classes
        Number of classes.
    shorter_side
        Images are resized so that their shorter side has this length, in pixels.
    size
        Widths of the heads, and the crops that the task trains on.

    Raises
    ------
    UsageError
        When there are weights for another number of classes.
    """

    def __init__(self, backbone: ResNet, classes: int, shorter_side: int, size: SegmenterSize) -> None:
        super().__init__()
        if len(size.class_weights) not in (0, classes):
            raise UsageError(
                f"recipe field 'segmenter.class_weights' has {len(size.class_weights)} weights, the data {classes} "
                "classes: give one weight for each class, or none"
            )
        self.shorter_side, self.size = shorter_side, size
        self.backbone = backbone
        self.head = _head(backbone.stage_channels[3], size.channels, classes)
        self.auxiliary = _head(backbone.stage_channels[2], size.channels, classes)
        self.upsample = Upsample()

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(N, 3, H, W)`` to logits ``(N, classes, H, W)``, upsampled bilinearly."""
        return self.upsample(self._merged(self.head(self.backbone(images))), images)

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the head and of the auxiliary head, ``(N, classes, H, W)`` each."""
        maps = self.backbone.stages(images)
        logits, auxiliary = self.head(maps["layer4"]), self.auxiliary(maps["layer3"])
        return self.upsample(self._merged(logits), images), self.upsample(auxiliary, images)

    def exit_head(self, stage: str) -> "ExitHead":
        """Return a new head for the map of a stage."""
        index = int(stage.removeprefix("layer")) - 1
        channels, classes = self.backbone.stage_channels[index], cast(nn.Conv2d, self.head[-1]).out_channels
        return ExitHead(channels, self.size.channels, classes, levels=max(1, EXIT_LEVELS - index))

    def at_exits(self, images: Tensor) -> list[Tensor]:
        """Return the exits' logits of the last forward, ``(N, classes, H, W)`` each, upsampled to its images' size."""
        return [self.upsample(cast(Tensor, exit_.logits), images, exit_.resolution) for exit_ in exits(self.backbone)]

    def _merged(self, logits: Tensor) -> Tensor:
        """Return the head's logits, with the last exit's where that is confident."""
        found = exits(self.backbone)
        return found[-1].merge(logits) if found else logits


def _head(channels: int, hidden: int, classes: int) -> nn.Sequential:
    head = nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Dropout2d(DROPOUT),
        nn.Conv2d(hidden, classes, 1),
    )
    nn.init.kaiming_normal_(cast(nn.Conv2d, head[0]).weight, mode="fan_out", nonlinearity="relu")
    return head


class ExitHead(nn.Module):
    """A small encoder and decoder behind an early stage, as ADP-C's redesigned exits (Liu et al. 2022, released code).

    Each level halves the map by average pooling, with a 1x1 convolution behind; then the map grows back bilinearly,
    with 1x1 convolutions between. An early exit has more levels: it sees as far around a position as a late one.
    """

    def __init__(self, channels: int, hidden: int, classes: int, levels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(_pointwise(hidden if level else channels, hidden) for level in range(levels))
        self.up = nn.ModuleList(_pointwise(hidden, hidden) for _ in range(levels - 1))
        self.classify = nn.Conv2d(hidden, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map a stage's map ``(N, C, H, W)`` to logits ``(N, classes, H, W)``."""
        sizes = []
        for step in self.down:
            sizes.append(x.shape[-2:])
            x = step(F.avg_pool2d(x, 2, ceil_mode=True))
        for step in (*self.up, self.classify):
            x = step(F.interpolate(x, sizes.pop(), mode="bilinear"))
        return x


def _pointwise(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True))


class Upsample(nn.Module):
    """Bilinear upsampling to the images' size; a module, so that the counter has a name for it.

    Position i of a map lies on pixel 8 i of the image: corners aligned, as TorchCV has it, its crops of 8 n + 1 pixels
    meet the maps exactly. Other images, such as whole ones, go on past the last position with its value; stretching the
    map over them would shift what is seen in the far corner by up to seven pixels.
    """

    def forward(self, logits: Tensor, images: Tensor, stride: int = OUTPUT_STRIDE) -> Tensor:
        """Map logits ``(N, C, h, w)``, whose positions are ``stride`` pixels apart, to ``(N, C, H, W)`` of images."""
        height, width = images.shape[-2:]
        sides = [stride * (side - 1) + 1 for side in logits.shape[-2:]]
        aligned = F.interpolate(logits, sides, mode="bilinear", align_corners=True)
        return F.pad(aligned, (0, width - sides[1], 0, height - sides[0]), mode="replicate")
