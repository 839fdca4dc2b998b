"""PerforatedCNN: impact masks in a network, and rates chosen by layer."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from baselines.perforated import Perforated, layer_rates
from benchmark.nn import build_backbone, residual_blocks


def greedy(impacts, costs, rate):
    """The definition, position by position."""
    left = [sorted(impact.ravel())[:-1] for impact in impacts]
    budget, gone = rate * sum(impact.size * cost for impact, cost in zip(impacts, costs, strict=True)), [0] * len(costs)
    while any(left):
        best = min((layer for layer in range(len(costs)) if left[layer]), key=lambda each: left[each][0] / costs[each])
        if budget < costs[best] * (1 - 1e-9):
            break
        budget -= costs[best]
        gone[best] += 1
        left[best].pop(0)
    return [count / impact.size for count, impact in zip(gone, impacts, strict=True)]


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=4),
    st.floats(0, 0.99),
    st.integers(0, 2**16),
)
def test_rates_leave_out_what_matters_least_for_what_it_costs(layers, rate, seed):
    chance = np.random.default_rng(seed)
    impacts = [chance.random((height, width)) for height, width, _ in layers]
    costs = [cost for *_, cost in layers]
    rates = layer_rates(impacts, costs, rate)
    assert rates == pytest.approx(greedy(impacts, costs, rate))
    spared = sum(each * impact.size * cost for each, impact, cost in zip(rates, impacts, costs, strict=True))
    assert spared <= rate * sum(impact.size * cost for impact, cost in zip(impacts, costs, strict=True)) * (1 + 1e-9)


def test_a_layer_that_matters_less_computes_fewer_positions():
    rates = layer_rates([np.full((4, 4), 0.1), np.full((4, 4), 10.0)], [5, 5], 0.5)
    assert rates == [15 / 16, 1 / 16]


def test_rates_are_chosen_from_impacts_only():
    with pytest.raises(ValidationError, match="needs structure=impact"):
        Perforated(rates="chosen", structure="grid")


def adapted():
    method, backbone = Perforated(structure="impact", rates="chosen", rate=0.5), build_backbone("mini")
    method.adapt(backbone)
    method.prepare(backbone)
    return method, backbone.train()


def test_a_network_leaves_out_its_share_and_remembers_each_layers_own():
    method, backbone = adapted()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # a branch starts with 0 behind it, through which nothing has an impact
    for _ in range(2):
        backbone(torch.randn(2, 3, 64, 64))[-1].square().sum().backward()
    method.finish(backbone)
    rates, spared, whole = [], 0.0, 0.0
    for block in residual_blocks(backbone):
        for index in block.work.masks:
            mask, convolution = getattr(block, f"mask{index}"), getattr(block, f"conv{index}")
            positions = mask.impact.numel()
            rates.append(float(mask.rate))
            spared += float(mask.rate) * positions * convolution.weight.numel()
            whole += positions * convolution.weight.numel()
    assert len(set(rates)) > 1
    assert 0.45 < spared / whole <= 0.5
    _, again = adapted()
    again.load_state_dict(backbone.state_dict())
    assert [float(mask.rate) for mask in again.modules() if type(mask).__name__ == "ImpactMask"] == rates


def test_a_network_that_is_only_counted_leaves_out_the_same_share_in_each_layer():
    method, backbone = Perforated(structure="impact", rates="chosen", rate=0.25), build_backbone("mini")
    method.adapt(backbone)
    method.restore(backbone)
    assert {float(mask.rate) for mask in backbone.modules() if type(mask).__name__ == "ImpactMask"} == {0.25}
