"""DGNet against its definition in plain PyTorch: tiles, gated channels, what both leave to compute, and the loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.engines import EngineRefusal, EngineUnavailable, find
from benchmark.flops.measured import MeasuredCounter
from benchmark.method import Step
from benchmark.nn import network_share, observing, residual_blocks

SIDES = {"layer1": 8, "layer2": 4, "layer3": 2, "layer4": 1}


def undecided(model):
    """Bring the gates' logits near one another, so that some tiles and channels are left out."""
    for block in residual_blocks(model):
        torch.nn.init.zeros_(block.mask1.conv.bias)
        torch.nn.init.normal_(block.mask1.conv.weight)
        for index in block.work.gates:
            gate = getattr(block, f"gate{index}")
            torch.nn.init.zeros_(gate.excite.bias)
            torch.nn.init.normal_(gate.excite.weight)


def decisions(block, x):
    """Return the masks on the block's input's and output's resolution, and the gates, of a block's input."""
    side = SIDES[block.name.partition(".")[0]]
    height, width = (-(-length // block.stride) for length in x.shape[-2:])
    pooled = F.adaptive_avg_pool2d(x, (-(-height // side), -(-width // side)))
    tiles = (F.conv2d(pooled, block.mask1.conv.weight, block.mask1.conv.bias, padding=1) > 0).float()
    rows, columns = torch.arange(x.shape[2]) // (side * block.stride), torch.arange(x.shape[3]) // (side * block.stride)
    fine = tiles[:, :, rows][..., columns]
    coarse = tiles[:, :, torch.arange(height) // side][..., torch.arange(width) // side]
    gates = {}
    for index in block.work.gates:
        gate = getattr(block, f"gate{index}")
        hidden = torch.relu(F.linear(x.mean((2, 3)), gate.squeeze.weight, gate.squeeze.bias))
        gates[index] = (F.linear(hidden, gate.excite.weight, gate.excite.bias) > 0).float()[:, :, None, None]
    return fine, coarse, gates


def run(block, x):
    """Return a block's output by the definition, and the decisions."""
    fine, coarse, gates = decisions(block, x)
    shortcut = x if block.downsample is None else block.downsample(x)
    if hasattr(block, "conv3"):
        features = fine * gates[1] * torch.relu(block.bn1(block.conv1(x)))
        features = coarse * gates[2] * torch.relu(block.bn2(block.conv2(features)))
        features = coarse * block.bn3(block.conv3(features))
    else:
        features = coarse * gates[1] * torch.relu(block.bn1(block.conv1(x)))
        features = coarse * block.bn2(block.conv2(features))
    return torch.relu(shortcut + features), (fine, coarse, gates)


@pytest.mark.parametrize("backbone", ["mini_basic", "mini"])
def test_a_block_computes_the_chosen_tiles_of_the_open_channels(adapted, backbone):
    _, model = adapted("dgnet", backbone)
    undecided(model)
    model.eval()
    x, seen = torch.randn(2, 3, 64, 96), []
    with torch.no_grad():
        state = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for block in residual_blocks(model):
            state, decided = run(block, state)
            seen.append((float(decided[1].mean()), float(decided[2][1].mean())))
        torch.testing.assert_close(model(x), model.fc(state.mean((2, 3))), rtol=1e-4, atol=1e-4)
    for densities in zip(*seen, strict=True):
        assert any(0.1 < density < 0.9 for density in densities)


@pytest.mark.parametrize("backbone", ["mini_basic", "mini"])
def test_the_count_is_a_sum_over_tiles_channels_and_gates(adapted, backbone):
    _, model = adapted("dgnet", backbone)
    undecided(model)
    counter, inputs, seen = MeasuredCounter(model.eval()), {}, []
    for block in residual_blocks(model):
        block.register_forward_pre_hook(lambda module, given: inputs.__setitem__(module, given[0]))
    with torch.no_grad(), counter.recording(), observing(lambda block, decided: seen.append(block)):
        model(torch.randn(1, 3, 64, 96))
    table = counter.layers().set_index("layer")
    for block in seen:
        fine, coarse, gates = decisions(block, inputs[block])
        opened = {index: int(values.sum()) for index, values in gates.items()}
        positions = int(coarse.sum())
        if hasattr(block, "conv3"):
            expected = {
                "conv1": int(fine.sum()) * block.in_channels * opened[1],
                "conv2": positions * 9 * opened[1] * opened[2],
                "conv3": positions * opened[2] * block.conv3.out_channels,
            }
        else:
            expected = {
                "conv1": positions * 9 * block.in_channels * opened[1],
                "conv2": positions * 9 * opened[1] * block.conv2.out_channels,
            }
        for layer, macs in expected.items():
            assert table.loc[f"{block.name}.{layer}", "macs"] == macs, layer
        side = SIDES[block.name.partition(".")[0]]
        tiles = -(-coarse.shape[2] // side) * -(-coarse.shape[3] // side)
        assert table.loc[f"{block.name}.mask1", "macs"] == tiles * 9 * block.in_channels
        hidden = block.in_channels // 4
        assert table.loc[f"{block.name}.gate1", "macs"] == hidden * (block.in_channels + block.planes)
        assert f"{block.name}.mask2" not in table.index or table.loc[f"{block.name}.mask2", "macs"] == 0


def test_the_loss_holds_the_share_and_bounds_both_densities(adapted):
    method, model = adapted("dgnet", target=0.36)
    undecided(model)
    model.train()(torch.randn(2, 3, 64, 64))
    held = math.exp(-5 * 0.1)
    bounds = 0.0
    for block in residual_blocks(model):
        for density in (block.decided.masks[1].mean().item(), block.decided.gates[1].mean().item()):
            bounds += max(0, held * 0.6 - density) ** 2 + max(0, density - 1 + held - held * 0.6) ** 2
    expected = 5 * (network_share(model).item() - 0.36) ** 2 + bounds
    assert method.loss(model, Step(0.1, [], None)).item() == pytest.approx(expected, rel=1e-4)


def test_new_gates_are_open_and_gradients_reach_both_kinds(adapted):
    method, model = adapted("dgnet")
    for block in residual_blocks(model):
        torch.nn.init.zeros_(block.mask1.conv.weight)
        torch.nn.init.zeros_(block.gate1.excite.weight)
    found = []
    with torch.no_grad(), observing(lambda block, seen: found.append((seen.masks[1], seen.gates[1]))):
        model.eval()(torch.randn(1, 3, 64, 64))
    assert len(found) == 10 and all(bool(mask.all()) and bool(gate.all()) for mask, gate in found)
    for block in residual_blocks(model):  # half open, by chance
        torch.nn.init.zeros_(block.mask1.conv.bias)
        torch.nn.init.zeros_(block.gate1.excite.bias)
    model.train()(torch.randn(2, 3, 64, 64))
    method.loss(model, Step(0.5, [], None)).backward()
    for block in residual_blocks(model):
        assert bool(block.mask1.conv.weight.grad.any()) and bool(block.gate1.excite.weight.grad.any())


def test_the_engine_refuses_gates_over_channels_by_name(adapted):
    _, model = adapted("dgnet")
    try:
        find()(model.eval(), threads=1)
    except EngineUnavailable as reason:
        pytest.skip(str(reason))
    except EngineRefusal as refusal:
        assert "gates over channels" in str(refusal)
    else:
        pytest.fail("it ran")
