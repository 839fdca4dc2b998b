"""The study of resolution: which cells it has, in which order, and that each is a request that can be planned."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

from benchmark.cells import plan


@pytest.fixture(scope="module")
def study():
    path = Path(__file__).parents[1] / "studies" / "resolution.py"
    spec = importlib.util.spec_from_file_location("study_of_resolution", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_no_cell_comes_twice_and_two_resolutions_come_first(study):
    cells = [(setting, method, tuple(parameters.items()), seed) for setting, method, parameters, seed in study.cells()]
    assert len(cells) == len(set(cells)) > 100
    assert {cell[0].pixels for cell in cells[:10]} == {128, 256}
    assert {cell[1] for cell in cells[:10]} >= {"stochastic", "deterministic_gumbel", "uniform", "dense"}


def test_every_kind_of_cell_can_be_planned(study, tiny_set, monkeypatch):
    folder = tiny_set("coco")
    monkeypatch.setattr(study.Setting, "data", lambda self: folder)
    kinds = {}
    for setting, method, parameters, seed in study.cells():
        kinds.setdefault((dataclasses.replace(setting, pixels=128), method), (setting, parameters, seed))
    planned = [
        plan(setting.request(method, parameters, seed)) for (_, method), (setting, parameters, seed) in kinds.items()
    ]
    assert {each.cell.scale for each in planned} == {"evidence"}
    assert {each.recipe.backbone for each in planned} == {"mini", "evidence"}
    assert {each.recipe.operator for each in planned} == {"fused"}
    assert all(each.weights.stem == "mini" for each in planned if each.recipe.backbone == "mini")
