"""Faster R-CNN with a feature pyramid, assembled from torchvision's parts around one of our backbones."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from benchmark.data.normalisation import DEVIATION, MEAN
from benchmark.nn import padded
from benchmark.nn.resnet import ResNet
from benchmark.recipe import Fields
from benchmark.tasks.coco.heads import BoxHeads, CentredAnchors, ProposalNetwork, initialise

PYRAMID_LEVELS = 5
LEVELS = ("layer1", "layer2", "layer3", "layer4")  # the maps that boxes are pooled from
ASPECT_RATIOS = (0.5, 1.0, 2.0)


Count = Annotated[int, Field(ge=1)]


class DetectorSize(Fields):
    """Widths, budgets and rules of pyramid, proposals and box head; the defaults are the paper's (mmdetection's).

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
    box_beta : float
        Error at which the box head's smooth L1 loss turns from square to linear.
    weakest_match : float
        Smallest overlap at which an object takes its best anchor though none overlaps it enough; 0 for any.
    border : float or None
        Pixels that an anchor may reach out of its image and still train; None for any number.
    anchor_centre : str
        ``middle`` of a position's pixels, or their first ``corner``.
    initialisation : str
        Whose start the weights outside of the backbone have: ``mmdetection``'s or ``torchvision``'s.
    """

    pyramid_channels: Count = 256
    representation: Count = 1024
    smallest_anchor: Count = 32
    proposals_before: tuple[Count, Count] = (2000, 1000)
    proposals_after: tuple[Count, Count] = (2000, 1000)
    anchors_per_image: Count = 256
    boxes_per_image: Count = 512
    positive_share: float = Field(default=0.25, gt=0, le=1)
    detections: Count = 100
    pooled: Count = 7
    samples: Count = 2
    box_beta: float = Field(default=1.0, gt=0)
    weakest_match: float = Field(default=0.3, ge=0, le=1)
    border: float | None = Field(default=0.0, ge=0)
    anchor_centre: Literal["middle", "corner"] = "middle"
    initialisation: Literal["mmdetection", "torchvision"] = "mmdetection"


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


class Detector(GeneralizedRCNN):
    """torchvision's two-stage detector, whose backbone is also told how large each image of a padded batch is."""

    def forward(self, images: list[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        """Return the losses by name, scalars, in training, and each image's boxes, scores and labels at inference."""
        own_sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, resized = self.transform(images, targets)
        with padded(batch.image_sizes):
            maps = self.backbone(batch.tensors)
        proposals, proposal_losses = self.rpn(batch, maps, resized)
        detections, box_losses = self.roi_heads(maps, proposals, batch.image_sizes, resized)
        if self.training:
            return {**box_losses, **proposal_losses}
        return self.transform.postprocess(detections, batch.image_sizes, own_sizes)


def build_detector(backbone: ResNet, classes: int, shorter_side: int, longer_side: int, size: DetectorSize) -> Detector:
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
        Widths, budgets and rules.

    Returns
    -------
    Detector
        A Faster R-CNN: losses in training, detections at inference.
    """
    body = PyramidBackbone(backbone, size.pyramid_channels)
    sides = tuple((size.smallest_anchor * 2**level,) for level in range(PYRAMID_LEVELS))
    kind = CentredAnchors if size.anchor_centre == "middle" else AnchorGenerator
    anchors = kind(sides, (ASPECT_RATIOS,) * PYRAMID_LEVELS)
    box_head = TwoMLPHead(size.pyramid_channels * size.pooled**2, size.representation)
    predictor = FastRCNNPredictor(size.representation, classes + 1)
    proposals = RPNHead(size.pyramid_channels, len(ASPECT_RATIOS))
    if size.initialisation == "mmdetection":
        initialise(body.fpn, proposals, box_head, predictor)
    return Detector(
        body,
        _proposal_network(anchors, proposals, size),
        _box_heads(box_head, predictor, size),
        GeneralizedRCNNTransform(shorter_side, longer_side, list(MEAN), list(DEVIATION), size_divisible=32),
    )


def _proposal_network(anchors: AnchorGenerator, head: RPNHead, size: DetectorSize) -> ProposalNetwork:
    return ProposalNetwork(
        anchors,
        head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=size.anchors_per_image,
        positive_fraction=0.5,
        pre_nms_top_n=dict(zip(("training", "testing"), size.proposals_before, strict=True)),
        post_nms_top_n=dict(zip(("training", "testing"), size.proposals_after, strict=True)),
        nms_thresh=0.7,
        border=size.border,
        weakest_match=size.weakest_match,
    )


def _box_heads(head: TwoMLPHead, predictor: FastRCNNPredictor, size: DetectorSize) -> BoxHeads:
    return BoxHeads(
        MultiScaleRoIAlign(list(LEVELS), size.pooled, sampling_ratio=size.samples),
        head,
        predictor,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=size.boxes_per_image,
        positive_fraction=size.positive_share,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=size.detections,
        beta=size.box_beta,
    )
