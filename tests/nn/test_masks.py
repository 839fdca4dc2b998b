"""Masks: the paper's formulas, written out in NumPy, and the promises about seeds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.nn import Masks, Site, build_backbone, inference, interpolation, residual_blocks, sparse_loss
from benchmark.nn.masks import GumbelMask, grid, perforation, set_temperature
from benchmark.nn.noise import logistic_threshold, uniform_field

SITE = Site("layer1.0.mask1", 4, 4, 1, 1.0, (3, 1))


def confident(mask, logit):
    torch.nn.init.zeros_(mask.conv.weight)
    torch.nn.init.constant_(mask.conv.bias, logit)
    return mask


def test_training_value_is_the_two_class_gumbel_softmax_of_equation_6():
    mask = GumbelMask(SITE, grid_stride=None)
    mask.temperature = 0.4
    torch.nn.init.normal_(mask.conv.weight)
    x = torch.randn(2, 4, 5, 6)
    torch.manual_seed(3)
    value = mask.train()(x).detach().numpy()
    torch.manual_seed(3)
    uniform = torch.rand(2, 1, 5, 6).clamp(1e-7, 1 - 1e-7).numpy().astype(np.float64)
    pi = 1 / (1 + np.exp(-mask.conv(x).detach().numpy().astype(np.float64)))
    # A logistic variable is the difference of two Gumbel variables: split it as g1 = noise, g0 = 0.
    noise = np.log(uniform / (1 - uniform))
    sampled, missing = np.exp((np.log(pi) + noise) / 0.4), np.exp(np.log(1 - pi) / 0.4)
    np.testing.assert_allclose(value, sampled / (sampled + missing), rtol=1e-4, atol=1e-6)


def test_without_noise_the_value_is_a_softmax_with_temperature():
    mask = confident(GumbelMask(SITE, stochastic=False, grid_stride=None), 0.3).train()
    mask.temperature = 0.5
    value = mask(torch.zeros(1, 4, 2, 2)).detach().numpy()
    np.testing.assert_allclose(value, 1 / (1 + np.exp(-0.3 / 0.5)), rtol=1e-6)


@given(logit=st.floats(-3, 3))
def test_share_of_sampled_positions_is_the_confidence_whatever_the_temperature(logit):
    mask = confident(GumbelMask(SITE, grid_stride=None), logit).eval()
    mask.temperature = 0.01
    density = mask(torch.zeros(1, 4, 120, 120)).mean().item()
    pi = 1 / (1 + np.exp(-logit))
    assert abs(density - pi) < 5 * np.sqrt(pi * (1 - pi)) / 120 + 1e-9


def test_inference_masks_are_zero_or_one_and_soft_ones_lie_above_one_half():
    x = torch.randn(1, 4, 16, 16)
    hard = confident(GumbelMask(SITE), 0.0).eval()
    soft = confident(GumbelMask(SITE, grid_stride=None, soft_inference=True), 0.0).eval()
    assert set(hard(x).unique().tolist()) == {0.0, 1.0}
    kept = soft(x)[soft(x) > 0]
    assert (kept >= 0.5).all() and (kept <= 1).all() and (kept < 1).any()


def test_noise_belongs_to_the_image_and_not_to_its_place_in_the_batch():
    mask = confident(GumbelMask(SITE), 0.0).eval()
    x = torch.zeros(2, 4, 9, 9)
    with inference(["a", "b"]):
        together = mask(x)
    with inference(["b", "a"]):
        swapped = mask(x)
    with inference(["b"]):
        alone = mask(x[:1])
    assert torch.equal(together[1], swapped[0]) and torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_noise_differs_between_seeds_images_and_layers():
    fields = [uniform_field(*key, (8, 8)) for key in [(0, 1, "a"), (1, 1, "a"), (0, 2, "a"), (0, 1, "b")]]
    for index, field in enumerate(fields):
        assert all(not np.array_equal(field, other) for other in fields[index + 1 :])


def test_threshold_is_the_logit_of_the_uniform_field():
    uniform = uniform_field(0, 1, "a", (8, 8)).astype(np.float64)
    np.testing.assert_allclose(logistic_threshold(0, 1, "a", (8, 8)), np.log(uniform / (1 - uniform)), rtol=1e-4)


def test_a_wrong_number_of_identifiers_is_an_error():
    mask = GumbelMask(SITE).eval()
    with inference(["a"]), pytest.raises(ValueError, match="2 images in the batch but 1"):
        mask(torch.zeros(2, 4, 3, 3))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 12))
def test_grid_prior_samples_every_stride_from_offset_zero(height, width, stride):
    expected = [[float(i % stride == 0 and j % stride == 0) for j in range(width)] for i in range(height)]
    assert grid((height, width), stride).tolist() == expected


def test_grid_prior_is_the_maximum_with_the_mask():
    mask = confident(Masks.gumbel(grid_stride=3)(SITE), -100.0).eval()
    assert torch.equal(mask(torch.zeros(1, 4, 7, 8))[0, 0], grid((7, 8), 3))


def test_relu_gating_keeps_real_values_in_training_and_inference():
    mask = Masks.relu(grid_stride=None)(SITE)
    torch.nn.init.normal_(mask.conv.weight)
    x = torch.randn(1, 4, 6, 6)
    logits = mask.conv(x)
    for mode in (True, False):
        assert torch.equal(mask.train(mode)(x), logits.clamp(min=0))


def test_temperature_falls_exponentially_from_one_to_a_hundredth():
    mask = GumbelMask(SITE)
    temperatures = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        set_temperature(mask, progress)
        temperatures.append(mask.temperature)
    assert temperatures[0] == 1 and temperatures[-1] == pytest.approx(0.01)
    ratios = np.array(temperatures[1:]) / np.array(temperatures[:-1])
    np.testing.assert_allclose(ratios, ratios[0])


def test_sparse_loss_is_the_released_codes_weighted_mean_over_blocks():
    model = build_backbone("mini").train()
    for block in residual_blocks(model):
        block.adapt(Masks.gumbel(), interpolation.rbf())
    for index, block in enumerate(residual_blocks(model)):
        confident(block.mask1, 0.1 * index)
        confident(block.mask2, -0.2 * index)
    model(torch.randn(1, 3, 64, 64))

    def sigmoid(logit):
        return 1 / (1 + np.exp(-logit))

    expected = np.mean([0.25 * sigmoid(0.1 * i) + 0.75 * sigmoid(-0.2 * i) for i in range(8)])
    assert sparse_loss(model).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("structure", ["uniform", "grid", "pooling"])
@given(
    rate=st.floats(0, 0.95),
    height=st.integers(3, 30),
    width=st.integers(3, 30),
)
def test_perforation_leaves_out_about_the_share_asked_for(structure, rate, height, width):
    mask = perforation(structure, rate, (height, width), SITE, seed=0)
    assert set(np.unique(mask)) <= {0.0, 1.0} and mask.any()
    kept = (1 - rate) * height * width
    # A grid is a product of whole rows and columns; the other structures keep an exact number.
    slack = 0.5 * (height + width) + 1 if structure == "grid" else 1
    assert abs(mask.sum() - kept) <= slack


def test_pooling_structure_prefers_positions_that_the_next_convolution_reads_most():
    site = Site("layer1.0.mask1", 4, 4, 1, 1.0, (3, 2))
    mask = perforation("pooling", 0.75, (16, 16), site, seed=0)
    reads = np.zeros((16, 16))
    for i in range(0, 16, 2):
        for j in range(0, 16, 2):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < 16 and 0 <= j + dj < 16:
                        reads[i + di, j + dj] += 1
    assert reads[mask > 0].min() >= reads[mask == 0].max()


def test_fixed_masks_are_the_same_for_every_image_and_call():
    mask = Masks.perforated("uniform", 0.5)(SITE)
    first = mask(torch.randn(3, 4, 10, 10))
    assert first.shape == (3, 1, 10, 10)
    assert torch.equal(first[0], first[2]) and torch.equal(first, mask(torch.zeros(3, 4, 10, 10)))


def test_an_impact_mask_keeps_the_positions_that_the_loss_depends_on_most():
    """For a loss sum(a * V^2 / 2): |dL/dV * V| = |a| V^2, summed over channels, averaged over images."""
    torch.manual_seed(0)
    mask = Masks.impact(0.75)(Site("layer1.0.mask1", 3, 2, 1, 0.5))
    convolution = torch.nn.Conv2d(3, 2, 3, padding=1)
    mask.watch(convolution)
    x, a = torch.randn(4, 3, 6, 8), torch.randn(2, 6, 8)
    assert mask(x).eq(1).all()
    values = convolution(x)
    (a * values**2 / 2).sum().backward()
    mask.settle()
    impact = (a.abs() * values.detach() ** 2).sum(1).mean(0)
    expected = torch.zeros(48).index_fill(0, impact.flatten().argsort(descending=True)[:12], 1).view(6, 8)
    assert torch.equal(mask(x), expected.expand(4, 1, 6, 8))
    (convolution(x) ** 2).sum().backward()
    torch.testing.assert_close(mask.impact, impact)  # nothing more is gathered
    assert mask(torch.zeros(1, 3, 12, 16)).sum() == 48  # a quarter at any size
    again = Masks.impact(0.75)(Site("layer1.0.mask1", 3, 2, 1, 0.5))
    again.load_state_dict(mask.state_dict())
    assert torch.equal(again(x), mask(x))
