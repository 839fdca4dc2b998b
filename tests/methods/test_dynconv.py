"""DynConv against its definition in plain PyTorch: gate, masked branch, budget and bounds."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.flops.measured import MeasuredCounter
from benchmark.method import Step
from benchmark.nn import observing, residual_blocks, training


def gate(block, x):
    """Return the published gate of a block's input: 3x3 convolution plus a linear layer of the average, ``>= 0``."""
    mask = block.mask3 if block.mask3 is not None else block.mask2
    pooled = F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), mask.linear.weight, mask.linear.bias)
    logits = F.conv2d(x, mask.conv.weight, mask.conv.bias, stride=block.stride, padding=1) + pooled[:, :, None, None]
    return (logits >= 0).float()


def branch(block, x):
    """Return the dense branch, before the mask."""
    features = torch.relu(block.bn1(block.conv1(x)))
    if hasattr(block, "conv3"):
        features = torch.relu(block.bn2(block.conv2(features)))
        return block.bn3(block.conv3(features))
    return block.bn2(block.conv2(features))


@pytest.mark.parametrize("backbone", ["mini_basic", "mini"])
def test_the_forward_is_shortcut_plus_masked_branch(adapted, backbone):
    _, model = adapted("dynconv", backbone)
    model.eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        state = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        densities = []
        for block in residual_blocks(model):
            mask = gate(block, state)
            densities.append(mask.mean().item())
            shortcut = state if block.downsample is None else block.downsample(state)
            state = torch.relu(shortcut + mask * branch(block, state))
        expected = model.fc(state.mean((2, 3)))
        torch.testing.assert_close(model(x), expected)
    assert any(0.1 < density < 0.9 for density in densities)


@pytest.mark.parametrize("backbone", ["mini_basic", "mini"])
def test_the_count_is_a_sum_over_positions(adapted, backbone):
    _, model = adapted("dynconv", backbone)
    model.eval()
    masks = {}
    counter = MeasuredCounter(model)
    with torch.no_grad(), counter.recording(), observing(lambda block, seen: masks.update({block.name: seen})):
        model(torch.randn(1, 3, 64, 64))
    table = counter.layers().set_index("layer")
    for block in residual_blocks(model):
        mask = next(iter(masks[block.name].masks.values()))[0, 0] > 0
        height, width = masks[block.name].size
        conv2 = block.conv2
        stride = conv2.stride[0]
        dilated = torch.zeros((height, width) if hasattr(block, "conv3") else mask.shape)
        for row, column in mask.nonzero().tolist():
            top, left = row * stride, column * stride
            dilated[max(0, top - 1) : top + 2, max(0, left - 1) : left + 2] = 1
        sampled = int(mask.sum())
        assert table.loc[f"{block.name}.conv1", "macs"] == int(dilated.sum()) * block.conv1.weight.numel()
        assert table.loc[f"{block.name}.conv2", "macs"] == sampled * conv2.weight.numel()
        if hasattr(block, "conv3"):
            assert table.loc[f"{block.name}.conv3", "macs"] == sampled * block.conv3.weight.numel()
        name = f"{block.name}.mask{len(block.convolutions)}"
        # The gate's convolution at every position of the output, and its linear layer once.
        assert table.loc[name, "macs"] == mask.numel() * block.in_channels * 9 + block.in_channels


@pytest.mark.parametrize(("progress", "temperature", "noisy"), [(0.1, 5.0, True), (0.5, 2.5, True), (0.9, 1.0, False)])
def test_training_decides_hard_and_passes_the_soft_gradient(adapted, progress, temperature, noisy):
    _, model = adapted("dynconv")
    mask, x = model.layer1[0].mask2.train(), torch.randn(4, 16, 16, 16)
    logits = (mask.conv(x) + mask.linear(x.mean((2, 3)))[:, :, None, None]).detach()
    with training(progress):
        decided = mask(x)
    assert set(decided.detach().unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(decided.detach() > 0.5, logits >= 0) != noisy
    if not noisy:
        (gradient,) = torch.autograd.grad(decided.sum(), mask.linear.bias)
        soft = torch.sigmoid(logits / temperature)
        torch.testing.assert_close(gradient, (soft * (1 - soft) / temperature).sum()[None])


def test_the_loss_is_the_squared_distance_from_the_budget_plus_the_bounds(adapted):
    method, model = adapted("dynconv", budget=0.3)
    with training(0.2):
        model.train()(torch.randn(2, 3, 64, 64))
    cost, total, shares = 0.0, 0.0, []
    for block in residual_blocks(model):
        mask = block.decided.masks[2].detach()
        dilated = F.max_pool2d(mask, 3, 1, 1)
        spent = dilated.mean() * block.conv1.weight.numel() + mask.mean() * block.conv2.weight.numel()
        whole = block.conv1.weight.numel() + block.conv2.weight.numel()
        positions = mask[0].numel()
        cost, total = cost + spent * positions, total + whole * positions
        shares.append((spent / whole).item())
    annealed = math.cos(0.2 / 0.33 * math.pi / 2) ** 2
    upper, lower = 1 - annealed * 0.7, annealed * 0.3
    bounds = sum(max(0, share - upper) ** 2 + max(0, lower - share) ** 2 for share in shares) / len(shares)
    expected = 10 * ((cost / total - 0.3) ** 2 + bounds)
    assert method.loss(model, Step(0.2, [], None)).item() == pytest.approx(expected.item(), rel=1e-5)
