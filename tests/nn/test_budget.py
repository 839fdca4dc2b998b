"""What a training forward computes: sums over positions, gradients to the masks, and the published bounds."""

import math

import pytest
import torch
from torch import nn

from benchmark.nn import (
    FixedMask,
    Mask,
    bounds_loss,
    build_backbone,
    computations,
    density,
    interpolation,
    network_share,
    residual_blocks,
)
from benchmark.nn.budget import dense_macs


class Given(Mask):
    """A parameter for each position."""

    def __init__(self, site, size, value):
        super().__init__(site)
        self.value = nn.Parameter(torch.full((1, 1, *size), value))

    def forward(self, x):
        return self.value.expand(len(x), -1, -1, -1)


def network(build, placement="output"):
    torch.manual_seed(0)
    model = build_backbone("mini")
    for block in residual_blocks(model):
        block.adapt(build, interpolation.zeros(), placement)
    model.train()(torch.randn(2, 3, 64, 96))
    return model


def quarter(site):
    def pattern(size):
        mask = torch.zeros(size)
        mask[::2, ::2] = 1
        return mask.numpy()

    return FixedMask(site, pattern)


def test_a_blocks_computation_is_the_sum_over_computed_positions():
    for each in computations(network(quarter)):
        block = each.block
        conv1, conv2, conv3 = (getattr(block, f"conv{i}").weight.numel() for i in (1, 2, 3))
        (height, width), size = block.decided.size, block.work.sizes(block.decided.size)[-1]
        sampled = math.prod(-(-n // 2) for n in size)
        # One position in 2 x 2, dilated by one, covers the map; at stride 2 it covers rows and columns 3 in 4, cut off.
        read = torch.zeros(height, width)
        for row in range(0, size[0], 2):
            for column in range(0, size[1], 2):
                top, left = row * block.stride, column * block.stride
                read[max(0, top - 1) : top + 2, max(0, left - 1) : left + 2] = 1
        expected = conv1 * read.sum().item() + (conv2 + conv3) * sampled
        assert each.macs.item() == pytest.approx(expected, rel=1e-6)
        assert each.dense == conv1 * height * width + (conv2 + conv3) * math.prod(size)


def test_the_gradient_reaches_the_mask_but_not_through_the_dilation():
    model = network(lambda site: Given(site, (16 // (site.resolution // 4), 24 // (site.resolution // 4)), 1.0))
    each = computations(model)[0]
    each.macs.backward()
    conv2, conv3 = (getattr(each.block, f"conv{i}").weight.numel() for i in (2, 3))
    gradient = each.block.mask3.value.grad
    torch.testing.assert_close(gradient, torch.full_like(gradient, conv2 + conv3))


def test_density_is_the_mean_over_masks():
    sides = [(16, 24), (16, 24), (8, 12), (8, 12), (4, 6), (4, 6), (2, 3), (2, 3)]
    expected = sum(-(-h // 2) * -(-w // 2) / (h * w) for h, w in sides) / len(sides)
    assert density(network(quarter)).item() == pytest.approx(expected)


def test_a_full_network_has_share_one():
    model = network(lambda site: FixedMask(site, lambda size: torch.ones(size).numpy()))
    assert network_share(model).item() == pytest.approx(1.0)


def test_the_dense_count_is_the_closed_form():
    from benchmark.flops import paper

    expected = paper.count(build_backbone("mini"), 64, 96)["macs"].sum()
    assert dense_macs(network(quarter)) == expected


def test_the_count_needs_a_forward():
    with pytest.raises(ValueError, match="no training forward"):
        dense_macs(build_backbone("mini"))


@pytest.mark.parametrize(("progress", "upper", "lower"), [(0.0, 0.4, 0.4), (0.33, 1.0, 0.0), (1.0, 1.0, 0.0)])
def test_bounds_hold_at_the_start_and_are_free_after_a_third_of_the_run(progress, upper, lower):
    shares = [torch.tensor(0.1), torch.tensor(0.9)]
    expected = (max(0, lower - 0.1) ** 2 + max(0, 0.9 - upper) ** 2) / 2
    assert bounds_loss(shares, 0.4, progress).item() == pytest.approx(expected, abs=1e-7)


def test_leaving_training_forgets_what_was_decided():
    model = network(quarter)
    model.eval()
    assert all(block.decided is None for block in residual_blocks(model))
