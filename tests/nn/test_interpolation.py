"""Interpolation: equations 9 to 13 of the paper, written out position by position."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.nn import interpolation

EPSILON = 1e-5


def weighted_mean(features, mask, weight, absolute=False):
    """Equations 11 and 12 in plain loops: ``(C, H, W)`` features, ``(H, W)`` mask, ``(r, r)`` weights."""
    channels, height, width = features.shape
    radius = weight.shape[0] // 2
    result = np.zeros_like(features)
    for i in range(height):
        for j in range(width):
            total, norm = np.zeros(channels), 0.0
            for di in range(-radius, radius + 1):
                for dj in range(-radius, radius + 1):
                    if 0 <= i + di < height and 0 <= j + dj < width:
                        w = weight[di + radius, dj + radius]
                        total += w * mask[i + di, j + dj] * features[:, i + di, j + dj]
                        norm += (abs(w) if absolute else w) * mask[i + di, j + dj]
            result[:, i, j] = total / (norm + EPSILON)
    return result


def fill(module, features, mask):
    source = torch.zeros(1, *features.shape, dtype=torch.from_numpy(features).dtype)
    return module(torch.from_numpy(features)[None], torch.from_numpy(mask)[None, None], source)[0].detach().numpy()


@st.composite
def maps(draw):
    height, width = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    features = rng.normal(size=(3, height, width)).astype(np.float32)
    mask = (rng.random((height, width)) < draw(st.floats(0, 1))).astype(np.float32)
    if draw(st.booleans()):
        mask *= rng.random((height, width)).astype(np.float32)
    return features, mask


def mixed(features, mask, interpolated):
    return mask * features + (1 - mask) * interpolated


def squares(window):
    offsets = np.arange(window) - window // 2
    return offsets[:, None] ** 2 + offsets[None] ** 2


@given(maps(), st.sampled_from([1, 3, 5, 7]), st.floats(0.3, 3))
def test_the_papers_rbf_is_equation_13_in_equation_12(case, window, lam):
    features, mask = case
    expected = mixed(features, mask, weighted_mean(features, mask, np.exp(-(lam**2) * squares(window))))
    result = fill(interpolation.PaperRBF(window, lam), features, mask)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)


@given(maps(), st.sampled_from([1, 3, 5, 7]), st.floats(0.5, 4))
def test_the_released_rbf_has_sigma_and_its_factor(case, window, sigma):
    features, mask = case
    weight = sigma**2 / (2 * np.pi) * np.exp(-(sigma**2) * squares(window) / 2)
    expected = mixed(features, mask, weighted_mean(features, mask, weight))
    result = fill(interpolation.RBF(window, sigma).double(), features.astype(np.float64), mask.astype(np.float64))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_both_forms_tell_sigma_and_lambda():
    assert interpolation.RBF(7, 3.0).widths == pytest.approx((3.0, 3 / np.sqrt(2)))
    assert interpolation.PaperRBF(7, 3.0).widths == pytest.approx((3 * np.sqrt(2), 3.0))


@pytest.mark.parametrize(("density", "released", "paper"), [(0.5, 0.994, 0.897), (0.264, 0.907, 0.671)])
def test_the_papers_form_leaves_holes_darker(density, released, paper):
    """Mean of ``sum w / (sum w + epsilon)`` over unsampled positions at random masks (docs/fidelity.md)."""
    mask = (torch.rand(1, 1, 400, 400, generator=torch.Generator().manual_seed(0)) < density).float()
    for build, expected in ((interpolation.RBF, released), (interpolation.PaperRBF, paper)):
        total = build(7, 3.0).weight_sum(mask)[mask == 0]
        assert (total / (total + 1e-5)).mean().item() == pytest.approx(expected, abs=0.01)


@given(maps(), st.sampled_from([3, 5]))
def test_average_pooling_gives_every_sampled_neighbour_the_same_weight(case, window):
    features, mask = case
    expected = mixed(features, mask, weighted_mean(features, mask, np.ones((window, window))))
    result = fill(interpolation.AveragePooling(window), features, mask)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)


@given(maps(), st.integers(0, 100))
def test_plain_convolution_divides_by_the_absolute_weights(case, seed):
    features, mask = case
    module = interpolation.LearnedKernel(3)
    weight = np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32)
    module.weight.data = torch.from_numpy(weight)
    expected = mixed(features, mask, weighted_mean(features, mask, weight, absolute=True))
    np.testing.assert_allclose(fill(module, features, mask), expected, rtol=1e-3, atol=1e-4)


@given(maps())
def test_squared_mask_is_equations_4_and_5_to_the_letter(case):
    features, mask = case
    module = interpolation.AveragePooling(3, squared_mask=True)
    expected = mask * (mask * features) + (1 - mask) * weighted_mean(features, mask, np.ones((3, 3)))
    np.testing.assert_allclose(fill(module, features, mask), expected, rtol=1e-3, atol=1e-4)


@given(maps())
def test_nearest_copies_a_closest_sampled_position(case):
    features, mask = case
    mask = (mask > 0).astype(np.float32)
    mask[0, 0] = 1
    sampled = np.argwhere(mask)
    result = fill(interpolation.Nearest(), features, mask)
    for i, j in np.ndindex(mask.shape):
        squares = ((sampled - (i, j)) ** 2).sum(1)
        closest = [features[:, a, b] for (a, b), d in zip(sampled, squares, strict=True) if d == squares.min()]
        assert any(np.array_equal(result[:, i, j], each) for each in closest)


def test_nearest_needs_a_sampled_position():
    with pytest.raises(ValueError, match="at least one sampled position"):
        interpolation.Nearest().index(torch.zeros(3, 3))


@given(maps())
def test_zeros_is_equation_10(case):
    features, mask = case
    np.testing.assert_array_equal(fill(interpolation.Zeros(), features, mask), mask * features)


def test_reuse_is_equation_9_where_the_shapes_agree():
    features, source = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    mask = (torch.rand(2, 1, 5, 5) < 0.5).float()
    assert torch.equal(interpolation.Reuse()(features, mask, source), torch.where(mask > 0, features, source))


@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (2, 1), (8, 2), (4, 2)])
def test_reuse_brings_other_shapes_to_the_map(channels, stride):
    source = torch.randn(1, channels, 6, 6)
    matched = interpolation.Reuse.match(source, torch.zeros(1, 4, 6 // stride, 6 // stride))
    strided = source[..., ::stride, ::stride]
    expected = strided.reshape(1, 4, 2, *strided.shape[-2:]).mean(2) if channels == 8 else strided
    expected = strided.repeat_interleave(2, 1) if channels == 2 else expected
    assert torch.equal(matched, expected)


@pytest.mark.parametrize("window", [0, 2, -3])
def test_a_window_is_odd_and_positive(window):
    with pytest.raises(ValueError, match="odd and positive"):
        interpolation.RBF(window)


@pytest.mark.parametrize("build", [interpolation.rbf(5, 1.0), interpolation.average(5), interpolation.convolution(5)])
def test_linear_fills_commute_with_a_pointwise_convolution(build):
    """What lets the engine run conv3 on sampled positions and interpolate afterwards (FIDELITY)."""
    fill_module, conv = build().double(), torch.nn.Conv2d(4, 9, 1, bias=False).double()
    features = torch.randn(1, 4, 9, 7, dtype=torch.double)
    mask = (torch.rand(1, 1, 9, 7) < 0.3).double()
    before = conv(fill_module(features, mask, features))
    after = fill_module(conv(features), mask, features)
    assert fill_module.linear
    torch.testing.assert_close(before, after, rtol=1e-9, atol=1e-9)


def test_gradients_reach_sigma_and_the_mask():
    module = interpolation.RBF(5, 1.0)
    mask = torch.rand(1, 1, 6, 6, requires_grad=True)
    module(torch.randn(1, 3, 6, 6), mask, torch.zeros(1)).square().sum().backward()
    assert module.sigma.grad.abs() > 0 and mask.grad.abs().min() > 0
