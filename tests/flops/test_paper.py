"""The paper's closed form gives the numbers that the paper prints."""

import pandas as pd
import pytest
import torch
from torch import nn

from benchmark.errors import SaibenchError, UsageError
from benchmark.flops import paper
from benchmark.nn import interpolation
from benchmark.nn.masks import Masks
from benchmark.nn.resnet import build_backbone, residual_blocks
from benchmark.tasks import find_task
from benchmark.tasks.imagenet.classifier import Classifier


def backbone(name, mask=None, fill=None, placement="two", **options):
    with torch.device("meta"):
        model = build_backbone(name, **options)
        for block in residual_blocks(model):
            if mask is not None and block.adaptable("two"):
                block.adapt(mask, fill or interpolation.rbf(7), placement)
    return model


def nominal(task):
    return find_task(task).nominal_size(find_task(task).recipe("paper").shorter_side)


def gmacs(*arguments, **options):
    return paper.count(*arguments, **options)["macs"].sum() / 1e9


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("resnet101", 1000, 289.475),
        ("resnet101", 800, 184.064),
        ("resnet101", 600, 100.203),
        ("resnet101", 500, 70.034),
        ("resnet50", 1000, 149.166),
    ],
)
def test_dense_detection_backbones(name, side, expected):
    model = backbone(name, deformable=True)
    assert gmacs(model, *find_task("coco").nominal_size(side)) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize(("density", "expected"), [(0.493, 160.4), (0.357, 122.8), (0.264, 96.6), (0.182, 73.3)])
def test_densities_that_the_papers_gflops_imply(density, expected):
    model = backbone("resnet101", Masks.gumbel(), deformable=True)
    assert gmacs(model, *nominal("coco"), density) == pytest.approx(expected, abs=0.3)


def test_segmentation_backbone():
    model = backbone("resnet50", deformable=True, output_stride=8, deep_stem=True)
    assert gmacs(model, *nominal("cityscapes")) == pytest.approx(920.58, abs=0.01)


def test_classification_backbone_with_its_classifier():
    with torch.device("meta"):
        model = Classifier("resnet34", 1000)
    assert gmacs(model, *nominal("imagenet")) == pytest.approx(3.664, abs=0.001)


def test_nominal_sizes_of_detection_round_down_to_32():
    assert find_task("coco").nominal_size(1000) == (992, 1664)
    assert find_task("coco").nominal_size(96) == (96, 160)
    assert nominal("cityscapes") == (1024, 2048)
    assert find_task("imagenet").nominal_size(56) == (56, 56)
    with pytest.raises(UsageError, match="shorter side 16"):
        find_task("coco").nominal_size(16)


def bottleneck_by_formula(c_in, planes, size1, size2, d1, d2, offset, stride):
    hw1, hw2 = size1[0] * size1[1], size2[0] * size2[1]
    conv1, conv2, conv3 = c_in * planes * hw1, 9 * planes**2 * hw2, 4 * planes**2 * hw2
    masks = 9 * c_in * hw1 + 9 * c_in * hw2
    fills = 49 * planes * hw1 * d1 * (1 - d1) + 49 * 4 * planes * hw2 * d2 * (1 - d2)
    offsets = 9 * c_in * 18 * hw2 if offset else 0
    projection = c_in * 4 * planes * hw2 if stride == 2 or c_in != 4 * planes else 0
    return conv1 * d1 + (conv2 + conv3 + offsets) * d2 + masks + fills + projection


def test_a_mini_backbone_is_counted_by_its_own_geometry_and_its_own_densities():
    model = backbone("mini_small", Masks.gumbel(), deformable=True)
    densities = {f"backbone.body.layer{s}.0.conv{c}": 0.1 * s + 0.05 * c for s in (1, 2, 3, 4) for c in (1, 2)}
    expected = 49 * 3 * 16 * 48 * 80
    c_in, size = 16, (24, 40)
    for stage, planes in ((1, 16), (2, 32), (3, 64), (4, 128)):
        after = size if stage == 1 else (size[0] // 2, size[1] // 2)
        d1, d2 = 0.1 * stage + 0.05, 0.1 * stage + 0.1
        expected += bottleneck_by_formula(c_in, planes, size, after, d1, d2, stage > 1, 1 if stage == 1 else 2)
        c_in, size = 4 * planes, after
    assert gmacs(model, 96, 160, densities) == pytest.approx(expected / 1e9, rel=1e-12)
    table = pd.DataFrame({"layer": densities.keys(), "kind": "conv", "density": densities.values()})
    table.loc[len(table)] = ["backbone.body.layer1.0.mask1", "mask", 1.0]
    assert gmacs(model, 96, 160, table) == pytest.approx(expected / 1e9, rel=1e-12)


def test_fixed_masks_cost_no_mask_convolution_and_zeros_no_interpolation():
    zeros = paper.count(backbone("mini", Masks.gumbel(), interpolation.zeros()), 96, 160, 0.5)
    assert not (zeros["kind"] == "interpolation").any() and (zeros["kind"] == "mask").any()
    fixed = paper.count(backbone("mini", Masks.grid(2)), 96, 160, 0.25)
    assert not (fixed["kind"] == "mask").any() and (fixed["kind"] == "interpolation").any()


@pytest.mark.parametrize("placement", ["one", "two", "three"])
def test_full_density_without_masks_cost_is_dense(placement):
    dense = gmacs(backbone("mini", deformable=True), 96, 160)
    full = paper.count(backbone("mini", Masks.grid(1), placement=placement, deformable=True), 96, 160, 1.0)
    assert full["macs"].sum() / 1e9 == pytest.approx(dense, rel=1e-12)


def test_a_masked_layer_needs_a_density_in_range():
    model = backbone("mini", Masks.gumbel())
    with pytest.raises(SaibenchError, match=r"layer1\.0\.conv1 is masked"):
        paper.count(model, 96, 160)
    with pytest.raises(SaibenchError, match=r"layer1\.0\.conv2"):
        paper.count(model, 96, 160, {"layer1.0.conv1": 0.5})
    with pytest.raises(UsageError, match="outside of 0 to 1"):
        paper.count(model, 96, 160, 1.5)
    with pytest.raises(SaibenchError, match="Linear is not a residual backbone"):
        paper.count(nn.Linear(2, 2), 96, 160)
