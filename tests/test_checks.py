"""What `saibench check` says of methods that break the contract."""

import pytest

from benchmark.checks import CHECKS
from benchmark.checks.suite import check_task
from benchmark.engines import EngineRefusal
from benchmark.errors import UsageError
from benchmark.method import discover

RAISING = """from benchmark import Method


class Raising(Method):
    name = "raising"

    def adapt(self, backbone):
        self.choose(backbone)

    def choose(self, backbone):
        raise ValueError("no such layer\\nmore")
"""
NOISY = """import torch

from benchmark import Method
from benchmark.nn import Mask


class Noise(Mask):
    def forward(self, x):
        torch.seed()
        return (torch.rand(len(x), 1, *self.size(x)) > 0.5).float()


class Noisy(Method):
    name = "noisy"

    def mask(self, block):
        return Noise
"""


@pytest.fixture
def checked(tmp_path):
    """Return a function that checks a plug-in's text on one task: to its results by name."""

    def check(name, text):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        results = check_task(discover([path])[name], "imagenet", tmp_path)
        return path, {result.name: result for result in results}

    return check


def test_a_plugin_that_raises_is_named_with_its_line_the_rule_and_a_remedy(checked):
    path, results = checked("raising", RAISING)
    builds = results["builds"]
    assert builds.status == "failed" and builds.detail == f"{path}:11: ValueError: no such layer"
    assert builds.rule == "Every point of the curve makes a model that runs." and "curve" in builds.remedy


def test_masks_that_differ_between_calls_break_the_rule_about_batches(checked):
    path, results = checked("noisy", NOISY)
    broken = results["same masks in any batch"]
    assert broken.status == "failed" and "in another batch" in broken.detail
    assert broken.detail.startswith(f"{path}:13: ")  # the method's class, where no line of the file raised
    assert "at_hand()" in broken.remedy
    assert results["builds"].status == "passed" and not results["builds"].remedy


def test_what_an_engine_refuses_is_skipped_with_its_reason(checked, monkeypatch):
    def refuse(*arguments, **options):
        raise EngineRefusal("layer1.0", "it has no way to do this")

    monkeypatch.setattr("benchmark.checks.engine.find", lambda: refuse)
    _, results = checked("noisy", NOISY)
    skipped = results["counts match the engine"]
    assert (skipped.status, skipped.detail) == ("skipped", "layer1.0: it has no way to do this")


def test_every_check_has_a_rule_and_a_remedy():
    assert all(check.rule.endswith(".") and check.remedy for check in CHECKS.values())


METHOD = """import torch
from torch import nn

from benchmark import Method
from benchmark.nn import Mask, Masks


class Choice(Mask):
    def __init__(self, site):
        super().__init__(site)
        self.conv = nn.Conv2d(site.in_channels, 1, 3, site.stride, 1)
        nn.init.constant_(self.conv.bias, 3.0)

    def forward(self, x):
        logits = self.conv(x)
        if self.training:
            self.confidence = torch.sigmoid(logits)
            return self.confidence
        {decide}


class Tried(Method):
    name = "tried"

    def mask(self, block):
        return Choice

    def loss(self, backbone, step):
        return sum(mask.confidence.mean() for mask in backbone.modules() if isinstance(mask, Choice))
"""
DECIDING = {
    "from the image alone": "return (logits > 0).to(x.dtype)",
    "from the best half, whose number is a rounded size": (
        "count = round(0.5 * logits.shape[-1] * logits.shape[-2])\n"
        "        best = logits.flatten(1).topk(count, 1).values[:, -1:]\n"
        "        return (logits >= best[..., None, None]).to(x.dtype)"
    ),
    "from the batch's mean once sparse": "return (logits + torch.clamp(logits.mean(), max=1.0) > 0).to(x.dtype)",
    "from the batch before": (
        "before = getattr(self, 'seen', logits.mean())\n"
        "        self.seen = logits.mean().detach()\n"
        "        return (logits + before > 0).to(x.dtype)"
    ),
}


@pytest.mark.parametrize("how", DECIDING)
def test_a_sparse_network_shows_what_its_masks_depend_on(checked, how):
    _, results = checked("tried", METHOD.format(decide=DECIDING[how]))
    failed = {name for name, result in results.items() if result.status == "failed"}
    right = how in ("from the image alone", "from the best half, whose number is a rounded size")
    assert ("same masks in any batch" in failed) == (not right), results
    assert not right or not failed, [results[name] for name in failed]
    if how == "from the batch before":
        remedy = results["same masks in any batch"].remedy
        assert "keeps a tensor as `self.seen`, which is no buffer" in remedy


def test_half_of_every_mask_is_left_out_while_it_is_checked(checked):
    _, results = checked("tried", METHOD.format(decide=DECIDING["from the image alone"]))
    share = int(results["same masks in any batch"].detail.partition(", ")[2].partition("%")[0])
    assert 30 <= share <= 70


IDLE = """from benchmark import Method


class Idle(Method):
    name = "idle"

    def choose(self, size):
        return size // 2
"""
MADE = """from benchmark import Method


def fail(self, block):
    return 5


Made = type("Made", (Method,), {"name": "made", "mask": fail, "__module__": __name__})
"""


def test_a_method_that_changes_nothing_fails(checked):
    _, results = checked("idle", IDLE)
    idle = results["has an effect"]
    assert idle.status == "failed" and "class Idle has none" in idle.detail and "override a hook" in idle.remedy


def test_another_size_is_an_effect(checked):
    _, results = checked("idle", IDLE.replace("choose", "image_size"))
    assert results["has an effect"].status == "passed" and results["has an effect"].detail.startswith("another size: ")


def test_a_class_that_no_statement_made_is_named_by_its_file(checked):
    path, results = checked("made", MADE)
    assert results["builds"].status == "failed" and results["builds"].detail.startswith(f"{path}: TypeError")


def test_failures_of_one_cause_share_it(checked):
    _, results = checked("raising", RAISING)
    failed = [result for result in results.values() if result.status == "failed"]
    assert len(failed) > 3 and len({result.cause for result in failed}) == 1


def test_parameters_are_those_of_the_command(tmp_path):
    results = {
        each.name: each for each in check_task(discover()["uniform"], "imagenet", tmp_path, {"shorter_side": 48})
    }
    assert {each.status for each in results.values()} == {"passed"}
    with pytest.raises(UsageError, match="has no parameter 'side'"):
        list(check_task(discover()["uniform"], "imagenet", tmp_path, {"side": 48}))
