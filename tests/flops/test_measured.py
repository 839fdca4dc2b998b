"""Measured counts equal a plain Python count that loops over positions, whatever the network, masks and batches."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from benchmark.errors import SaibenchError
from benchmark.flops import recorder
from benchmark.flops.measured import MeasuredCounter
from benchmark.nn import interpolation
from benchmark.nn.blocks import BasicBlock, Bottleneck
from benchmark.nn.context import inference
from benchmark.nn.masks import LearnedMask, Masks
from benchmark.nn.resnet import build_backbone, residual_blocks
from benchmark.tasks.coco.counting import DetectorAdapter
from benchmark.tasks.coco.detector import DetectorSize, build_detector

FILLS = {
    "rbf": interpolation.rbf,
    "convolution": interpolation.convolution,
    "average": interpolation.average,
    "zeros": lambda window: interpolation.zeros(),
    "reuse": lambda window: interpolation.reuse(),
}


class DrawnMask(LearnedMask):
    """A mask with a convolution whose values are drawn, once for each image, and kept for the test."""

    def __init__(self, site, values, generator):
        super().__init__(site, None, 0.0)
        self.palette, self.generator = torch.tensor(values), generator
        self.drawn = None

    def values(self, logits):
        if self.drawn is None or self.drawn.shape != logits.shape:
            chosen = torch.randint(len(self.palette), logits.shape, generator=self.generator)
            self.drawn = self.palette[chosen]
        return self.drawn


class LateMask(DrawnMask):
    """The same, read from the map that its convolution reads."""

    own_input = True

    def __init__(self, site, values, generator):
        super().__init__(site.at_own_input(), values, generator)


class Net(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem = nn.Conv2d(3, block.in_channels, 1)
        self.block = block

    def forward(self, images):
        return self.block(self.stem(images))


@st.composite
def networks(draw):
    kind = draw(st.sampled_from([Bottleneck, BasicBlock]))
    planes = draw(st.sampled_from([1, 2, 3]))
    stride, dilation = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2, 3]))
    placement = draw(st.sampled_from(["one", "two", "three"])) if kind is Bottleneck else "two"
    fill = draw(st.sampled_from(sorted(FILLS)))
    window = draw(st.sampled_from([1, 3, 5, 7]))
    values = draw(st.sampled_from([[0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.3, 1.0, 1.4]]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    options = {"deformable": draw(st.booleans())} if kind is Bottleneck else {}
    block = kind(planes * kind.expansion, planes, stride, dilation, "layer1.1", project=stride != 1, **options)
    mask = draw(st.sampled_from([DrawnMask, LateMask]))
    block.adapt(lambda site: mask(site, values, generator), FILLS[fill](window), placement)
    size = draw(st.integers(3, 9)), draw(st.integers(3, 9))
    return Net(block).eval(), size, draw(st.integers(1, 3))


def neighbours(mask, row, column, window):
    if not window:
        return 0
    radius, count = window // 2, 0
    for i in range(row - radius, row + radius + 1):
        for j in range(column - radius, column + radius + 1):
            if 0 <= i < len(mask) and 0 <= j < len(mask[0]) and mask[i][j] > 0:
                count += 1
    return count


def every(mask):
    return [(i, j) for i in range(len(mask)) for j in range(len(mask[0]))]


def read_by(mask, conv):
    """Positions of its input that a convolution reads at the sampled positions of its output."""
    touched = set()
    for i, j in every(mask):
        if mask[i][j] > 0:
            for k in range(conv.kernel_size[0]):
                for m in range(conv.kernel_size[1]):
                    touched.add(
                        (
                            i * conv.stride[0] - conv.padding[0] + k * conv.dilation[0],
                            j * conv.stride[1] - conv.padding[1] + m * conv.dilation[1],
                        )
                    )
    return touched


def by_loops(net, size, image):
    """Count one image of a Net, position by position."""
    block = net.block
    masks = {
        i: getattr(block, f"mask{i}").drawn[image, 0].tolist()
        for i in (1, 2, 3)
        if getattr(block, f"mask{i}") is not None
    }
    if block.placement == "one":
        masks[2] = [row[:: block.stride] for row in masks[1][:: block.stride]]
    windows = {i: getattr(getattr(block, f"interpolation{i}"), "window", 0) for i in (1, 2, 3)}
    deformable = getattr(block, "offset", None) is not None
    planes, inputs = block.planes, block.in_channels
    kernel1 = block.conv1.kernel_size[0] ** 2
    macs = size[0] * size[1] * 3 * inputs
    late = isinstance(block.mask1, LateMask)
    for i in (1, 2, 3):
        if getattr(block, f"mask{i}") is not None:
            macs += sum(9 * (planes if late and i > 1 else inputs) for _ in every(masks[i]))
    if block.downsample is not None:
        macs += sum(inputs * planes * block.expansion for _ in every(masks[2]))
    touched = read_by(masks[2], block.conv2)
    for p in every(masks[1]):
        value = masks[1][p[0]][p[1]]
        if value > 0:
            macs += kernel1 * inputs * planes
        if value != 1 and (deformable or p in touched or (late and block.placement != "one")):
            macs += neighbours(masks[1], *p, windows[1]) * planes
    sampled, pairs = 0, 0
    for p in every(masks[2]):
        value = masks[2][p[0]][p[1]]
        if value > 0:
            sampled += 1
            macs += 9 * planes * planes
            if deformable:
                macs += 9 * inputs * 18 + 4 * 9 * planes
        if value != 1 and (3 not in masks or late or masks[3][p[0]][p[1]] > 0):
            pairs += neighbours(masks[2], *p, windows[2])
    outputs = 4 * planes
    if isinstance(block, BasicBlock):
        return macs + pairs * planes
    if 3 in masks:
        macs += pairs * planes
        for p in every(masks[3]):
            value = masks[3][p[0]][p[1]]
            if value > 0:
                macs += planes * outputs
            if value != 1:
                macs += neighbours(masks[3], *p, windows[3]) * outputs
        return macs
    on_samples = sampled * planes * outputs + pairs * outputs
    densely = len(every(masks[2])) * planes * outputs + pairs * planes
    linear = not isinstance(block.interpolation2, interpolation.Reuse)
    return macs + (min(on_samples, densely) if linear else densely)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_counts_equal_loops_over_positions(network):
    net, size, images = network
    counter = MeasuredCounter(net)
    with counter.recording(), torch.no_grad():
        net(torch.zeros(images, 3, *size))
    table = counter.images()
    assert table["macs"].tolist() == [by_loops(net, size, image) for image in range(images)]
    layers = counter.image_layers()
    assert layers.groupby("image_id")["macs"].sum().tolist() == table["macs"].tolist()
    assert counter.layers()["macs"].sum() == pytest.approx(table["macs"].mean(), rel=1e-12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_apart_from_interpolation_more_samples_never_cost_less(network, which, random):
    net, size, images = network
    mask = getattr(net.block, f"mask{which}")
    counter = MeasuredCounter(net)

    def convolutions():
        with counter.recording(), torch.no_grad():
            net(torch.zeros(images, 3, *size))
        table = counter.image_layers()
        # Whether conv3 runs before or after the interpolation depends on what the interpolation costs.
        rows = (table["kind"] != "interpolation") & ~table["layer"].str.endswith("conv3")
        return table[rows].groupby("image_id")["macs"].sum().to_numpy()

    before = convolutions()
    if mask is None:
        return
    cells = (mask.drawn == 0).nonzero().tolist()
    if cells:
        mask.drawn[tuple(random.choice(cells))] = 1.0
        assert (convolutions() >= before).all()


def adapted(mask, name="mini_small", **options):
    model = build_backbone(name, **options)
    for block in residual_blocks(model):
        if mask is not None and block.adaptable("two"):
            block.adapt(mask, interpolation.rbf(5))
    return model.eval()


def total(model, images):
    counter = MeasuredCounter(model)
    with counter.recording(), torch.no_grad():
        model(images)
    return counter.images()["macs"].tolist()


@pytest.mark.parametrize("name", ["mini_small", "mini_basic_small"])
@pytest.mark.parametrize("deformable", [False, True])
def test_full_density_without_mask_cost_is_dense(name, deformable):
    options = {"deformable": deformable and name == "mini_small"}
    images = torch.zeros(2, 3, 64, 96)
    assert total(adapted(Masks.grid(1), name, **options), images) == total(adapted(None, name, **options), images)


def test_fixed_masks_are_counted_like_any_other():
    images = torch.zeros(3, 3, 64, 96)
    fixed = adapted(Masks.grid(2))
    counter = MeasuredCounter(fixed)
    with counter.recording(), torch.no_grad():
        fixed(images)
        fixed(images[:1])
    rows = counter.layers().set_index("layer")
    assert rows.loc["layer2.0.conv1", ["sampled", "positions"]].tolist() == [8 * 12, 16 * 24]
    assert len(set(counter.images()["macs"])) == 1
    maps = counter.density_maps()
    assert set(np.unique(maps["layer1.0.mask1"])) == {0.0, 1.0}
    assert maps["layer1.0.mask1"].mean() == 0.25


def shuffled_counts(model, images, batches, seed=3):
    counter = MeasuredCounter(model)
    with counter.recording(), torch.no_grad():
        for batch in batches:
            with inference([f"image{i}" for i in batch], seed):
                model(images[batch])
    return counter.images().sort_values("image_id", ignore_index=True)


def test_the_count_of_an_image_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    model = adapted(Masks.gumbel(initial_bias=-1.0, grid_stride=5), deformable=True)
    images = torch.rand(6, 3, 64, 96)
    one_by_one = shuffled_counts(model, images, [[i] for i in range(6)])
    together = shuffled_counts(model, images, [[5, 3, 1, 0], [2, 4]])
    pd.testing.assert_frame_equal(one_by_one, together)
    assert one_by_one["macs"].nunique() > 1
    assert list(one_by_one["image_id"]) == [f"image{i}" for i in range(6)]


def test_images_of_several_sizes_in_one_evaluation(monkeypatch):
    monkeypatch.setattr("benchmark.flops.recorder.KEPT_VALUES", 1)  # reduce after every batch
    torch.manual_seed(0)
    model = adapted(Masks.gumbel(initial_bias=0.0))
    counter = MeasuredCounter(model)
    with counter.recording(), torch.no_grad():
        for size in ((64, 96), (96, 64), (64, 96)):
            model(torch.rand(2, 3, *size))
    table = counter.images()
    assert table["height"].tolist() == [64, 64, 96, 96, 64, 64]
    assert counter.density_maps()["layer4.0.mask2"].shape == (64, 64)
    assert counter.layers()["macs"].sum() == pytest.approx(table["macs"].mean(), rel=1e-12)


def test_training_batches_are_not_counted():
    model = adapted(Masks.gumbel()).train()
    counter = MeasuredCounter(model)
    with counter.recording():
        model(torch.zeros(2, 3, 64, 64))
    with pytest.raises(SaibenchError, match="nothing was counted"):
        counter.images()


def test_identifiers_must_fit_the_batch():
    model = adapted(None)
    counter = MeasuredCounter(model)
    expected = pytest.raises(SaibenchError, match="1 identifiers were given for a batch of 2 images")
    with counter.recording(), torch.no_grad(), inference(["a"]), expected:
        model(torch.zeros(2, 3, 64, 64))


def test_identifiers_of_a_batch_that_runs_image_by_image():
    model = adapted(None)
    counter = MeasuredCounter(model)
    with counter.recording(), torch.no_grad():
        for batch in (["a", "b"], ["c", "d"]):
            for image in batch:
                with inference([image]):
                    model(torch.zeros(1, 3, 64, 64))
    assert counter.images()["image_id"].tolist() == ["a", "b", "c", "d"]


def test_a_detector_has_three_scopes_and_counts_its_regions():
    torch.manual_seed(0)
    body = adapted(Masks.gumbel(initial_bias=0.0), deformable=True)
    model = build_detector(
        body,
        5,
        64,
        96,
        DetectorSize(pyramid_channels=8, representation=16, smallest_anchor=8, proposals_after=(50, 20)),
    ).eval()
    counter = MeasuredCounter(model, DetectorAdapter(model))
    with counter.recording(), torch.no_grad():
        model([torch.rand(3, 64, 96), torch.rand(3, 64, 96)])
    table, rows = counter.images(), counter.layers()
    parts = table[["macs_backbone", "macs_neck", "macs_head"]]
    assert (parts > 0).all(axis=None)
    assert table["macs"].tolist() == parts.sum(axis=1).tolist()
    assert set(rows["scope"]) == {"backbone", "neck", "head"}
    fc7 = rows.set_index("layer").loc["roi_heads.box_head.fc7", "macs"]
    assert fc7 == table["regions"].mean() * 16 * 16
    assert {"torchvision::nms", "aten::batch_norm"} <= set(counter.uncounted)
    assert set(rows["kind"]) == {"conv", "mask", "offset", "bilinear", "interpolation", "linear"}


def test_hooks_are_gone_afterwards():
    model = adapted(Masks.gumbel())
    with MeasuredCounter(model).recording(), MeasuredCounter(model).recording():
        model.eval()(torch.zeros(1, 3, 64, 64))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_masks_on_an_accelerator_are_reduced_by_the_same_rules(network):
    net, size, images = network
    tables, maps = [], []
    for compact in (recorder._compact, lambda stack: stack):  # tensors stay tensors where they are not on the CPU
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recorder, "_compact", compact)
            counter = MeasuredCounter(net)
            with counter.recording(), torch.no_grad():
                net(torch.zeros(images, 3, *size))
        tables.append(counter.image_layers())
        maps.append(counter.density_maps())
    pd.testing.assert_frame_equal(*tables)
    assert all((maps[0][name] == maps[1][name]).all() for name in maps[0])
