"""``saibench compare``: cells found in the records, paired, and told in words."""

import json

import numpy as np
import pandas as pd
import pytest

import reports
from benchmark.errors import SaibenchError
from benchmark.metric import Metric, describe_metrics
from benchmark.stats import OUTCOMES
from reports.base import Results
from reports.comparison import comparisons, table
from reports.findings import winners
from tests.reports.conftest import Fabricated

IMAGES = 200


def with_images(record, share, seed):
    """Give a record outcomes and computation of single images that agree with its metric."""
    correct = np.arange(IMAGES) < round(share * IMAGES)
    names = [f"image{number}" for number in range(IMAGES)]
    pd.DataFrame({"image": names, "correct": correct}).to_parquet(record.folder / OUTCOMES)
    cost = round(1e9 * record.fields["gmacs_measured_mean"])
    shuffled = np.random.default_rng(seed).permutation(IMAGES)
    pd.DataFrame({"image_id": names, "macs_backbone": cost}).iloc[shuffled].to_parquet(record.folder / "images.parquet")


def compared(fabricated, *names, **where):
    return comparisons(Results.read([fabricated.store.root]), names, **where)


def test_six_seeds_tell_a_better_method(fabricated):
    fabricated.curves(seeds=range(6))
    (pair,) = compared(fabricated, "stochastic", "relu_gating")
    row = pair.row()
    assert row["verdict"] == "better" and row["seeds"] == [0, 1, 2, 3, 4, 5]
    assert row["gap_low"] <= row["gap"] <= row["gap_high"] and row["gap"] > 1  # points of AP, not shares
    assert compared(fabricated, "relu_gating", "stochastic")[0].result.verdict == "worse"


def test_images_are_paired_by_their_names_not_by_their_order(fabricated):
    for seed in range(2):
        for method in ("a", "b"):
            record = fabricated.add(method, 0.6, 2.0, task="imagenet", seed=seed)
            with_images(record, 0.6, seed + 10 * (method == "b"))
    (pair,) = compared(fabricated, "a", "b")
    assert pair.result.resampled == "images and seeds"
    assert pair.result.low == pair.result.high == 0


def test_every_two_methods_of_a_task_are_a_pair(fabricated):
    fabricated.curves().curves("imagenet")
    pairs = compared(fabricated, "stochastic", "uniform", "dense")
    assert len(pairs) == 6
    assert {pair.panel.task for pair in compared(fabricated, "stochastic", "uniform", task="coco")} == {"coco"}


def test_a_line_is_named_by_its_label(fabricated):
    fabricated.curves().perforated()
    assert len(compared(fabricated, "stochastic", "perforated")) == 3
    labels = {line.label for pair in compared(fabricated, "stochastic", "perforated") for line in (pair.a, pair.b)}
    one = next(label for label in labels if "grid" in label)
    assert len(compared(fabricated, "stochastic", one)) == 1


def test_nothing_to_compare_says_what_to_run(fabricated, run_cli):
    fabricated.add("dense", 0.5, 2.0)
    with pytest.raises(SaibenchError, match="saibench sweep coco --methods dense,mine"):
        compared(fabricated, "dense", "mine")
    code, _, said = run_cli("compare", "dense", "mine", "--store", fabricated.store.root)
    assert code == 1 and "no finished cells of mine" in said
    assert run_cli("compare", "dense", "--store", fabricated.store.root)[0] == 2


def test_the_command_prints_a_table_or_json(fabricated, run_cli):
    fabricated.curves(seeds=(0, 1))
    code, printed, _ = run_cli("compare", "stochastic", "uniform", "--store", fabricated.store.root)
    assert code == 0 and "not distinguishable" in printed and "too few seeds to tell: 2 of 6" in printed
    code, printed, _ = run_cli("compare", "stochastic", "uniform", "--store", fabricated.store.root, "--json")
    (row,) = json.loads(printed)
    assert row["a"] != row["b"] and row["p"] is None and row["gap"] > 0


def test_the_table_shows_what_was_refused(fabricated):
    fabricated.curves()
    text = table(compared(fabricated, "stochastic", "smaller_backbone")).markdown()
    assert "single point" in text and "too few seeds to tell" in text


@pytest.mark.parametrize("name", [OUTCOMES, "images.parquet"])
def test_a_truncated_table_of_a_record_is_one_line_that_names_it(fabricated, run_cli, name):
    for method in ("a", "b"):
        with_images(fabricated.add(method, 0.6, 2.0, task="imagenet"), 0.6, 0)
    torn = next(fabricated.store.root.glob(f"imagenet/mini/a/*/{name}"))
    torn.write_bytes(torn.read_bytes()[:50])
    code, _, err = run_cli("compare", "a", "b", "--store", fabricated.store.root)
    assert code == 1 and f"{torn}: cannot be read" in err and len(err.splitlines()) == 1


def in_errors(fabricated, tasks_metric="top1"):
    """Turn the curves' scores into errors of the same records: 1 - score, the lower the better."""
    said = describe_metrics([Metric(tasks_metric, "error", higher_is_better=False, scale=100.0, unit="%")])
    for method, (parameter, values, costs, losses) in fabricated.methods.items():
        for value, cost, loss in zip(values, costs, losses, strict=True):
            for seed in range(6):
                fabricated.add(
                    method, 0.5 + loss - 0.004 * (seed % 3 - 1), cost * 2.0 * (1 + 0.01 * seed), "imagenet",
                    {parameter: value} if parameter else {}, seed, metrics=said,
                )  # fmt: skip
    return fabricated


def test_a_metric_that_is_better_when_lower_is_turned_round_everywhere(fabricated, tmp_path):
    in_errors(fabricated)
    accuracies = Fabricated(tmp_path / "accuracies").curves("imagenet", seeds=range(6))
    for a, b in (("stochastic", "relu_gating"), ("uniform", "stochastic"), ("deterministic_gumbel", "checkerboard")):
        (error,), (accuracy,) = (compared(each, a, b) for each in (fabricated, accuracies))
        assert error.result.verdict == accuracy.result.verdict
        row, other = error.row(), accuracy.row()
        # The gap is told in the metric's own direction: fewer errors are a gap below 0.
        assert row["gap"] == pytest.approx(-other["gap"]) and row["gap_low"] <= row["gap"] <= row["gap_high"]
        assert row["rate"] == (None if other["rate"] is None else pytest.approx(other["rate"]))
        fronts = [each.panel.cells.set_index(["method", "setting", "seed"])["front"] for each in (error, accuracy)]
        assert fronts[0].sort_index().equals(fronts[1].sort_index()) and fronts[0].any()
    assert error.panel.metric.title == "error (%)"


def test_reports_print_an_errors_own_values(fabricated, tmp_path):
    in_errors(fabricated)
    outputs = {each.name: each for each in reports.build([fabricated.store.root], tmp_path / "out", ["figure4"])}
    lines = outputs["figure4"].text.splitlines()
    dense = next(line for line in lines if line.startswith("| Dense"))
    assert " 50.4 |" in dense and "-50" not in outputs["figure4"].text


def test_the_winner_has_the_lowest_error(fabricated):
    text = winners(Results.read([in_errors(fabricated).store.root]))
    row = next(line for line in text.splitlines() if line.startswith("| 0.35 |"))
    assert row.split("|")[2].strip() == "Stochastic sampling"
