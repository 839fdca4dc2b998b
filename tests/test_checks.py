"""What `saibench check` says of methods that break the contract."""

import pytest

from benchmark.checks import CHECKS
from benchmark.checks.suite import check_task
from benchmark.engines import EngineRefusal
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
