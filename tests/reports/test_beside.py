"""The paper's points beside ours: read at equal shares of the dense computation, never mixed with our statistics."""

import numpy as np
import pytest

from reports import published
from reports.base import Results
from reports.beside import Printed, beside
from reports.curves import panels


def rows_of(fabricated, printed, task="coco"):
    results = Results.read([fabricated.store.root])
    (panel,) = panels(results, task)
    return beside(panel, printed, results.methods)


def point(method="stochastic", share=0.5, drop=1.0, score=42.4):
    return Printed(method, "", share, drop, score, "P Table 5")


def curve(fabricated, seeds=3):
    for seed in range(seeds):
        fabricated.add("dense", 0.50 + 0.01 * seed, 2.0, seed=seed)
        for gamma, cost, loss in ((0.1, 1.6, 0.02), (0.2, 0.4, 0.10)):
            fabricated.add("stochastic", 0.50 + 0.01 * seed - loss, cost, parameters={"gamma": gamma}, seed=seed)


def test_a_curve_is_read_at_the_paper_s_share_linear_over_log_computation(fabricated):
    curve(fabricated)
    row = rows_of(fabricated, [point(share=0.5)])[0]
    way = (np.log(1.0) - np.log(0.4)) / (np.log(1.6) - np.log(0.4))
    drop = 10 - 8 * way
    assert row["drop"] == pytest.approx(drop) and row["drop_difference"] == pytest.approx(drop - 1)
    assert row["score"] == pytest.approx(51 - drop) and row["seeds"] == 3
    assert row["kept"] == pytest.approx(np.mean([100 - 100 * drop / base for base in (50, 51, 52)]))
    assert row["kept_difference"] == pytest.approx(row["kept"] - 100 * 42.4 / 43.4)
    assert row["drop_low"] == pytest.approx(drop) == row["drop_high"]  # every seed drops the same: paired


def test_beyond_a_curve_s_points_nothing_is_read(fabricated):
    curve(fabricated)
    row = rows_of(fabricated, [point(share=0.1)])[0]
    assert row["status"] == "our curve covers 0.20 to 0.80 of the dense computation"
    assert "drop" not in row and "drop_difference" not in row


@pytest.mark.parametrize(("share", "status"), [(0.51, ""), (0.6, "one point, at 0.50 of the dense computation")])
def test_a_single_point_is_compared_only_at_its_own_share(fabricated, share, status):
    fabricated.add("dense", 0.5, 2.0)
    fabricated.add("smaller_backbone", 0.45, 1.0)
    row = rows_of(fabricated, [point("smaller_backbone", share)])[0]
    assert (row["status"], row["share"], row["drop"]) == (status, 0.5, pytest.approx(5))
    assert ("drop_difference" in row) == (status == "")


def test_what_is_missing_says_which_command_runs_it_and_what_failed_why(fabricated):
    fabricated.add("dense", 0.5, 2.0)
    fabricated.add("stochastic", None, None, status="failed", error="out of memory")
    failed, missing = rows_of(fabricated, [point(), point("uniform")])[:2]
    assert failed["status"] == "failed: out of memory"
    assert missing["status"] == "not run: saibench sweep coco --scale mini --methods uniform"


def test_every_measured_point_has_a_row_and_the_paper_s_numbers_enter_none(fabricated):
    fabricated.curves(seeds=(0, 1))
    ours = [row for row in rows_of(fabricated, [point(drop=40.0, score=3.0)]) if not row["paper_source"]]
    again = [row for row in rows_of(fabricated, [point(drop=0.1, score=43.0)]) if not row["paper_source"]]
    assert ours == again
    points = sum(len(values) for _, values, _, _ in fabricated.methods.values())
    assert len(ours) == points


def test_the_paper_s_points_of_figure_4_are_all_there(fabricated, tmp_path):
    import reports

    fabricated.curves()
    (output,) = reports.build([fabricated.store.root], tmp_path, ["figure4"])
    table = output.tables[0]
    assert sum(bool(row["paper_source"]) for row in table.rows) == len(published.load("coco"))
    assert "not printed" in output.text and "43.3" in output.text and "not comparable" in output.text
