"""LCCL: gates that multiply, zeros that are not computed, and nothing filled in."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmark.flops.measured import MeasuredCounter
from benchmark.method import discover
from benchmark.nn import residual_blocks
from benchmark.tasks.imagenet.classifier import Classifier

LCCL = discover()["lccl"]


def adapted(**parameters):
    torch.manual_seed(0)
    model = Classifier("mini_basic", 10, 32)
    for block in residual_blocks(model):
        torch.nn.init.ones_(block.last_norm.weight)  # as trained: at 0, where it starts, no gradient passes the branch
    LCCL.make(parameters).adapt(model)
    return model


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_every_block_but_a_stages_first_has_two_gates():
    for block in residual_blocks(adapted()):
        gates = [block.mask1 is not None, block.mask2 is not None]
        assert gates == [not block.is_first] * 2


def test_a_gate_is_the_relu_of_a_normalised_single_filter():
    mask = adapted().layer1[1].mask1.eval()
    torch.nn.init.constant_(mask.norm.running_mean, 0.3)
    torch.nn.init.constant_(mask.norm.running_var, 2.0)
    x = torch.randn(2, 16, 8, 8)
    logits = F.conv2d(x, mask.conv.weight, padding=1).detach().numpy()
    expected = np.maximum((logits - 0.3) / np.sqrt(2.0 + 1e-5), 0)
    value = mask(x)
    assert value.shape == (2, 1, 8, 8)
    np.testing.assert_allclose(value.detach().numpy(), expected, atol=1e-5)


def test_the_gate_multiplies_each_convolutions_output_and_nothing_fills_its_zeros():
    block = adapted().eval().layer2[1]
    x = torch.randn(2, 32, 6, 6)
    with torch.no_grad():
        inner = block.mask1(x) * torch.relu(block.bn1(block.conv1(x)))
        gate2 = block.mask2(inner)  # in parallel to conv2: it reads what conv2 reads
        outer = gate2 * block.bn2(block.conv2(inner))
        torch.testing.assert_close(block(x), torch.relu(x + outer))
        dead = (gate2 == 0).expand_as(x)
        assert dead.any() and torch.equal(block(x)[dead], torch.relu(x)[dead])


def test_what_a_gate_zeroes_is_not_counted():
    model = adapted().eval()
    counter = MeasuredCounter(model)
    seen = []
    block = model.layer3[1]
    block.mask1.register_forward_hook(lambda mask, inputs, value: seen.append(int((value > 0).sum())))
    with counter.recording(), torch.no_grad():
        model(images(1))
    layers = counter.layers().set_index(["layer", "kind"])
    channels = block.conv1.out_channels
    assert layers.loc[("layer3.1.conv1", "conv"), "macs"] == seen[0] * 9 * channels**2
    assert layers.loc[("layer3.1.mask1", "mask"), "macs"] == 2 * 2 * 9 * channels
    assert layers.loc[("layer3.1.interpolation1", "interpolation"), "macs"] == 0


def test_gradients_reach_every_gate_through_the_tasks_loss_alone():
    model = adapted().train()
    model(images(4)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if ".mask" in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_batch_norm_zeroes_about_half_at_the_start_and_a_higher_shift_less():
    def density(**parameters):
        model = adapted(**parameters).train()
        shares = []
        for block in residual_blocks(model):
            if block.mask1 is not None:
                block.mask1.register_forward_hook(
                    lambda mask, inputs, value: shares.append(float((value > 0).float().mean()))
                )
        with torch.no_grad():
            model(images(8))
        return np.mean(shares)

    assert density() == pytest.approx(0.5, abs=0.15)
    assert density(shift=1.0) > density() + 0.15


def test_it_says_why_it_does_not_run_elsewhere():
    assert LCCL.make({}).skip("imagenet") is None
    assert "Table 4" in LCCL.make({}).skip("coco")
