"""Faster R-CNN with a feature pyramid, assembled from torchvision's parts around one of our backbones."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from benchmark.nn.resnet import ResNet
from benchmark.recipe import Fields

PYRAMID_LEVELS = 5
LEVELS = ("layer1", "layer2", "layer3", "layer4")  # the maps that boxes are pooled from
ASPECT_RATIOS = (0.5, 1.0, 2.0)


Count = Annotated[int, Field(ge=1)]


class DetectorSize(Fields):
    """Widths and budgets of pyramid, proposals and box head; the defaults are the paper's (mmdetection's).

    Attributes
    ----------
    pyramid_channels, representation : int
        Channels of the pyramid and of the box head's two linear layers.
    smallest_anchor : int
        Side of the finest level's anchors, in pixels; doubles with each level.
    proposals_before, proposals_after : tuple of int
        Proposals kept before (a level) and after non-maximum suppression, in training and inference.
    anchors_per_image, boxes_per_image : int
        Anchors that train the proposal network, and proposals that train the box head, an image.
    positive_share : float
        Largest share of objects among the latter.
    detections : int
        Boxes kept an image.
    pooled, samples : int
        Side of the map that is pooled from a box, and samples along a side of each of its positions.
    """

    pyramid_channels: Count = 256
    representation: Count = 1024
    smallest_anchor: Count = 32
    proposals_before: tuple[Count, Count] = (2000, 1000)
    proposals_after: tuple[Count, Count] = (1000, 1000)
    anchors_per_image: Count = 256
    boxes_per_image: Count = 512
    positive_share: float = Field(default=0.25, gt=0, le=1)
    detections: Count = 100
    pooled: Count = 7
    samples: Count = 2


class PyramidBackbone(nn.Module):
    """A backbone and its feature pyramid, with torchvision's names (``body``, ``fpn``, ``out_channels``).

    torchvision's own `BackboneWithFPN` takes the backbone apart; here ``body`` stays the `ResNet` that it is.
    """

    def __init__(self, body: ResNet, channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(body.stage_channels), channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images ``(N, 3, H, W)`` to the pyramid's levels, finest first."""
        return self.fpn(self.body.stages(x))


def build_detector(
    backbone: ResNet, classes: int, shorter_side: int, longer_side: int, size: DetectorSize
) -> FasterRCNN:
    """Build the detector.

    Parameters
    ----------
    backbone
        Gives the maps of its four stages to the pyramid.
    classes
        Number of object classes, background not counted.
    shorter_side, longer_side
        Images are resized so that the shorter side has the first length and the longer at most the second, in pixels,
        and padded to multiples of 32.
    size
        Widths and budgets.

    Returns
    -------
    FasterRCNN
        torchvision's model: losses in training, detections in inference.
    """
    sides = tuple((size.smallest_anchor * 2**level,) for level in range(PYRAMID_LEVELS))
    return FasterRCNN(
        PyramidBackbone(backbone, size.pyramid_channels),
        rpn_anchor_generator=AnchorGenerator(sides, (ASPECT_RATIOS,) * PYRAMID_LEVELS),
        box_head=TwoMLPHead(size.pyramid_channels * size.pooled**2, size.representation),
        box_roi_pool=MultiScaleRoIAlign(list(LEVELS), size.pooled, sampling_ratio=size.samples),
        box_predictor=FastRCNNPredictor(size.representation, classes + 1),
        min_size=shorter_side,
        max_size=longer_side,
        size_divisible=32,
        rpn_pre_nms_top_n_train=size.proposals_before[0],
        rpn_pre_nms_top_n_test=size.proposals_before[1],
        rpn_post_nms_top_n_train=size.proposals_after[0],
        rpn_post_nms_top_n_test=size.proposals_after[1],
        rpn_batch_size_per_image=size.anchors_per_image,
        box_batch_size_per_image=size.boxes_per_image,
        box_positive_fraction=size.positive_share,
        box_detections_per_img=size.detections,
    )
