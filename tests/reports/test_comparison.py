"""``saibench compare``: cells found in the records, paired, and told in words."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmark.errors import SaibenchError
from benchmark.stats import OUTCOMES
from reports.base import Results
from reports.comparison import comparisons, table

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
