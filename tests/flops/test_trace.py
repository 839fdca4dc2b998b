"""Dense counts equal fvcore's own and PyTorch's, whatever the size at which the structure was traced."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
import torchvision
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import DeformConv2d, RoIAlign

from benchmark.errors import SaibenchError
from benchmark.flops.adapter import PlainAdapter
from benchmark.flops.trace import Skeleton, skeleton, structure, structure_of, trace
from benchmark.nn import interpolation
from benchmark.nn.masks import Masks
from benchmark.nn.resnet import build_backbone, residual_blocks
from benchmark.tasks.coco.counting import DetectorAdapter
from benchmark.tasks.coco.detector import DetectorSize, build_detector

COUNTED = ("conv", "linear", "addmm")


def of_fvcore(model, images):
    counts = FlopCountAnalysis(model, images).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return sum(counts.by_operator()[operator] for operator in COUNTED)


def of_torch(model, images):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_torchvision_classifiers(name):
    model = torchvision.models.get_model(name, weights=None).eval()
    images = torch.zeros(1, 3, 96, 72)
    ours = sum(PlainAdapter(model).image_counts((96, 72)).macs.values())
    assert ours == of_fvcore(model, images) == of_torch(model, images)


def test_torchvisions_detection_backbone():
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    images = torch.zeros(1, 3, 96, 160)
    counts = DetectorAdapter(model).image_counts((96, 160))
    ours = sum(macs for (layer, _), macs in counts.macs.items() if layer.startswith("backbone."))
    flat = _Values(model.backbone)
    assert ours == of_fvcore(flat, images) == of_torch(model.backbone, images)
    assert "aten::upsample_nearest2d" in counts.uncounted


class _Values(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return tuple(self.module(images).values())


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (200, 333)])
@pytest.mark.parametrize("options", [{"deformable": True}, {"output_stride": 8, "deep_stem": True}])
def test_scaling_from_the_traced_size_is_exact(size, options):
    model = build_backbone("mini", **options).eval()
    for block in residual_blocks(model):
        block.adapt(Masks.gumbel(), interpolation.rbf(5))
    direct = trace(structure_of(model, "cpu"), (torch.zeros(1, 3, *size),))
    scaled = Skeleton(model).counts(size)
    assert scaled == direct
    masks = [layer for layer, _ in direct.macs if ".mask" in layer]
    assert len(masks) == 2 * len(list(residual_blocks(model)))
    assert not any("interpolation" in layer for layer, _ in direct.macs)


class Segmenter(nn.Module):
    def __init__(self, transposed):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.ConvTranspose2d(4, 5, 3, stride=2) if transposed else nn.Conv2d(4, 5, 1)

    def forward(self, images):
        return {"out": F.interpolate(self.head(self.backbone(images)), images.shape[-2:], mode="bilinear")}


@pytest.mark.parametrize("transposed", [False, True])
def test_resizing_and_transposed_convolution_at_sizes_beyond_the_traced_one(transposed):
    counts = skeleton(Segmenter(transposed)).counts((71, 131)).macs
    half = (36, 66)
    assert counts["backbone", "conv"] == 9 * 3 * 4 * half[0] * half[1]
    assert counts["head", "conv"] == (9 if transposed else 1) * 4 * 5 * half[0] * half[1]
    assert counts["", "upsample_bilinear2d"] == 4 * 5 * 71 * 131


def test_deformable_convolution_and_roi_align():
    convolution = DeformConv2d(6, 8, 3, padding=1)
    counts = trace(convolution, (torch.zeros(1, 6, 5, 7), torch.zeros(1, 18, 5, 7)))
    assert counts.macs == {("", "conv"): 9 * 6 * 8 * 35, ("", "bilinear"): 35 * 9 * 6 * 4}
    boxes = torch.tensor([[0.0, 0, 0, 4, 4]])
    counts = trace(RoIAlign((7, 7), 1.0, sampling_ratio=2), (torch.zeros(1, 6, 9, 9), boxes))
    assert counts.macs == {("", "roi_align"): 49 * 4 * 6 * 4}
    with pytest.raises(SaibenchError, match="adaptive sampling ratio"):
        trace(RoIAlign((7, 7), 1.0, sampling_ratio=0), (torch.zeros(1, 6, 9, 9), boxes))


def test_box_head_is_counted_once_a_region():
    model = build_detector(
        build_backbone("mini_small"), 5, 96, 160, DetectorSize(pyramid_channels=8, representation=16, smallest_anchor=8)
    ).eval()
    macs = DetectorAdapter(model).region_counts().macs
    linear = 8 * 49 * 16 + 16 * 16 + 16 * 6 + 16 * 24
    assert sum(macs.values()) == linear + 49 * 4 * 8 * 4


def test_what_is_not_counted_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Sigmoid())
    counts = trace(model.eval(), (torch.zeros(1, 3, 8, 8),))
    assert counts.uncounted == Counter(
        {"aten::batch_norm": 1, "aten::relu": 1, "aten::adaptive_avg_pool2d": 1, "aten::sigmoid": 1}
    )


def test_one_structure_is_traced_once():
    assert skeleton(build_backbone("mini_small")) is skeleton(build_backbone("mini_small"))
    assert skeleton(build_backbone("mini_small")) is not skeleton(build_backbone("mini_small", deformable=True))


def test_structures_differ_where_counts_may():
    layers = [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 8, 3),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(8, 4, 3, groups=2),
        nn.ConvTranspose2d(4, 4, 3),
        DeformConv2d(4, 4, 3),
        DeformConv2d(4, 4, 3, stride=2),
        nn.Linear(4, 4),
        RoIAlign((7, 7), 1.0, sampling_ratio=2),
        RoIAlign((7, 7), 1.0, sampling_ratio=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
    ]
    assert len({structure(nn.Sequential(layer)) for layer in layers}) == len(layers)
    shared, other = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    forms = [
        nn.Sequential(shared, other),
        nn.Sequential(shared, shared),
        nn.Sequential(nn.Sequential(shared), other),
        nn.Sequential(nn.Sequential(shared, other)),
        nn.ModuleList([shared, other]),
    ]
    assert len(set(map(structure, forms))) == len(forms)
    assert structure(forms[0]) == structure(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)))


def test_a_detectors_box_head_is_traced_once_for_each_structure():
    def counts(channels):
        size = DetectorSize(pyramid_channels=8, representation=channels, smallest_anchor=8)
        return DetectorAdapter(build_detector(build_backbone("mini_small"), 5, 96, 160, size)).region_counts()

    assert counts(16) is counts(16)
    assert sum(counts(16).macs.values()) < sum(counts(24).macs.values())
