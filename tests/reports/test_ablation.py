"""Tables 1 to 3 and Figure 3: rows from the records, the paper's numbers beside them, reasons where there is none."""

import numpy as np
import pandas as pd
import pytest

import reports
from reports.base import Results
from reports.stability import roughness, spikes

USUAL = {"fill": "rbf", "grid_stride": 5, "masks_per_block": 2}


def ablated(fabricated, gammas=(0.05, 0.3, 1.0, 3.0)):
    """Put the usual curve of the paper's method into a store."""
    for gamma in gammas:
        add(fabricated, 0.6 - 0.05 * gamma, 2 / (1 + gamma), gamma)
    return fabricated


def add(fabricated, score, cost, gamma, seed=0, **changes):
    status = changes.pop("status", "finished")
    return fabricated.add(
        "stochastic", score, cost, parameters={**USUAL, "gamma": gamma, **changes}, seed=seed, status=status,
        **({"method_curve": ["gamma"]} if status == "finished" else {"error": "out of memory"}),
    )  # fmt: skip


def build(fabricated, out, name):
    (output,) = reports.build([fabricated.store.root], out, [name])
    (csv,) = [path for path in output.files if path.suffix == ".csv"]
    return output, pd.read_csv(csv).set_index("label")


def test_an_empty_store_has_the_paper_s_numbers_and_the_command(tmp_path):
    (tmp_path / "store").mkdir()
    for name, number in (("table1", "110.0"), ("table2", "226.1"), ("table3", "95.4")):
        (output,) = reports.build([tmp_path / "store"], tmp_path / "out", [name])
        assert number in output.text and f"not run: saibench sweep coco --cells {name}" in output.text
        assert "| 0.0" not in output.text and "nan" not in output.text


def test_rows_stand_beside_the_paper_s_with_the_difference(fabricated, tmp_path):
    add(ablated(fabricated), 0.5, 1.5, 1.0, fill="zeros")
    output, frame = build(fabricated, tmp_path, "table2")
    row = frame.loc["fill zeros"]
    assert (row["score"], row["paper_score"], row["difference"]) == pytest.approx((50, 42.0, 8))
    assert row["gmacs_of_reference"] == pytest.approx(1.5) and row["paper_gflops_of_reference"] == pytest.approx(
        164.9 / 96.6
    )
    # What a row gains against the reference row is what is compared with the paper's.
    assert (row["against"], row["paper_against"]) == pytest.approx((100 * (0.5 - 0.55), 0.0))
    assert row["against_difference"] == pytest.approx(row["against"] - row["paper_against"])
    assert np.isnan(frame.loc["interpolation", "against"])
    assert {path.suffix for path in output.files} == {".md", ".csv", ".tex", ".png", ".svg", ".pdf"}
    assert frame.loc["interpolation", "trade_off"] == 1.0  # where the ablation was run
    assert "42.0 or 39.7" in output.text  # the paper contradicts itself
    assert frame.loc["reuse features", "status"] == "not run: saibench sweep coco --cells table2"


def test_a_failed_row_says_why(fabricated, tmp_path):
    add(ablated(fabricated), None, None, 1.0, fill="reuse", status="failed")
    _, frame = build(fabricated, tmp_path, "table2")
    assert frame.loc["reuse features", "status"] == "failed: out of memory"


def test_seeds_give_a_mean_and_an_interval(fabricated, tmp_path):
    for seed in range(4):
        add(fabricated, 0.5 + 0.01 * seed, 1.0, 1.0, seed=seed)
    _, frame = build(fabricated, tmp_path, "table2")
    row = frame.loc["interpolation"]
    assert row["seeds"] == 4 and row["score"] == pytest.approx(51.5)
    assert 50 <= row["score_low"] < 51.5 < row["score_high"] <= 53


def test_table_1_takes_the_weight_of_equal_accuracy(fabricated, tmp_path):
    ablated(fabricated)
    for gamma, score in ((1.0, 0.40), (0.333, 0.548), (0.5, 0.52)):
        add(fabricated, score, 2.0, gamma, fill="average")
    _, frame = build(fabricated, tmp_path, "table1")
    assert frame.loc["average pooling", "trade_off"] == 0.333
    assert frame.loc["RBF", "score"] == pytest.approx(55)


def test_table_3_takes_strides_by_their_distance_from_the_scale_s(fabricated, tmp_path):
    record = add(ablated(fabricated), 0.5, 1.0, 1.0, grid_stride=7)
    losses = np.ones(100)
    losses[50] = 5
    pd.DataFrame({"step": range(100), "loss": losses}).to_parquet(record.folder / "losses.parquet")
    output, frame = build(fabricated, tmp_path, "table3")
    assert frame["grid_stride"].tolist() == [3, 5, 7, 0]
    assert frame.loc["stride + 2", "spikes"] == pytest.approx(1 / 80)
    assert frame.loc["stride + 2", "paper_score"] == 41.8
    assert "no loss curve" in output.text


def test_a_data_set_without_the_ablation_has_no_table_and_no_figure_beside_one_with_it(fabricated, tmp_path):
    add(ablated(fabricated), 0.5, 1.0, 1.0, masks_per_block=1)
    for gamma in (0.3, 3.0):
        fabricated.add(
            "stochastic", 0.5, 1.0, parameters={**USUAL, "gamma": gamma}, method_curve=["gamma"],
            dataset="cells", fingerprint="beef",
        )  # fmt: skip
    build(fabricated, tmp_path, "figure3")
    assert {path.stem for path in tmp_path.glob("figure3*")} == {"figure3-coco-mini-embedded"}
    assert (tmp_path / "figure3-coco-mini-embedded.png").exists()


def test_figure_3_has_the_three_placements(fabricated, tmp_path):
    add(ablated(fabricated), 0.5, 1.0, 1.0, masks_per_block=1)
    output, frame = build(fabricated, tmp_path, "figure3")
    assert frame["seeds"].tolist() == [1, 1, 0]
    assert "Paper" not in output.text.splitlines()[2]
    assert {path.suffix for path in output.files} == {".md", ".csv", ".tex", ".png", ".svg", ".pdf"}


def test_spikes_and_roughness_of_known_curves():
    calm, wild = np.ones(60), np.tile([1.0, 3.0], 30)
    assert (spikes(calm), roughness(calm)) == (0, 0)
    assert spikes(np.concatenate([calm, [2.1]])) == pytest.approx(1 / 41)
    assert roughness(wild) == pytest.approx(1.0)
    assert np.isnan(spikes(np.ones(3))) and np.isnan(roughness(np.ones(1)))


def layers(record, lambdas, densities):
    rows = []
    for index, (lam, density) in enumerate(zip(lambdas, densities, strict=True)):
        block = f"layer1.{index}"
        rows += [
            {"layer": f"{block}.conv1", "density": density, "lambda": None},
            {"layer": f"{block}.interpolation1", "density": None, "lambda": lam},
            {"layer": f"{block}.conv3", "density": density / 2, "lambda": None},
            {"layer": f"{block}.interpolation2", "density": None, "lambda": 2 * lam},
        ]
    pd.DataFrame(rows).to_parquet(record.folder / "layers.parquet")


def test_figure_5_pairs_each_lambda_with_its_layer_s_sparsity(fabricated, tmp_path):
    record = add(fabricated, 0.5, 1.0, 1.0)
    layers(record, [3.0, 2.0, 1.0], [0.9, 0.5, 0.2])
    output = reports.build([fabricated.store.root], tmp_path, ["figure5"])[0]
    frame = pd.read_csv(tmp_path / "figure5-mini.csv").set_index("place")
    assert frame.loc["after conv1", "correlation"] == -1
    assert frame.loc["after conv1", "sparsity"] == pytest.approx(1 - 1.6 / 3)
    assert frame.loc["after conv2, conv3", "lambda"] == pytest.approx(4)
    assert {path.suffix for path in output.files} == {".png", ".svg", ".pdf", ".md", ".csv", ".tex"}


def test_figure_5_of_data_that_was_given_stands_apart_from_the_scenes(fabricated, tmp_path):
    for dataset in ("coco-mini-v4-seed0", "cells"):
        record = fabricated.add(
            "stochastic", 0.5, 1.0, parameters={"gamma": 1.0}, dataset=dataset, fingerprint=dataset[:4]
        )
        layers(record, [3.0, 2.0, 1.0], [0.9, 0.5, 0.2])
    reports.build([fabricated.store.root], tmp_path, ["figure5"])
    found = {
        name: set(pd.read_csv(tmp_path / f"{name}.csv")["dataset"]) for name in ("figure5-mini", "figure5-mini-data")
    }
    assert found == {"figure5-mini": {"coco-mini-v4-seed0"}, "figure5-mini-data": {"cells"}}


def test_figure_5_without_lambdas_says_what_to_run(fabricated, tmp_path):
    (output,) = reports.build([ablated(fabricated).store.root], tmp_path, ["figure5"])
    assert "saibench sweep coco --cells figure5" in output.text and output.files == []


def test_every_report_s_cells_are_found_by_its_name():
    names = {name for name, module in reports.available().items() if hasattr(module, "CELLS")}
    assert names >= {"table1", "table2", "table3", "figure3", "figure4", "figure5", "table4"}
    assert all(reports.cells([name]) for name in names)
    assert len(reports.cells(["all"])) == sum(len(reports.cells([name])) for name in names)
    with pytest.raises(reports.UsageError, match="no cells 'table9'; there are figure"):
        reports.cells(["table9"])


def test_methods_come_in_the_order_of_the_paper_and_then_by_kind(fabricated):
    fabricated.add("zebra", 0.5, 1.0, method_kind="method")
    fabricated.add("ant", 0.5, 1.0, method_kind="plug-in")
    fabricated.add("uniform", 0.5, 1.0)
    known = Results.read([fabricated.store.root]).methods
    assert known.order[:2] == ["dense", "stochastic"]
    assert known.rank("uniform") < known.rank("zebra") < known.rank("ant")
    assert (known.label("ant"), known.label("pfec"), known.kind("ant")) == ("Ant", "PFEC", "plug-in")
