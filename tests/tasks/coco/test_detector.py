"""The detector: torchvision's Faster R-CNN under torchvision's rules, mmdetection's under the paper's."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_iou

from benchmark.nn import at_hand, build_backbone, inference
from benchmark.tasks import Batch
from benchmark.tasks.coco import TASK
from benchmark.tasks.coco.detector import DetectorSize, PyramidBackbone, build_detector
from benchmark.tasks.coco.recipe import MINI_DETECTOR

WIDTHS = {"pyramid_channels": 16, "representation": 32, "smallest_anchor": 8, "proposals_before": (100, 100)}


def test_masks_know_each_images_size_within_a_padded_batch():
    model, found = detector().eval(), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: found.append((at_hand().sizes, inputs[0].shape)))
    images = [torch.full((3, 96, width), 9, dtype=torch.uint8) for width in (160, 100)]
    with torch.no_grad(), inference(["wide", "narrow"], seed=4):
        model([image / 255 for image in images])
        TASK.predict(model, Batch(images, [None, None], ["wide", "narrow"]))
        assert at_hand().sizes == ()
    assert found == [(((96, 160), (96, 100)), (2, 3, 96, 160))] * 2


def detector(size=None, **settings):
    torch.manual_seed(0)
    size = size or DetectorSize(**WIDTHS).replace(**settings)
    return build_detector(build_backbone("mini_small"), 4, 96, 160, size).train()


def scene(boxes=((8, 10, 40, 44), (50, 20, 62, 31))):
    images = [torch.rand(3, 96, 140, generator=torch.Generator().manual_seed(1))]
    labels = torch.arange(len(boxes)) % 4 + 1
    return images, [{"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": labels}]


def assigned(model, sizes, boxes, feature_sizes=((24, 36), (12, 18), (6, 9), (3, 5), (2, 3))):
    """Return anchors, labels and boxes of the proposal network's targets for one image, padded to a multiple of 32."""
    padded = torch.zeros(1, 3, 96, 144)
    maps = [torch.zeros(1, 1, *size) for size in feature_sizes]
    (anchors,) = model.rpn.anchor_generator(ImageList(padded, [sizes]), maps)
    model.rpn._image_sizes = [sizes]
    (labels,), (matched,) = model.rpn.assign_targets_to_anchors(
        [anchors], [{"boxes": torch.tensor(boxes, dtype=torch.float32)}]
    )
    return anchors, labels, matched


def test_under_torchvisions_rules_it_is_torchvisions_detector_weight_for_weight_and_loss_for_loss():
    size = MINI_DETECTOR
    ours = detector(size)
    torch.manual_seed(0)
    theirs = FasterRCNN(
        PyramidBackbone(build_backbone("mini_small"), size.pyramid_channels),
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5),
        box_head=TwoMLPHead(size.pyramid_channels * 25, size.representation),
        box_roi_pool=MultiScaleRoIAlign(["layer1", "layer2", "layer3", "layer4"], 5, sampling_ratio=1),
        box_predictor=FastRCNNPredictor(size.representation, 5),
        min_size=96, max_size=160, size_divisible=32,
        rpn_pre_nms_top_n_train=100, rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=64, rpn_post_nms_top_n_test=40,
        rpn_batch_size_per_image=64, box_batch_size_per_image=32, box_positive_fraction=0.5,
        box_detections_per_img=30,
    ).train()  # fmt: skip
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    found = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        found.append(model(*scene()))
    assert found[0].keys() == found[1].keys() and all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    with torch.no_grad():
        (one,), (other,) = (model.eval()(scene()[0]) for model in (ours, theirs))
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_anchors_lie_around_the_middle_of_their_positions():
    middle, corner = (detector(anchor_centre=where).rpn.anchor_generator for where in ("middle", "corner"))
    maps = [torch.zeros(1, 1, *size) for size in ((24, 36), (12, 18), (6, 9), (3, 5), (2, 3))]
    images = ImageList(torch.zeros(1, 3, 96, 144), [(96, 144)])
    (centred,), (cornered,) = middle(images, maps), corner(images, maps)
    start = 0
    for level, (rows, columns) in enumerate(size.shape[-2:] for size in maps):
        stride, count = 4 * 2**level, rows * columns * 3
        boxes = centred[start : start + count].reshape(rows, columns, 3, 4)
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        expected = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), -1) * stride
        torch.testing.assert_close(centres, (expected + (stride - 1) / 2)[:, :, None].expand_as(centres))
        sides = boxes[0, 0, :, 2:] - boxes[0, 0, :, :2]
        torch.testing.assert_close(sides, cornered[start : start + 3, 2:] - cornered[start : start + 3, :2])
        start += count


@pytest.mark.parametrize("border", [0.0, 4.0])
def test_anchors_that_reach_out_of_the_image_train_nothing(border):
    size = (90, 131)  # smaller than the padded 96 x 144
    anchors, labels, _ = assigned(detector(border=border), size, [(8, 10, 40, 44)])
    low, high = anchors[:, :2].numpy(), anchors[:, 2:].numpy()
    outside = (low < -border).any(1) | (high >= np.array([size[1], size[0]]) + border).any(1)
    assert outside.any() and not outside.all()
    assert (labels.numpy()[outside] == -1).all() and (labels.numpy()[~outside] >= 0).any()
    _, everywhere, _ = assigned(detector(border=None), size, [(8, 10, 40, 44)])
    assert (everywhere.numpy()[outside] >= 0).any()


def test_an_image_in_which_no_anchor_fits_trains_with_all():
    _, labels, _ = assigned(detector(), (4, 4), [(0, 0, 4, 4)])
    assert (labels >= 0).any()


def test_an_object_that_no_anchor_overlaps_by_the_weakest_share_has_no_anchor():
    """Against a loop over objects: best anchors inside the image, ties included, from a share of 0.3 on."""
    boxes = torch.tensor([[20, 20, 23, 22], [60, 30, 78, 47], [10, 40, 55, 80]], dtype=torch.float32)
    anchors, labels, matched = assigned(detector(), (96, 140), boxes.tolist())
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] < torch.tensor([140, 96])).all(1)
    overlaps = box_iou(boxes, anchors[inside])
    assert overlaps[0].max() < 0.3 < overlaps[1].max() < 0.7  # what the boxes were chosen for
    best, owner = overlaps.max(0)
    expected = torch.where(best >= 0.7, owner, torch.where(best < 0.3, -1, -2))
    for index, row in enumerate(overlaps):
        if row.max() >= 0.3:
            expected[row == row.max()] = index
    assert torch.equal(labels[inside], torch.where(expected >= 0, 1.0, torch.where(expected == -1, 0.0, -1.0)))
    positive = expected >= 0
    assert torch.equal(matched[inside][positive], boxes[expected[positive]])
    assert not (matched[labels == 1] == boxes[0]).all(1).any()
    _, labels, matched = assigned(detector(weakest_match=0.0), (96, 140), boxes.tolist())
    assert (matched[labels == 1] == boxes[0]).all(1).any()


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_the_box_heads_loss_turns_at_beta(beta):
    """With offsets predicted as 0, the loss is the sum over objects' offsets of smooth L1, over all samples."""
    model = detector(box_beta=beta)
    heads = model.roi_heads
    proposals = [torch.tensor([[8.0, 10, 38, 44], [52, 20, 62, 33], [100, 10, 130, 40]])]
    _, targets = scene()
    features = {f"layer{level}": torch.zeros(1, 16, 96 >> level + 1, 144 >> level + 1) for level in range(1, 5)}
    nn.init.zeros_(heads.box_predictor.bbox_pred.weight)
    nn.init.zeros_(heads.box_predictor.bbox_pred.bias)
    _, losses = heads(features, list(proposals), [(96, 140)], targets)
    truth = targets[0]["boxes"]
    # The boxes themselves are proposals too, without error.
    weights = torch.tensor([10.0, 10, 5, 5])
    error = torch.zeros(2, 4)
    for row, (proposal, box) in enumerate(zip(proposals[0], truth, strict=False)):
        side, own = proposal[2:] - proposal[:2], box[2:] - box[:2]
        centre = ((box[:2] + box[2:]) - (proposal[:2] + proposal[2:])) / 2
        error[row] = weights * torch.cat([centre / side, torch.log(own / side)])
    error = error.abs()
    expected = torch.where(error < beta, error**2 / (2 * beta), error - beta / 2).sum() / 5
    torch.testing.assert_close(losses["loss_box_reg"], expected)


def test_weights_outside_of_the_backbone_start_as_mmdetections():
    model = detector(representation=256, pyramid_channels=64)
    for convolution in model.backbone.fpn.modules():
        if isinstance(convolution, nn.Conv2d):
            bound = (6 / (9 if convolution.kernel_size == (3, 3) else 1) / (sum(convolution.weight.shape[:2]))) ** 0.5
            assert bound * 0.95 < convolution.weight.abs().max() <= bound and not convolution.bias.any()
    widths = {model.roi_heads.box_predictor.cls_score: 0.01, model.roi_heads.box_predictor.bbox_pred: 0.001}
    widths |= {module: 0.01 for module in model.rpn.head.modules() if isinstance(module, nn.Conv2d)}
    for layer, width in widths.items():
        assert float(layer.weight.detach().std()) == pytest.approx(width, rel=0.15) and not layer.bias.any()
    assert len(widths) == 5
    bound = (6 / (64 * 49 + 256)) ** 0.5
    assert bound * 0.95 < model.roi_heads.box_head.fc6.weight.abs().max() <= bound


def test_it_trains_on_an_image_without_objects():
    images, _ = scene()
    losses = detector()(images, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}])
    assert all(torch.isfinite(loss) for loss in losses.values())
