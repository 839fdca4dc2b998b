"""LASNet against its definition in plain PyTorch: tiles, masked branch, budget and distillation."""

import pytest
import torch
import torch.nn.functional as F

from benchmark.flops.measured import MeasuredCounter
from benchmark.method import Step
from benchmark.nn import observing, residual_blocks, training
from benchmark.nn.budget import bounds_loss, computations, network_share

SIDES = {"layer1": 4, "layer2": 4, "layer3": 2, "layer4": 1}


def undecided(model):
    """Bring the maskers' logits near one another, so that some tiles are left out."""
    for block in residual_blocks(model):
        torch.nn.init.zeros_(block.mask2.conv.bias)
        torch.nn.init.normal_(block.mask2.conv.weight)


def tiles(block, x):
    """Return the published decision of a block's input, position by position."""
    mask = block.mask2
    height, width = -(-x.shape[2] // block.stride), -(-x.shape[3] // block.stride)
    side = SIDES[block.name.partition(".")[0]]
    pooled = F.adaptive_avg_pool2d(x, (-(-height // side), -(-width // side)))
    logits = F.conv2d(pooled, mask.conv.weight, mask.conv.bias)
    decision = (logits[:, 0] >= logits[:, 1]).float()
    rows = torch.arange(height) // side
    columns = torch.arange(width) // side
    return decision[:, rows][:, :, columns][:, None]


def test_the_forward_is_shortcut_plus_the_branch_in_the_chosen_tiles(adapted):
    _, model = adapted("lasnet")
    undecided(model)
    model.eval()
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        state = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        densities = []
        for block in residual_blocks(model):
            mask = tiles(block, state)
            densities.append(mask.mean().item())
            shortcut = state if block.downsample is None else block.downsample(state)
            branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(state)))))
            state = torch.relu(shortcut + mask * branch)
        torch.testing.assert_close(model(x), model.fc(state.mean((2, 3))))
    assert any(0.1 < density < 0.9 for density in densities)


def test_the_count_is_a_sum_over_positions_and_tiles(adapted):
    _, model = adapted("lasnet")
    undecided(model)
    model.eval()
    seen = {}
    counter = MeasuredCounter(model)
    with torch.no_grad(), counter.recording(), observing(lambda block, decided: seen.update({block.name: decided})):
        model(torch.randn(1, 3, 64, 80))
    table = counter.layers().set_index("layer")
    for block in residual_blocks(model):
        mask = seen[block.name].masks[2]
        dilated = F.max_pool2d(mask, 3, 1, 1)
        assert table.loc[f"{block.name}.conv1", "macs"] == dilated.sum().item() * block.conv1.weight.numel()
        assert table.loc[f"{block.name}.conv2", "macs"] == mask.sum().item() * block.conv2.weight.numel()
        side = SIDES[block.name.partition(".")[0]]
        count = -(-mask.shape[2] // side) * -(-mask.shape[3] // side)
        assert table.loc[f"{block.name}.mask2", "macs"] == count * 2 * block.in_channels


def test_untrained_masks_compute_everything(adapted):
    _, model = adapted("lasnet")
    for block in residual_blocks(model.eval()):
        torch.nn.init.zeros_(block.mask2.conv.weight)
    seen = []
    with torch.no_grad(), observing(lambda block, decided: seen.append(decided.masks[2])):
        model(torch.randn(1, 3, 64, 64))
    assert len(seen) == 10 and all(bool(mask.all()) for mask in seen)


@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 5.0), (0.5, 5.0 * 0.02**0.5), (1.0, 0.1)])
def test_the_temperature_falls_exponentially(adapted, progress, temperature):
    _, model = adapted("lasnet")
    undecided(model)
    mask, x = model.layer1[0].mask2.train(), torch.randn(1, 16, 16, 16)
    torch.manual_seed(7)
    with training(progress):
        decided = mask(x)
    torch.manual_seed(7)
    logits = mask.conv(F.avg_pool2d(x, 4)).detach()
    margin = logits[:, :1] - logits[:, 1:]
    uniform = torch.rand_like(margin).clamp(1e-7, 1 - 1e-7)
    soft = torch.sigmoid((margin + torch.log(uniform) - torch.log1p(-uniform)) / temperature)
    assert torch.equal(decided[..., ::4, ::4].detach(), (soft >= 0.5).float())
    (gradient,) = torch.autograd.grad(decided.sum(), mask.conv.bias)
    expected = (soft * (1 - soft) / temperature).sum() * 16  # each decision counts for its tile
    torch.testing.assert_close(gradient, torch.stack([expected, -expected]), rtol=1e-4, atol=1e-5)


def test_the_loss_adds_budget_bounds_and_distillation(adapted):
    method, model = adapted("lasnet", target=0.4)
    undecided(model)
    method.prepare(model)
    x = torch.randn(3, 3, 64, 64)
    with training(0.1):
        logits = model.train()(x)
    teacher = model.distillation.teacher
    with torch.no_grad():
        taught = teacher.fc(teacher.avgpool(list(teacher.stages(x).values())[-1]).flatten(1))
    p, q = F.softmax(taught / 4, dim=1), F.softmax(logits / 4, dim=1)
    divergence = 16 * (p * (p / q).log()).sum(1).mean()
    bounds = bounds_loss([each.share for each in computations(model)], 0.4, 0.1)
    expected = 10 * ((network_share(model) - 0.4) ** 2 + bounds) + 0.5 * divergence
    torch.testing.assert_close(method.loss(model, Step(0.1, [], logits)), expected)


def test_the_teacher_is_dense_and_leaves_no_trace(adapted):
    method, model = adapted("lasnet")
    before = list(model.state_dict())
    method.prepare(model)
    assert all(not block.work.masks for block in residual_blocks(model.distillation.teacher))
    assert list(model.state_dict()) == before
    method.finish(model)
    assert not hasattr(model, "distillation") and not model._forward_hooks
