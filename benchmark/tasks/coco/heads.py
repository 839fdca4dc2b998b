"""torchvision's anchors, proposal network and box head, with the settings in which mmdetection differs from them.

The paper's numbers come from mmdetection (docs/fidelity.md). Each class takes one or two settings of `DetectorSize`,
and does what torchvision's does where they have torchvision's values. What both have alike is torchvision's.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import _utils as matching
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

FINEST_STRIDE = 4  # pixels to a position of the pyramid's finest level; doubles with each level


class CentredAnchors(AnchorGenerator):
    """Anchors around the middle of each position's pixels, ``(s - 1) / 2`` for stride s, not around the first pixel.

    The stride is the level's own, a power of two. torchvision divides the image's side by the map's, which gives
    another number where the coarsest map was rounded up.
    """

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """Return the anchors of each level, ``(K, 4)`` corners in pixels, for the maps' heights and widths."""
        sides = [FINEST_STRIDE * 2**level for level in range(len(grid_sizes))]
        own = [[torch.full_like(stride, side) for stride in pair] for pair, side in zip(strides, sides, strict=True)]
        levels = super().grid_anchors(grid_sizes, own)
        return [anchors + (side - 1) / 2 for anchors, side in zip(levels, sides, strict=True)]


class WeakestMatcher(matching.Matcher):
    """Gives an object that no anchor overlaps enough its best anchors only where they overlap it by some share.

    Parameters
    ----------
    high, low
        Overlaps from which an anchor is an object's, and below which it is background.
    weakest
        The share. An anchor that is the best of several objects goes to the last of them, as in mmdetection.
    """

    def __init__(self, high: float, low: float, weakest: float) -> None:
        super().__init__(high, low, allow_low_quality_matches=True)
        self.weakest = weakest

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Write such matches into ``matches`` ``(anchors,)``; the matrix has the overlaps ``(objects, anchors)``."""
        best = match_quality_matrix.max(dim=1).values
        for index in torch.nonzero(best >= self.weakest).flatten().tolist():
            matches[match_quality_matrix[index] == best[index]] = index


class ProposalNetwork(RegionProposalNetwork):
    """A proposal network that leaves anchors alone which reach out of their image.

    Parameters
    ----------
    border
        Pixels that an anchor may reach out of the image, padding not counted, and still train; None for any number.
    weakest_match
        See `WeakestMatcher`; 0 for torchvision's rule, any overlap.
    options
        Those of torchvision's class.
    """

    def __init__(self, *options: Any, border: float | None, weakest_match: float, **named: Any) -> None:
        super().__init__(*options, **named)
        self.border = border
        self._image_sizes: list[tuple[int, int]] = []
        if weakest_match:
            self.proposal_matcher = WeakestMatcher(named["fg_iou_thresh"], named["bg_iou_thresh"], weakest_match)

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return proposals, and in training the losses; remember how large the images are."""
        self._image_sizes = images.image_sizes
        return super().forward(images, features, targets)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return each anchor's label (1 object, 0 background, -1 trains nothing) and its box, image by image.

        Anchors outside are left out before objects take their best anchor.
        """
        if self.border is None:
            return super().assign_targets_to_anchors(anchors, targets)
        labels, boxes = [], []
        for each, target, size in zip(anchors, targets, self._image_sizes, strict=True):
            inside = _inside(each, size, self.border)
            (found,), (matched,) = super().assign_targets_to_anchors([each[inside]], [target])
            labels.append(found.new_full((len(each),), -1).index_put((inside,), found))
            boxes.append(each.clone().index_put((inside,), matched.to(each.dtype)))
        return labels, boxes


def _inside(anchors: Tensor, size: Sequence[int], border: float) -> Tensor:
    """Return the numbers of the anchors that lie in an image of this height and width; of all where none does."""
    height, width = size
    limits = torch.tensor([width, height], device=anchors.device) + border
    inside = ((anchors[:, :2] >= -border) & (anchors[:, 2:] < limits)).all(dim=1)
    return torch.nonzero(inside if inside.any() else torch.ones_like(inside)).flatten()


class BoxHeads(RoIHeads):
    """A box head whose smooth L1 loss turns from square to linear where a recipe says.

    Parameters
    ----------
    beta
        The error, in units of the box coder, at which it turns; torchvision has 1/9.
    options
        Those of torchvision's class.
    """

    def __init__(self, *options: Any, beta: float, **named: Any) -> None:
        super().__init__(*options, **named)
        self.beta = beta

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return the detections, or in training the losses."""
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        proposals, _, labels, offsets = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, predicted = self.box_predictor(pooled)
        truth = torch.cat(labels)
        objects = torch.nonzero(truth > 0).flatten()
        own = predicted.unflatten(1, (-1, 4))[objects, truth[objects]]  # those of the object's class
        error = F.smooth_l1_loss(own, torch.cat(offsets)[objects], beta=self.beta, reduction="sum")
        return [], {"loss_classifier": F.cross_entropy(logits, truth), "loss_box_reg": error / truth.numel()}


def initialise(pyramid: nn.Module, proposals: nn.Module, box_head: nn.Module, predictor: nn.Module) -> None:
    """Initialise as mmdetection does: Xavier for pyramid and box head, narrow normal for what predicts; biases 0."""
    for part in (pyramid, proposals, box_head, predictor):
        for name, layer in part.named_modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            if part in (pyramid, box_head):
                nn.init.xavier_uniform_(layer.weight)
            else:
                # Box offsets start ten times as narrow as scores, in the box head alone.
                nn.init.normal_(layer.weight, std=0.001 if part is predictor and name == "bbox_pred" else 0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
