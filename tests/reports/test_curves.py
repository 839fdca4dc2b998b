"""Which cells make a line, what it is called, and how its points are sorted."""

import numpy as np
import pytest

from benchmark.stats import pareto_front
from reports.base import Results
from reports.curves import COST, describe, panels, stems


def panel_of(fabricated, task="coco"):
    (panel,) = panels(Results.read([fabricated.store.root]), task)
    return panel


def test_each_method_is_a_line_sorted_along_its_parameter(fabricated):
    panel = panel_of(fabricated.curves())
    assert {line.method for line in panel.series} == {name for name in fabricated.methods if name != "dense"}
    for line in panel.series:
        parameter, values, costs, _ = fabricated.methods[line.method]
        assert line.parameter == parameter
        if parameter:
            assert line.points[f"p_{parameter}"].tolist() == sorted(values)
        np.testing.assert_allclose(sorted(line.points[COST]), sorted(2.0 * cost for cost in costs))
    assert panel.reference.points[COST].tolist() == [2.0]


def test_words_tell_lines_of_a_method_apart(fabricated):
    panel = panel_of(fabricated.perforated())
    labels = [line.label for line in panel.series]
    assert labels == ["Perforated (grid)", "Perforated (pooling)", "Perforated (uniform)"]
    for line in panel.series:
        assert line.parameter == "rate"
        assert line.points["p_rate"].tolist() == [0.25, 0.5, 0.75]


def test_an_ablation_beside_a_curve_is_a_line_of_its_own(fabricated):
    for gamma in (0.1, 0.2, 0.3):
        fabricated.add("stochastic", 0.4, gamma, parameters={"gamma": gamma, "fill": "rbf", "window": 7})
    fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": 0.1, "fill": "zeros", "window": 7})
    fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": 0.1, "fill": "rbf", "window": 5})
    labels = {line.label: line.points["p_gamma"].tolist() for line in panel_of(fabricated).series}
    assert labels == {
        "Stochastic sampling": [0.1, 0.2, 0.3],
        "Stochastic sampling (zeros)": [0.1],
        "Stochastic sampling (window = 5)": [0.1],
    }


def test_seeds_are_one_point_with_a_spread(fabricated):
    for seed, score in enumerate((0.3, 0.4, 0.5)):
        fabricated.add("stochastic", score, 1.0 + seed, parameters={"gamma": 0.1}, seed=seed)
    (line,) = panel_of(fabricated).series
    (point,) = line.points.to_dict("records")
    assert (point["seeds"], point["metric_AP"], point[COST]) == (3, pytest.approx(0.4), pytest.approx(2.0))
    assert point["metric_AP_spread"] == pytest.approx(0.1)


def test_a_single_run_tells_its_trade_off_parameter(fabricated):
    fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": 0.1, "window": 7, "grid_stride": 11})
    fabricated.add("equal_interval", 0.4, 1.0, parameters={"stride": 2})
    assert panel_of(fabricated).cells["setting"].tolist() == ["γ = 0.1", "stride = 2"]


def test_the_front_is_that_of_all_points(fabricated):
    panel = panel_of(fabricated.curves().perforated())
    cells = panel.cells
    assert cells["front"].tolist() == pareto_front(cells[COST], cells["metric_AP"]).tolist()


def test_failed_and_diverged_cells_are_shown_but_are_no_points(fabricated):
    fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": 0.1})
    fabricated.add("stochastic", None, None, parameters={"gamma": 0.2}, status="diverged")
    fabricated.add("relu_gating", None, None, parameters={"gamma": 0.2}, status="failed", error="out of memory")
    panel = panel_of(fabricated)
    assert [len(line.points) for line in panel.series] == [1]
    assert panel.cells["status"].tolist() == ["finished", "diverged", "failed"]
    first, second = panel.failures()
    assert first.startswith("Diverged: Stochastic sampling, γ = 0.2, seed 0 (") and "the loss is nan" in first
    assert second.startswith("Failed: ReLU gating, γ = 0.2, seed 0 (") and second.endswith("out of memory")


def test_of_two_versions_of_a_cell_the_newer_counts_and_the_other_is_named(fabricated):
    old = fabricated.add("dense", 0.3, 2.0, determinants={"code": "1"}, finished="2026-01-01T00:00:00Z")
    fabricated.add("dense", 0.5, 2.0, determinants={"code": "2"}, finished="2026-01-02T00:00:00Z")
    panel = panel_of(fabricated)
    assert panel.reference.points["metric_AP"].tolist() == [0.5]
    assert len(panel.warnings) == 1 and str(old.folder) in panel.warnings[0]


def test_a_trial_with_another_recipe_does_not_stand_for_the_real_one(fabricated):
    fabricated.add("dense", 0.5, 2.0, overrides=None, finished="2026-01-01T00:00:00Z")
    fabricated.add("dense", 0.1, 2.0, determinants={"steps": 1}, overrides='{"train.steps": 1}')
    panel = panel_of(fabricated)
    assert panel.reference.points["metric_AP"].tolist() == [0.5]
    assert [line.label for line in panel.series] == ["Dense (train.steps=1)"]


def test_a_changed_recipe_that_all_cells_have_is_told_once_beside_the_data(fabricated):
    fabricated.add("dense", 0.5, 2.0, overrides='{"train.steps": 1}')
    fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": 0.1}, overrides='{"train.steps": 1}')
    panel = panel_of(fabricated)
    assert [panel.reference.label, *(line.label for line in panel.series)] == ["Dense", "Stochastic sampling"]
    assert panel.data() == "embedded, scale mini, train.steps=1"


def test_a_changed_recipe_is_told_even_where_all_cells_of_a_method_have_it(fabricated):
    fabricated.add("dense", 0.5, 2.0)
    fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": 0.1}, overrides='{"train.steps": 1}')
    panel = panel_of(fabricated)
    assert [line.label for line in panel.series] == ["Stochastic sampling (train.steps=1)"]
    assert panel.data() == "embedded, scale mini"


def test_file_names_do_not_repeat_themselves(fabricated):
    fabricated.add("dense", 0.5, 2.0, dataset="coco-mini-v3-seed0")
    fabricated.add("dense", 0.5, 2.0, dataset="BCCD (blood cells)", fingerprint="beef")
    names = stems("figure4", panels(Results.read([fabricated.store.root])))
    assert sorted(names) == ["figure4-coco-mini-bccd-blood-cells", "figure4-coco-mini-v3-seed0"]


def test_a_newer_failure_does_not_hide_the_finished_cell_nor_itself(fabricated):
    fabricated.add("dense", 0.3, 2.0, determinants={"code": "1"}, finished="2026-01-01T00:00:00Z")
    fabricated.add("dense", None, None, determinants={"code": "2"}, status="failed")
    panel = panel_of(fabricated)
    assert panel.reference.points["metric_AP"].tolist() == [0.3]
    assert len(panel.failures()) == 1


def test_a_cell_without_its_metric_is_named_and_left_out(fabricated):
    fabricated.add("dense", 0.5, 2.0)
    odd = fabricated.add("stochastic", float("nan"), 1.0)
    panel = panel_of(fabricated)
    assert panel.series == []
    assert str(odd.folder) in panel.warnings[0]


def test_only_failures_still_make_a_panel(fabricated):
    fabricated.add("dense", None, None, status="failed")
    panel = panel_of(fabricated)
    assert panel.reference is None and len(panel.cells) == 1


def test_tasks_scales_and_data_sets_are_panels_of_their_own(fabricated):
    fabricated.add("dense", 0.5, 2.0)
    fabricated.add("dense", 0.5, 2.0, scale="small")
    fabricated.add("dense", 0.5, 2.0, fingerprint="beef")
    fabricated.add("dense", 0.5, 2.0, task="cityscapes")
    found = panels(Results.read([fabricated.store.root]))
    assert [(panel.task, panel.scale, panel.fingerprint) for panel in found] == [
        ("cityscapes", "mini", "f00dcafe"), ("coco", "mini", "beef"), ("coco", "mini", "f00dcafe"),
        ("coco", "small", "f00dcafe"),
    ]  # fmt: skip


def test_settings_as_text():
    assert describe({"gamma": 0.05, "fill": "zeros", "grid_stride": 11.0}) == "γ = 0.05, zeros, grid stride = 11"
