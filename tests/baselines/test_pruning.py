"""The pruning baselines: what they remove, what that leaves, and that nothing else changes."""

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from benchmark.cells import Request, execute, load_model, plan
from benchmark.errors import DataError, UsageError
from benchmark.flops.measured import MeasuredCounter
from benchmark.method import discover
from benchmark.nn import build_backbone, pruning
from benchmark.store import Store
from benchmark.tasks import find_task
from benchmark.tasks.imagenet.classifier import Classifier
from tests.conftest import TINY

METHODS = discover()
TASK = find_task("imagenet")
ZERO = {"pfec": {"scale": 0}, "sfp": {"pruning_rate": 0}, "fpgm": {"pruning_rate": 0}}
PRINTED = (
    pd.read_csv(Path(__file__).parents[2] / "results" / "paper" / "table4.csv").groupby("method")["gflops"].first()
)

# ResNet-34 at 224 x 224: blocks, channels and side of the maps of each stage.
STAGES = ((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7))
# The layers that PFEC leaves whole, numbered as its paper does: a block's convolutions are 2, 3; 4, 5; …
PFEC_SENSITIVE = {2, 8, 14, 16, 26, 28, 30, 32}
PFEC_RATES = (0.5, 0.6, 0.4, 0.0)


def closed_form(kept_inner, kept_outer, stem):
    """Return MACs and parameters of a ResNet-34 by what a layer keeps: functions of (layer number, stage, channels)."""
    weights, norms = 49 * 3 * stem, stem
    macs = weights * 112**2
    before, number = 64, 2
    for stage, (blocks, channels, side) in enumerate(STAGES):
        for block in range(blocks):
            inner, outer = kept_inner(number, stage, channels), kept_outer(channels)
            own = 9 * before * inner + 9 * inner * outer
            norms += inner + outer
            if block == 0 and stage > 0:
                own += before * channels
                norms += channels
            weights, macs = weights + own, macs + own * side**2
            before, number = channels, number + 2
    return macs + 512_000, weights + 2 * norms + 513_000


def expected(name):
    def keep(channels, rate):
        return channels - int(channels * rate)

    if name == "pfec":
        return closed_form(
            lambda number, stage, channels: keep(channels, 0 if number in PFEC_SENSITIVE else PFEC_RATES[stage]),
            lambda channels: channels,
            64,
        )
    return closed_form(
        lambda number, stage, channels: keep(channels, 0.3), lambda channels: keep(channels, 0.3), keep(64, 0.3)
    )


def small(seed=0):
    """A network with statistics of its own, so that no batch norm is the identity."""
    torch.manual_seed(seed)
    model = Classifier("mini_basic", 10, 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", sorted(ZERO))
def test_resnet34_has_the_macs_and_parameters_of_the_closed_form(name):
    model = Classifier("resnet34", 1000)
    METHODS[name].make({}).restore(model)
    counter = MeasuredCounter(model.eval())
    with counter.recording(), torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    macs, parameters = expected(name)
    assert int(counter.images()["macs"].iloc[0]) == macs
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    # The table has two digits; PFEC's own 2.76e9 leaves the projections out.
    assert macs / 1e9 == pytest.approx(PRINTED[name], abs=0.1)


@pytest.mark.parametrize("name", sorted(ZERO))
def test_a_rate_of_zero_changes_nothing_bit_for_bit(name):
    model, method = small(), METHODS[name].make(ZERO[name])
    before, output = copy.deepcopy(model.state_dict()), model(images())
    method.prepare(model)
    for progress in (0.0, 0.5, 1.0):
        method.on_step(model, progress)
    method.finish(model)
    assert not model.training
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(images()), output)


def test_a_rate_of_zero_trains_like_the_dense_network(tiny_set, tmp_path):
    """Every method starts from the same weights and runs the same schedule; so must one that removes nothing."""
    records = {}
    for name, parameters in [("dense", {}), *ZERO.items()]:
        planned = plan(Request("imagenet", name, parameters=parameters, data=tiny_set("imagenet"), overrides=TINY))
        records[name] = load_model(execute(planned, Store(tmp_path)), planned).state_dict()
    dense = records.pop("dense")
    for name, weights in records.items():
        assert all(torch.equal(value, dense[key]) for key, value in weights.items()), name


@pytest.mark.parametrize("name", sorted(ZERO))
def test_a_pruned_cell_is_smaller_and_loads_again(name, tiny_set, tmp_path):
    store = Store(tmp_path)
    planned, whole = (
        plan(Request("imagenet", each, data=tiny_set("imagenet"), overrides=TINY)) for each in (name, "dense")
    )
    record, dense = execute(planned, store), execute(whole, store)
    assert record["gmacs_measured_mean"] < dense["gmacs_measured_mean"]
    assert record["gmacs_paper"] < dense["gmacs_paper"]
    one, other = load_model(record, planned), load_model(record, planned)
    with torch.no_grad():
        assert torch.equal(one(images()), other(images()))
    assert sum(p.numel() for p in one.parameters()) < sum(p.numel() for p in load_model(dense, whole).parameters())


def test_scores_are_those_of_the_three_papers():
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 7, 3, bias=False)
    filters = convolution.weight.detach().numpy().reshape(7, -1).astype(np.float64)
    distances = np.sqrt(((filters[:, None] - filters[None]) ** 2).sum(-1)).sum(1)
    for criterion, scores in (
        (pruning.norm_of_filters(1), np.abs(filters).sum(1)),
        (pruning.norm_of_filters(2), (filters**2).sum(1)),
        (pruning.GeometricMedian(), distances),
    ):
        np.testing.assert_allclose(pruning.score(convolution, criterion), scores, rtol=1e-5)


def test_the_geometric_median_tells_a_filter_from_its_negative():
    """Three filters that are alike are redundant; one that is their negative is not."""
    convolution = nn.Conv2d(1, 4, 3, bias=False)
    with torch.no_grad():
        convolution.weight[:] = torch.randn(1, 1, 3, 3)
        convolution.weight[2] *= -1
    assert int(pruning.score(convolution, pruning.GeometricMedian()).argmax()) == 2


def test_the_weakest_filters_go_first():
    layer = next(layer for layer in pruning.prunables(small()) if layer.name == "layer2.1.conv1")
    with torch.no_grad():
        layer.layers[0].weight[[4, 9, 20]] *= 1e-3
    assert layer.weakest(pruning.norm_of_filters(1), 3 / 32) == [4, 9, 20]


def test_removing_filters_that_were_zeroed_does_not_change_the_output():
    model = small()
    for layer in pruning.prunables(model):
        layer.zero(layer.weakest(pruning.norm_of_filters(2), 0.3))
    with torch.no_grad():
        zeroed = model(images())
        for layer in list(pruning.prunables(model)):
            layer.remove(layer.weakest(pruning.norm_of_filters(2), 0.3))
        torch.testing.assert_close(model(images()), zeroed, rtol=1e-4, atol=1e-5)


def test_filters_that_sfp_zeroes_can_recover_in_the_first_half_of_a_run():
    model, method = small().train(), METHODS["sfp"].make({"rounds": 4})
    method.prepare(model)
    method.on_step(model, 0.25)
    model(images(4)).square().sum().backward()
    block = model.layer1[1]
    zeroed = block.conv1.weight.detach().flatten(1).abs().sum(1) == 0
    assert int(zeroed.sum()) == 4  # 0.3 of 16, rounded down
    passed = zeroed & (block.bn1.bias > 0)  # what a ReLU passes on
    assert passed.any() and (block.conv1.weight.grad.flatten(1).abs().sum(1)[passed] > 0).all()


def test_filters_that_sfp_zeroes_give_nothing_in_the_second_half_of_a_run():
    model, method = small(), METHODS["sfp"].make({"rounds": 4})
    method.prepare(model)
    method.on_step(model, 0.75)
    block = model.layer1[1]
    zeroed = block.conv1.weight.flatten(1).abs().sum(1) == 0
    assert int(zeroed.sum()) == 4 and block.bn1(block.conv1(torch.randn(1, 16, 8, 8)))[:, zeroed].abs().sum() == 0


def test_sfp_zeroes_once_a_round_and_goes_on_with_the_right_round_after_an_interruption(monkeypatch):
    method = METHODS["sfp"].make({"rounds": 4})
    zeroed = []
    monkeypatch.setattr(pruning.Prunable, "zero", lambda layer, filters, shift: zeroed.append(layer.name))
    model = small()
    method.prepare(model)
    seen = []
    for step in range(21):
        if step == 13:
            kept = model.state_dict()
            model = small()
            method.prepare(model)
            model.load_state_dict(kept)
        zeroed.clear()
        method.on_step(model, step / 20)
        if zeroed:
            seen.append(step)
    assert seen == [5, 10, 15, 20]


def test_fpgm_holds_what_it_chose_until_the_next_round_and_trains_the_rest():
    model, method = small().train(), METHODS["fpgm"].make({"rounds": 4})
    method.prepare(model)
    block = model.layer1[1]
    before = pruning.score(block.conv1, pruning.GeometricMedian())
    nearest = torch.zeros(16, dtype=torch.bool).index_fill(0, before.argsort()[:4], True)  # 0.3 of 16, rounded down
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4)
    for step in range(5):
        method.on_step(model, step / 20)
        optimizer.zero_grad()
        model(images(4)).square().sum().backward()
        held = block.conv1.weight.grad.flatten(1).abs().sum(1) == 0
        assert torch.equal(held, nearest) and torch.equal(block.bn1.bias.grad == 0, nearest)
        optimizer.step()
        assert not block.conv1.weight[nearest].any() and block.conv1.weight[~nearest].flatten(1).any(1).all()
    with torch.no_grad():
        block.conv1.weight[nearest] = 5 * torch.randn(4, 16, 3, 3)  # now these are the furthest
    method.on_step(model, 5 / 20)
    assert not block.conv1.hold.trained[~nearest].all() and block.conv1.hold.trained[nearest].all()
    model.eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    method.finish(model)
    assert sum(parameter.numel() for parameter in model.parameters()) < parameters
    assert not any("hold" in key or "rounds" in key for key in model.state_dict())


def test_fpgm_holds_the_same_filters_after_an_interruption():
    method, kept, models = METHODS["fpgm"].make({"rounds": 4}), None, []
    for model in (small(), small(1)):
        method.prepare(model)
        if kept is not None:
            model.load_state_dict(kept)
        for progress in (0.0, 0.1) if kept is None else (0.2,):
            method.on_step(model, progress)
        kept = model.state_dict()
        models.append(model.train())
    gradients = []
    for model in models:
        model(images(4)).square().sum().backward()
        gradients.append(model.layer2[1].conv2.weight.grad)
        model.zero_grad()
    assert torch.equal(*gradients) and int((gradients[0].flatten(1).abs().sum(1) == 0).sum()) == 9  # 0.3 of 32


def test_each_baseline_keeps_its_publications_run_where_published_numbers_are_compared(tiny_set):
    """Learning rate at each epoch's start, by hand: PFEC constant; SFP and FPGM a tenth after each 30 of 100 epochs."""
    data, runs = tiny_set("imagenet"), {}
    for name in (*ZERO, "lccl"):
        (runs[name],) = plan(Request("imagenet", name, scale="paper", data=data)).schedules
    rates = {
        name: [run.learning_rate * run.factor(epoch * 10, run.epochs * 10) for epoch in range(run.epochs)]
        for name, run in runs.items()
    }
    assert rates["pfec"] == pytest.approx([1e-3] * 20)
    for name, first in (("sfp", 0.1), ("fpgm", 0.01)):
        expected = [first * 0.1**tenths for tenths in (0, 1, 2, 3) for _ in range(30 if tenths < 3 else 10)]
        assert rates[name] == pytest.approx(expected)
    recipe = TASK.recipe("paper")
    assert runs["lccl"] == recipe.train and not recipe.train.from_nothing and recipe.pretrain.from_nothing
    assert {name for name, run in runs.items() if run.from_nothing} == {"sfp"}
    scratch = Request("imagenet", "fpgm", scale="paper", data=data, overrides={"from_scratch": True})
    assert plan(scratch).schedules == [recipe.pretrain] and plan(scratch).from_nothing
    with pytest.raises(UsageError, match="leave --from-scratch out"):
        plan(Request("coco", "dense", scale="paper", data=tiny_set("coco"), overrides={"from_scratch": True}))
    mini = [plan(Request("imagenet", name, data=data)).schedules for name in runs]
    assert all(schedules == [TASK.recipe("mini").train] for schedules in mini)


@pytest.mark.parametrize("name", ["sfp", "fpgm"])
def test_a_round_is_an_epoch_of_the_publications_run(name, monkeypatch):
    method, model, epochs, steps = METHODS[name].make({"rounds": 3}), small(), [], 4
    run = method.schedule(TASK.recipe("paper").train)
    monkeypatch.setattr(pruning.Prunable, "zero", lambda layer, *filters, **shift: epochs.append(done))
    method.prepare(model)
    for done in range(run.epochs * steps):
        method.on_step(model, done / (run.epochs * steps - 1))
    first = {"sfp": [], "fpgm": [0]}[name]
    assert sorted(set(epochs)) == [*first, steps, 2 * steps, 3 * steps - 1]


def test_own_runs_are_part_of_the_identity_and_the_one_from_nothing_asks_for_no_weights(
    tiny_set, tmp_path, monkeypatch
):
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path / "cache"))
    small = {"train.batch": 2, "shorter_side": 32, "longer_side": 32, "backbone": "mini_basic", "workers": 0}

    def planned(name, **parameters):
        return plan(Request("imagenet", name, "paper", parameters, data=tiny_set("imagenet"), overrides=small))

    assert planned("sfp", rounds=1).cell.id != planned("sfp", rounds=2).cell.id
    shorter = {"train.epochs": 2}
    with pytest.raises(UsageError, match="'pfec' keeps its publication's training .* epochs 20: .*own_schedules=false"):
        plan(Request("imagenet", "pfec", "paper", data=tiny_set("imagenet"), overrides=shorter))
    shorter["own_schedules"] = False
    run = plan(Request("imagenet", "pfec", "paper", data=tiny_set("imagenet"), overrides=shorter)).schedules[0]
    assert run == TASK.recipe("paper").train.replace(epochs=2)
    with pytest.raises(DataError, match="place them at"):
        execute(planned("fpgm", rounds=1), Store(tmp_path / "store"))
    assert execute(planned("sfp", rounds=1), Store(tmp_path / "store")).status == "finished"


def test_channels_that_are_scattered_keep_their_places():
    norm = pruning.ScatteredBatchNorm2d([1, 4], 6).eval()
    x = torch.randn(2, 2, 3, 3)
    out = norm(x)
    torch.testing.assert_close(out[:, [1, 4]], x, rtol=1e-4, atol=1e-4)
    assert out[:, [0, 2, 3, 5]].abs().sum() == 0


def test_backbones_that_the_rates_are_not_for_are_refused():
    with pytest.raises(UsageError, match="basic blocks"):
        METHODS["fpgm"].make({}).prepare(build_backbone("mini"))


@pytest.mark.parametrize("name", sorted(ZERO))
def test_pruning_says_why_it_does_not_run_elsewhere(name):
    assert METHODS[name].make({}).skip("imagenet") is None
    assert "Table 4" in METHODS[name].make({}).skip("coco")
