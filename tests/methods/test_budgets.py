"""Budget-aware inference against its definition in plain PyTorch: gates that are told the budget, and the loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.flops.measured import MeasuredCounter
from benchmark.method import Step
from benchmark.nn import bounds_loss, observing, residual_blocks, training

TARGETS = (0.75, 0.5, 0.3, 0.15)


def told(method, model, budget):
    """Configure a model for a budget, with gates on which it depends strongly."""
    for block in residual_blocks(model):
        with torch.no_grad():
            block.mask2.linear.weight[:, -1] = 4.0
    type(method)(budget=budget).configure(model)
    return model


@pytest.mark.parametrize("budget", TARGETS)
def test_the_forward_is_shortcut_plus_the_branch_where_a_gate_that_knows_the_budget_says_so(adapted, budget):
    method, model = adapted("budgets")
    told(method, model.eval(), budget)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        state = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for block in residual_blocks(model):
            mask = block.mask2
            features = torch.cat(
                (F.adaptive_avg_pool2d(state, 1).flatten(1), torch.full((2, 1), math.log(budget / (1 - budget)))), dim=1
            )
            logits = F.conv2d(state, mask.conv.weight, mask.conv.bias, stride=block.stride, padding=1)
            logits = logits + F.linear(features, mask.linear.weight, mask.linear.bias)[:, :, None, None]
            branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(state)))))
            shortcut = state if block.downsample is None else block.downsample(state)
            state = torch.relu(shortcut + (logits >= 0).float() * branch)
        torch.testing.assert_close(model(x), model.fc(state.mean((2, 3))))


def test_more_budget_opens_more_and_the_gate_is_counted(adapted):
    method, model = adapted("budgets")
    counts, x = [], torch.randn(1, 3, 64, 64)
    for budget in TARGETS:
        told(method, model.eval(), budget)
        counter, seen = MeasuredCounter(model), {}
        with torch.no_grad(), counter.recording(), observing(lambda block, now, seen=seen: seen.update({block: now})):
            model(x)
        table = counter.layers().set_index("layer")
        for block in residual_blocks(model):
            mask = seen[block].masks[2]
            dilated = F.max_pool2d(mask, 3, 1, 1)
            assert table.loc[f"{block.name}.conv1", "macs"] == dilated.sum().item() * block.conv1.weight.numel()
            assert table.loc[f"{block.name}.conv2", "macs"] == mask.sum().item() * block.conv2.weight.numel()
            gate = mask.numel() * 9 * block.in_channels + block.in_channels + 1  # the budget is one input more
            assert table.loc[f"{block.name}.mask2", "macs"] == gate
        counts.append(table["macs"].sum())
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_a_new_gate_that_sees_nothing_opens_as_the_budget_says(adapted):
    method, model = adapted("budgets")
    mask = model.layer1[0].mask2.eval()
    torch.nn.init.zeros_(mask.linear.bias)
    torch.nn.init.zeros_(mask.conv.bias)
    for budget, opened in ((0.75, True), (0.51, True), (0.49, False), (0.15, False), (1.0, True)):
        type(method)(budget=budget).configure(model)
        assert bool(mask(torch.zeros(1, 16, 8, 8)).all()) == opened


def test_each_step_draws_one_of_the_targets_from_its_seed(adapted):
    method, model = adapted("budgets")
    drawn = []
    for seed in [*range(40), *range(40)]:
        torch.manual_seed(seed)
        method.on_step(model, 0.5)
        (budget,) = {block.mask2.budget for block in residual_blocks(model)}
        drawn.append(budget)
    assert set(drawn) == set(TARGETS) and drawn[:40] == drawn[40:]


def test_the_loss_is_dynconvs_at_the_drawn_budget(adapted):
    method, model = adapted("budgets", budget=0.9)  # what is asked for at inference has no part in it
    torch.manual_seed(3)
    method.on_step(model, 0.2)
    budget = model.layer1[0].mask2.budget
    with training(0.2):
        model.train()(torch.randn(2, 3, 64, 64))
    cost, total, shares = 0.0, 0.0, []
    for block in residual_blocks(model):
        mask = block.decided.masks[2].detach()
        whole = [block.conv1.weight.numel(), block.conv2.weight.numel()]
        spent = F.max_pool2d(mask, 3, 1, 1).mean() * whole[0] + mask.mean() * whole[1]
        cost, total = cost + spent * mask[0].numel(), total + sum(whole) * mask[0].numel()
        shares.append(spent / sum(whole))
    expected = 10 * ((cost / total - budget) ** 2 + bounds_loss(shares, budget, 0.2))
    assert method.loss(model, Step(0.2, [], None)).item() == pytest.approx(expected.item(), rel=1e-5)
