"""SACT against its definition in plain PyTorch, position by position: halting, frozen states, weighted sum, ponder."""

import pytest
import torch
import torch.nn.functional as F

from benchmark.flops.measured import MeasuredCounter
from benchmark.method import Step
from benchmark.nn import observing, residual_blocks


def eager(model, bias=1.0):
    """Let scores differ between positions, high enough that some positions stop."""
    for block in residual_blocks(model):
        if block.mask2 is not None:
            torch.nn.init.constant_(block.mask2.local.bias, bias)
            torch.nn.init.normal_(block.mask2.local.weight, std=0.5)


def normalised(x, norm):
    """Batch norm at inference."""
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def score(mask, x):
    """Return the published halting score of a state."""
    local = normalised(x, mask.local_norm)
    average = F.adaptive_avg_pool2d(x, 1)
    whole = F.conv2d(normalised(average, mask.global_norm), mask.whole.weight)
    logits = F.conv2d(local, mask.local.weight, mask.local.bias, padding=1) + whole
    return torch.sigmoid(logits)


def stage(blocks, x):
    """Return a stage's output and ponder cost by the definition: halting distribution over all units' states."""
    states, scores, units = [], [], None
    for index, block in enumerate(blocks):
        branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
        if index == 0:
            shortcut = x if block.downsample is None else block.downsample(x)
            x = torch.relu(shortcut + branch)
            units = torch.ones_like(x[:, :1])
        else:
            going = torch.stack(scores).sum(0) < 0.99
            x = torch.where(going, torch.relu(x + branch), x)
            units = units + going
        states.append(x)
        last = index == len(blocks) - 1
        scores.append(torch.ones_like(x[:, :1]) if last else score(blocks[index + 1].mask2, x))
    output, remainder, done = 0, torch.ones_like(units), torch.zeros_like(units, dtype=torch.bool)
    spent = torch.zeros_like(units)
    for state, each in zip(states, scores, strict=True):
        spent = spent + each
        stops = ~done & (spent >= 0.99)
        weight = torch.where(done, torch.zeros_like(each), torch.where(stops, remainder, each))
        output = output + weight * state
        remainder = torch.where(done | stops, remainder, remainder - each)
        done = done | stops
    return output, (units + remainder).mean()


def test_the_forward_is_the_halting_weighted_sum_of_states(adapted):
    _, model = adapted("sact")
    eager(model)
    model.eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        state = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            state, ponder = stage(list(getattr(model, name)), state)
            torch.testing.assert_close(model.stages(x)[name], state)
            model(x)
            assert getattr(model, name).ponder().item() == pytest.approx(ponder.item(), rel=1e-5)


def test_positions_stop_one_after_the_other(adapted):
    _, model = adapted("sact")
    eager(model)
    seen = {}
    with torch.no_grad(), observing(lambda block, decided: seen.update({block.name: decided.masks[2]})):
        model.eval()(torch.randn(2, 3, 64, 64))
    assert set(seen) == {"layer1.1", "layer2.1", "layer2.2", "layer3.1", "layer3.2", "layer4.1"}
    first, second = seen["layer2.1"], seen["layer2.2"]
    assert bool((second <= first).all()) and 0 < second.mean() < first.mean()


def test_a_stopped_position_is_not_counted(adapted):
    _, model = adapted("sact")
    eager(model)
    seen = {}
    counter = MeasuredCounter(model.eval())
    with torch.no_grad(), counter.recording(), observing(lambda block, decided: seen.update({block.name: decided})):
        model(torch.randn(1, 3, 64, 64))
    table = counter.layers().set_index("layer")
    for name, decided in seen.items():
        block, mask = model.get_submodule(name), decided.masks[2]
        dilated = F.max_pool2d(mask, 3, 1, 1)
        assert table.loc[f"{name}.conv1", "macs"] == dilated.sum().item() * block.conv1.weight.numel()
        assert table.loc[f"{name}.conv2", "macs"] == mask.sum().item() * block.conv2.weight.numel()
        assert table.loc[f"{name}.mask2", "macs"] == mask.numel() * 9 * block.in_channels + block.in_channels
    assert table.loc["layer1.0.conv1", "density"] == 1


def test_the_ponder_cost_falls_through_the_scores(adapted):
    method, model = adapted("sact", ponder_weight=1.0)
    model.train()(torch.randn(2, 3, 64, 64))
    loss = method.loss(model, Step(0.0, [], None))
    loss.backward()
    # Untrained scores are low: all units run, and what is left shrinks as the scores grow.
    assert all(block.mask2.local.bias.grad < 0 for block in residual_blocks(model) if block.mask2 is not None)


def test_a_batch_of_one_image_trains(adapted):
    _, model = adapted("sact")
    model.train()(torch.randn(1, 3, 64, 64)).sum().backward()
