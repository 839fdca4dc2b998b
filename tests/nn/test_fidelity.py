"""The training forward, its gradients and its losses against the released code's formulas, written out in float64.

Nothing here calls what it tests: convolutions are sums over taps, interpolations sums over neighbours (see column R of
docs/fidelity.md).
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.nn import Bottleneck, Masks, build_backbone, interpolation, residual_blocks, set_temperature, sparse_loss
from benchmark.nn.masks import GumbelMask, Site

SIDE = 6
WINDOW = 5


def convolved(x, weight, stride=1, bias=None):
    """Sum over taps: ``(N, C, H, W)`` by ``(O, C, k, k)`` with zero padding ``k // 2``."""
    size = weight.shape[-1]
    padded = nn.functional.pad(x, (size // 2,) * 4)
    height, width = (-(-n // stride) for n in x.shape[-2:])
    total = 0
    for row, column in itertools.product(range(size), repeat=2):
        part = padded[
            ..., row : row + (height - 1) * stride + 1 : stride, column : column + (width - 1) * stride + 1 : stride
        ]
        total = total + torch.einsum("nchw,oc->nohw", part, weight[..., row, column])
    return total if bias is None else total + bias[:, None, None]


def sampled_bilinearly(x, weight, offsets, stride=1):
    """Sum a deformable 3x3 convolution tap by tap and position by position, bilinear, zero outside of the map."""
    count, channels, height, width = x.shape
    out_height, out_width = (-(-n // stride) for n in (height, width))
    result = x.new_zeros(count, weight.shape[0], out_height, out_width)
    for n, i, j in itertools.product(range(count), range(out_height), range(out_width)):
        for tap, (row, column) in enumerate(itertools.product(range(3), repeat=2)):
            y = i * stride - 1 + row + offsets[n, 2 * tap, i, j]
            z = j * stride - 1 + column + offsets[n, 2 * tap + 1, i, j]
            top, left = math.floor(y.item()), math.floor(z.item())
            value = x.new_zeros(channels)
            for a, b in itertools.product((top, top + 1), (left, left + 1)):
                if 0 <= a < height and 0 <= b < width:
                    value = value + (1 - (y - a).abs()) * (1 - (z - b).abs()) * x[n, :, a, b]
            result[n, :, i, j] = result[n, :, i, j] + weight[:, :, row, column] @ value
    return result


def normalised(x, norm):
    """Batch norm with frozen statistics."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return x * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]


def interpolated(features, mask, sigma):
    """Return R's blend: ``M Y + (1 - M) (W * (M Y)) / (W * M + 1e-5)``, the centre included."""
    radius = WINDOW // 2
    height, width = features.shape[-2:]
    total, norm = torch.zeros_like(features), torch.zeros_like(mask)
    masked = nn.functional.pad(mask * features, (radius,) * 4)
    padded = nn.functional.pad(mask, (radius,) * 4)
    for a, b in itertools.product(range(WINDOW), repeat=2):
        distance = (a - radius) ** 2 + (b - radius) ** 2
        weight = sigma**2 / (2 * math.pi) * torch.exp(-(sigma**2) * distance / 2)
        total = total + weight * masked[..., a : a + height, b : b + width]
        norm = norm + weight * padded[..., a : a + height, b : b + width]
    return mask * features + (1 - mask) * total / (norm + 1e-5)


def softened(logits, noise, temperature):
    """Return R's two-class Gumbel-softmax on ``(log pi, log(1 - pi))`` for noise ``(g1, g0)``."""
    confident = torch.sigmoid(logits)
    pairs = torch.stack([torch.log(confident + 1e-8) + noise[0], torch.log(1 - confident + 1e-8) + noise[1]])
    return torch.softmax(pairs / temperature, dim=0)[0]


def block(deformable, stride):
    torch.manual_seed(3)
    made = Bottleneck(8, 4, stride, name="layer2.0", project=True, deformable=deformable)
    made.adapt(Masks.gumbel(grid_stride=None), interpolation.rbf(WINDOW, 1.3), "two")
    made = made.double().train()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.eval()
    for mask in (made.mask1, made.mask2):
        nn.init.normal_(mask.conv.weight, std=0.3)
        nn.init.constant_(mask.conv.bias, 0.2)
    if deformable:
        nn.init.normal_(made.offset.weight, std=0.05)
        nn.init.uniform_(made.offset.bias, -0.4, 0.4)
    return made


def written_out(made, x, uniforms, temperature):
    """Return the block's training forward by the formulas of column R."""
    masks = []
    for mask, uniform, stride in zip((made.mask1, made.mask2), uniforms, (1, made.stride), strict=True):
        logits = convolved(x, mask.conv.weight, stride, mask.conv.bias)
        # The difference of two Gumbel variables is logistic: one uniform draw gives both.
        noise = torch.log(uniform) - torch.log1p(-uniform)
        masks.append(softened(logits, (noise, torch.zeros_like(noise)), temperature))
    features = torch.relu(normalised(convolved(x, made.conv1.weight), made.bn1))
    features = interpolated(features, masks[0], made.interpolation1.sigma)
    if made.offset is None:
        features = convolved(features, made.conv2.weight, made.stride)
    else:
        offsets = convolved(x, made.offset.weight, made.stride, made.offset.bias)
        features = sampled_bilinearly(features, made.conv2.weight, offsets, made.stride)
    features = torch.relu(normalised(features, made.bn2))
    features = interpolated(features, masks[1], made.interpolation2.sigma)
    features = normalised(convolved(features, made.conv3.weight), made.bn3)
    shortcut = convolved(x, made.downsample[0].weight)[..., :: made.stride, :: made.stride]
    return torch.relu(features + normalised(shortcut, made.downsample[1]))


def drawn(made, x, seed):
    """Return the uniform numbers that both masks draw."""
    torch.manual_seed(seed)
    sizes = [x.shape[-2:], [-(-n // made.stride) for n in x.shape[-2:]]]
    return [torch.rand(len(x), 1, *size, dtype=x.dtype).clamp(1e-7, 1 - 1e-7) for size in sizes]


@pytest.mark.parametrize(("deformable", "stride"), [(False, 1), (False, 2), (True, 1), (True, 2)])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_forward_and_gradients_are_the_released_formulas(deformable, stride, temperature):
    made = block(deformable, stride)
    for mask in (made.mask1, made.mask2):
        mask.temperature = temperature
    x = torch.randn(2, 8, SIDE, SIDE, dtype=torch.double)
    uniforms = drawn(made, x, 11)
    torch.manual_seed(11)
    ours, theirs = made(x), written_out(made, x, uniforms, temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    direction = torch.randn_like(ours)
    parameters = dict(made.named_parameters())
    found = torch.autograd.grad((ours * direction).sum(), list(parameters.values()))
    expected = torch.autograd.grad((theirs * direction).sum(), list(parameters.values()))
    for name, one, other in zip(parameters, found, expected, strict=True):
        assert other.abs().max() > 0, name
        difference = (one - other).norm() / other.norm()
        assert difference < 1e-6, (name, difference)


@pytest.mark.parametrize("binary", [True, False])
def test_interpolation_is_the_released_form(binary):
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(2, 3, 9, 7, generator=generator)
    mask = torch.rand(2, 1, 9, 7, generator=generator)
    mask = (mask < 0.3).float() if binary else mask
    fill = interpolation.RBF(WINDOW, 3.0)
    torch.testing.assert_close(
        fill(features, mask, features), interpolated(features, mask, torch.tensor(3.0)), rtol=1e-5, atol=1e-5
    )


def test_the_sparse_loss_has_the_released_weights():
    torch.manual_seed(0)
    model = build_backbone("mini").double()
    for each in residual_blocks(model):
        each.adapt(Masks.gumbel(), interpolation.rbf())
        for mask in (each.mask1, each.mask2):
            nn.init.normal_(mask.double().conv.weight, std=0.2)
    inputs = {}
    for each in residual_blocks(model):
        each.register_forward_hook(lambda block, given, output: inputs.update({block: given[0].detach()}))
    model.train()(torch.randn(2, 3, 64, 64, dtype=torch.double))
    total = 0.0
    for each, x in inputs.items():
        for mask, share, stride in ((each.mask1, 0.25, 1), (each.mask2, 0.75, each.stride)):
            confidence = 1 / (1 + torch.exp(-convolved(x, mask.conv.weight, stride, mask.conv.bias)))
            total += share * confidence.mean().item()
    assert sparse_loss(model).item() == pytest.approx(total / len(inputs), rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.2])
def test_soft_masks_have_the_quantiles_of_the_gumbel_softmax(temperature):
    """``M <= m`` has the probability that a logistic variable lies below ``tau logit(m) - logit(pi)``."""
    mask = GumbelMask(Site("layer1.0.mask1", 1, 1, 1, 1.0), grid_stride=None, initial_bias=0.4)
    mask.temperature = temperature
    torch.manual_seed(0)
    values = mask.train()(torch.zeros(1, 1, 400, 400)).detach().double().flatten()
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        expected = 1 / (1 + math.exp(-(0.4 + math.log(share / (1 - share))) / temperature))
        below = (values < expected).double().mean().item()
        assert below == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / len(values)))


def test_a_mask_starts_nearly_open_and_the_temperature_ends_at_a_hundredth():
    mask = GumbelMask(Site("layer1.0.mask1", 4, 1, 1, 1.0))
    assert mask.conv.weight.abs().max() == 0
    assert torch.sigmoid(mask.conv.bias).item() == pytest.approx(0.9526, abs=1e-4)
    holder = nn.ModuleList([mask])
    for progress in (0.0, 0.25, 1.0):
        set_temperature(holder, progress)
        assert mask.temperature == pytest.approx(np.exp(progress * np.log(0.01)))


def test_a_soft_mask_at_inference_does_not_remember_its_training():
    site = Site("layer1.0.mask1", 1, 1, 1, 1.0)
    fresh = GumbelMask(site, grid_stride=None, initial_bias=0.1, soft_inference=True).eval()
    trained = GumbelMask(site, grid_stride=None, initial_bias=0.1, soft_inference=True).eval()
    set_temperature(nn.ModuleList([trained]), 0.4)
    x = torch.zeros(1, 1, 32, 32)
    assert torch.equal(fresh(x), trained(x)) and fresh(x)[fresh(x) > 0].min() >= 0.5
