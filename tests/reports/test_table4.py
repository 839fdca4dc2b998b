"""Table 4: drops against dense, speed-up from the measured counts, the paper's rows beside ours."""

import pandas as pd
import pytest

import reports


def build(fabricated, out):
    (output,) = reports.build([fabricated.store.root], out, ["table4"])
    return output, pd.read_csv(out / "table4-imagenet-mini-embedded.csv").set_index("label")


def test_drops_and_speed_up_are_against_dense(fabricated, tmp_path):
    fabricated.add("dense", 0.80, 4.0, task="imagenet")
    fabricated.add("stochastic", 0.75, 3.0, task="imagenet", parameters={"gamma": 0.01})
    output, frame = build(fabricated, tmp_path)
    row = frame.loc["Stochastic sampling"]
    assert row["top1_drop"] == pytest.approx(5.0)
    assert row["top5_drop"] == pytest.approx(100 * (0.80 - 0.75) * 1.1)
    assert row["speedup_percent"] == pytest.approx(25.0)
    assert frame.loc["Dense", "speedup_percent"] == 0
    assert pd.isna(frame.loc["Dense", "top1_drop"])
    assert "γ = 0.01" in output.text and output.warnings == []


def test_seeds_are_averaged_with_their_spread(fabricated, tmp_path):
    fabricated.add("dense", 0.80, 4.0, task="imagenet")
    for seed, score in enumerate((0.70, 0.72, 0.74)):
        fabricated.add("sfp", score, 2.0, task="imagenet", parameters={"rate": 0.3}, seed=seed)
    output, frame = build(fabricated, tmp_path)
    assert frame.loc["SFP", "top1_drop"] == pytest.approx(8.0)
    assert frame.loc["SFP", "top1_drop_spread"] == pytest.approx(2.0)
    assert "8.00 ± 2.00" in output.text


def test_without_dense_there_are_no_drops_and_a_warning(fabricated, tmp_path):
    fabricated.add("stochastic", 0.75, 3.0, task="imagenet", parameters={"gamma": 0.01})
    output, frame = build(fabricated, tmp_path)
    assert pd.isna(frame.loc["Stochastic sampling", "top1_drop"])
    assert any("no finished cell of dense" in line for line in output.warnings)


def test_failed_cells_are_told(fabricated, tmp_path):
    fabricated.add("dense", 0.80, 4.0, task="imagenet")
    fabricated.add("fpgm", None, None, task="imagenet", status="failed", error="no layer to prune")
    output, frame = build(fabricated, tmp_path)
    assert "no layer to prune" in output.text
    assert list(frame.index) == ["Dense"]


def test_the_paper_s_rows_stand_beside_ours_at_their_share_of_the_dense_computation(fabricated, tmp_path):
    fabricated.add("dense", 0.80, 4.0, task="imagenet")
    fabricated.add("sfp", 0.75, 4.0 * (1 - 0.411), task="imagenet")
    output, frame = build(fabricated, tmp_path)
    beside = pd.read_csv(tmp_path / "table4-imagenet-mini-embedded-beside.csv")
    sfp = beside[beside["paper_source"].notna()].set_index("method").loc["sfp"]
    assert (sfp["paper_drop"], sfp["drop"], sfp["drop_difference"]) == pytest.approx((2.09, 5.0, 5.0 - 2.09))
    fpgm = beside.set_index("method").loc["fpgm"]
    assert fpgm["status"] == "not run: saibench sweep imagenet --scale mini --methods fpgm"
    assert "P Table 4" in output.text and "stochastic_without_interpolation" in beside["method"].tolist()
    assert list(frame.index) == ["Dense", "SFP"]  # the paper's numbers are in no statistic of ours
    assert {path.suffix for path in output.files} == {".png", ".svg", ".pdf", ".md", ".csv", ".tex"}


def test_without_data_one_line(fabricated, tmp_path):
    fabricated.add("dense", 0.5, 2.0)
    (output,) = reports.build([fabricated.store.root], tmp_path, ["table4"])
    assert "no data" in output.text and "saibench sweep imagenet" in output.text and output.files == []
