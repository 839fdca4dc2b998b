"""The claims' scorer against its own prose, on made-up records for which the answer is known."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmark.stats import Measured
from reports.base import Results
from reports.claims import CLAIMS, check
from reports.evidence import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_RUN,
    REPRODUCED,
    STATUSES,
    Finding,
    combine,
    limited,
    signed,
    similar,
)

GAMMAS = (0.02, 0.05, 0.1, 0.2)
COSTS = (0.60, 0.45, 0.33, 0.25)


def found(fabricated, number):
    checked = check(Results.read([fabricated.store.root]))
    return next(each for each in checked if each.claim.number == number)


def status(fabricated, number):
    return found(fabricated, number).finding.status


def curve(fabricated, method, losses, task="coco", seeds=6, costs=COSTS, **parameters):
    """Add a method's curve that loses so much against a dense 0.5 at cost 1, with a little noise of the seed."""
    for seed in range(seeds):
        for gamma, loss, cost in zip(GAMMAS, losses, costs, strict=True):
            noise = 0.0005 * ((seed * 7 + int(gamma * 100)) % 5 - 2)
            fabricated.add(method, 0.5 - loss + noise, cost, task, {"gamma": gamma, **parameters}, seed)


def point(fabricated, method, score, cost, task="coco", seeds=6, **parameters):
    for seed in range(seeds):
        fabricated.add(method, score + 0.0005 * (seed % 3 - 1), cost, task, parameters, seed)


def test_an_empty_store_has_run_nothing_and_says_what_to_run(fabricated):
    fabricated.store.root.mkdir(parents=True)
    rows = [checked.row() for checked in check(Results.read([fabricated.store.root]))]
    assert [row["claim"] for row in rows] == list(range(1, 18))
    assert {row["status"] for row in rows} == {NOT_RUN}
    assert all("saibench " in row["settle"] and row["paper"] for row in rows)


@pytest.mark.parametrize(
    ("loss", "expected"), [(-0.01, REPRODUCED), (0.02, CONTRADICTED), (0.001, INCONCLUSIVE)]
)  # fmt: skip
def test_claim_1_holds_a_loss_against_its_limit(fabricated, loss, expected):
    point(fabricated, "dense", 0.5, 1.0)
    curve(fabricated, "stochastic", [loss] * 4)
    assert status(fabricated, 1) == expected


def test_below_three_seeds_a_limit_is_not_judged(fabricated):
    point(fabricated, "dense", 0.5, 1.0, seeds=2)
    curve(fabricated, "stochastic", [-0.05] * 4, seeds=2)
    checked = found(fabricated, 1)
    assert checked.finding.status == INCONCLUSIVE and "too few seeds to tell: 2 of 3" in checked.finding.text
    assert checked.row()["settle"].startswith("more seeds: saibench sweep coco")


def test_claim_2_wants_the_order_and_the_low_end(fabricated):
    curve(fabricated, "stochastic", [0.00, 0.01, 0.02, 0.03])
    curve(fabricated, "deterministic_gumbel", [0.01, 0.03, 0.05, 0.08])
    curve(fabricated, "relu_gating", [0.02, 0.05, 0.09, 0.15])
    assert status(fabricated, 2) == REPRODUCED


def test_claim_2_is_contradicted_by_one_wrong_order(fabricated):
    curve(fabricated, "stochastic", [0.00, 0.01, 0.02, 0.03])
    curve(fabricated, "deterministic_gumbel", [0.02, 0.05, 0.09, 0.15])
    curve(fabricated, "relu_gating", [0.01, 0.03, 0.05, 0.08])
    assert status(fabricated, 2) == CONTRADICTED


@pytest.mark.parametrize(("seeds", "expected"), [(6, REPRODUCED), (5, INCONCLUSIVE)])
def test_claim_3_takes_six_seeds(fabricated, seeds, expected):
    curve(fabricated, "stochastic", [0.00, 0.01, 0.02, 0.03], seeds=seeds)
    curve(fabricated, "uniform", [0.02, 0.05, 0.09, 0.15], seeds=seeds)
    assert status(fabricated, 3) == expected


def test_claim_3_is_contradicted_as_plainly(fabricated):
    curve(fabricated, "stochastic", [0.02, 0.05, 0.09, 0.15])
    curve(fabricated, "uniform", [0.00, 0.01, 0.02, 0.03])
    checked = found(fabricated, 3)
    assert checked.finding.status == CONTRADICTED and checked.row()["settle"] == ""


@pytest.mark.parametrize(("score", "expected"), [(0.48, REPRODUCED), (0.40, CONTRADICTED), (0.47, INCONCLUSIVE)])
def test_claim_4_is_a_similarity(fabricated, score, expected):
    curve(fabricated, "uniform", [0.0, 0.01, 0.02, 0.03])
    point(fabricated, "equal_interval", score, 0.33, stride=2)
    assert status(fabricated, 4) == expected


def test_claim_6_compares_computation_at_equal_accuracy_only(fabricated):
    for fill, score, cost in (("rbf", 0.45, 0.3), ("convolution", 0.451, 0.35), ("average", 0.449, 0.36)):
        point(fabricated, "stochastic", score, cost, fill=fill, gamma=0.1)
    assert status(fabricated, 6) == REPRODUCED


def test_claim_6_is_inconclusive_where_accuracies_differ(fabricated):
    for fill, score in (("rbf", 0.45), ("convolution", 0.40), ("average", 0.449)):
        point(fabricated, "stochastic", score, 0.3, fill=fill, gamma=0.1)
    checked = found(fabricated, 6)
    assert checked.finding.status == INCONCLUSIVE and "too much to be equal" in checked.finding.text


@pytest.mark.parametrize(("cost", "expected"), [(0.35, REPRODUCED), (0.42, CONTRADICTED)])
def test_claim_6_reads_another_kernels_curve_where_no_row_is_as_accurate(fabricated, cost, expected):
    """The other kernels reach RBF's 0.45 halfway, in logarithms, between 0.3 and 0.5 GMACs: at 0.387."""
    point(fabricated, "stochastic", 0.45, cost, fill="rbf", gamma=0.1)
    for fill in ("convolution", "average"):
        for gamma, score, there in ((0.1, 0.47, 0.5), (0.2, 0.43, 0.3)):
            point(fabricated, "stochastic", score, there, fill=fill, gamma=gamma)
    checked = found(fabricated, 6)
    assert checked.finding.status == expected
    assert f"{100 * ((0.3 * 0.5) ** 0.5 / cost - 1):+.2f} [" in checked.finding.text


def test_claim_6_is_inconclusive_where_another_kernels_curve_ends_below_its_accuracy(fabricated):
    point(fabricated, "stochastic", 0.45, 0.3, fill="rbf", gamma=0.1)
    for fill in ("convolution", "average"):
        for gamma, score, there in ((0.1, 0.44, 0.5), (0.2, 0.43, 0.3)):
            point(fabricated, "stochastic", score, there, fill=fill, gamma=gamma)
    checked = found(fabricated, 6)
    assert checked.finding.status == INCONCLUSIVE and "too much to be equal" in checked.finding.text
    assert "rows that are equal" in checked.row()["settle"]


@pytest.mark.parametrize(
    ("score", "cost", "expected"), [(0.44, 0.4, REPRODUCED), (0.47, 0.2, CONTRADICTED), (0.47, 0.4, INCONCLUSIVE)]
)
def test_claim_7_beats_in_one_and_is_not_worse_in_the_other(fabricated, score, cost, expected):
    point(fabricated, "stochastic", 0.45, 0.3, fill="rbf", gamma=0.1)
    for fill in ("zeros", "reuse"):
        point(fabricated, "stochastic", score, cost, fill=fill, gamma=0.1)
    assert status(fabricated, 7) == expected


@pytest.mark.parametrize(("jump", "expected"), [(10.0, REPRODUCED), (1.0, INCONCLUSIVE)])
def test_claim_8_wants_loss_curves_that_jump(fabricated, jump, expected):
    for stride, height in ((3, 1.0), (5, 1.0), (7, jump), (0, jump)):
        for seed in range(3):
            losses = np.ones(100)
            losses[60] = height
            chosen = {"grid_stride": stride, "gamma": 0.1}
            record = fabricated.add("stochastic", 0.45, 0.3, parameters=chosen, seed=seed)
            pd.DataFrame({"step": range(100), "loss": losses}).to_parquet(record.folder / "losses.parquet")
    for gamma in GAMMAS[:2]:  # what makes a stride of 5 the usual one
        point(fabricated, "stochastic", 0.45, 0.3, grid_stride=5, gamma=gamma)
    assert status(fabricated, 8) == expected


def test_claim_9_compares_whole_curves_of_placements(fabricated):
    for masks, worse in ((1, 0.03), (2, 0.0), (3, 0.02)):
        curve(fabricated, "stochastic", [worse + 0.01 * place for place in range(4)], masks_per_block=masks)
    for gamma in (0.3, 0.4):
        point(fabricated, "stochastic", 0.3, 0.2, gamma=gamma, masks_per_block=2)
    assert status(fabricated, 9) == REPRODUCED


def test_claims_of_other_tasks_look_at_their_own_records(fabricated):
    point(fabricated, "dense", 0.5, 1.0, "cityscapes")
    curve(fabricated, "stochastic", [0.0, 0.0, 0.001, 0.002], "cityscapes")
    curve(fabricated, "deterministic_gumbel", [0.02, 0.03, 0.04, 0.05], "cityscapes")
    curve(fabricated, "uniform", [0.03, 0.04, 0.05, 0.06], "cityscapes")
    assert (status(fabricated, 10), status(fabricated, 16), status(fabricated, 1)) == (REPRODUCED, REPRODUCED, NOT_RUN)


def test_claims_11_and_12_on_imagenet(fabricated):
    curve(fabricated, "stochastic", [0.0, 0.001, 0.002, 0.003], "imagenet")
    curve(fabricated, "stochastic_without_interpolation", [0.0, 0.001, 0.002, 0.003], "imagenet")
    for method, loss in (("lccl", 0.001), ("pfec", 0.003), ("sfp", 0.02), ("fpgm", 0.03)):
        point(fabricated, method, 0.5 - loss, 0.4, "imagenet")
    assert (status(fabricated, 11), status(fabricated, 12)) == (REPRODUCED, REPRODUCED)


def lambdas(fabricated, task, rising, seeds=(0, 1, 2)):
    for seed in seeds:
        record = fabricated.add("stochastic", 0.5, 1.0, task, {"gamma": 0.1}, seed)
        rows = []
        for index, sparsity in enumerate((0.1, 0.4, 0.6, 0.9)):
            for place, conv in ((1, "conv1"), (2, "conv3")):
                lam = {True: sparsity, False: 1 - sparsity, None: (0.5, 0.9, 0.4, 0.6)[index]}[rising]
                rows.append({"layer": f"b{index}.{conv}", "density": 1 - sparsity, "lambda": None})
                rows.append({"layer": f"b{index}.interpolation{place}", "density": None, "lambda": lam + place})
        pd.DataFrame(rows).to_parquet(record.folder / "layers.parquet")


@pytest.mark.parametrize(("rising", "expected"), [(False, REPRODUCED), (True, CONTRADICTED)])
def test_claim_13_wants_lambda_to_fall_in_two_tasks_and_not_in_the_third(fabricated, rising, expected):
    lambdas(fabricated, "coco", rising)
    lambdas(fabricated, "cityscapes", False)
    lambdas(fabricated, "imagenet", None)
    assert status(fabricated, 13) == expected


def test_claim_13_stays_open_where_seeds_disagree_and_says_what_it_lacks(fabricated):
    for task, rising in (("coco", False), ("cityscapes", False), ("imagenet", None)):
        lambdas(fabricated, task, rising, seeds=(0, 1))
        lambdas(fabricated, task, {False: True}.get(rising), seeds=(2,))
    checked = found(fabricated, 13)
    assert checked.finding.status == INCONCLUSIVE
    assert checked.row()["settle"].startswith("more seeds or more images")


def timing(fabricated, cpu, seconds, speedups, isa="avx2", size=64):
    every = {"backbone": "resnet50", "deformable": False, "seconds_iqr": 0.01, "gmacs": 1.0}
    rows = [every | {"density": None, "gamma": None, "seconds": seconds, "speedup": None}]
    for gamma, (speedup, theory) in speedups.items():
        rows.append(every | {
            "density": 0.3, "gamma": gamma, "seconds": seconds / speedup, "speedup": speedup,
            "speedup_low": speedup - 0.05, "speedup_high": speedup + 0.05, "speedup_theoretical": theory,
            "share": speedup / theory,
        })  # fmt: skip
    folder = fabricated.store.root / "timing"
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "machine": {"cpu": cpu, "threads": 2, "instruction_set": isa, "finished": "2026"},
        "settings": {"backbone": "resnet50", "height": size, "width": size}, "backbone": rows, "peers": [],
        "break_even": [],
    }  # fmt: skip
    (folder / f"{cpu}-{isa}.json").write_text(json.dumps(run))


@pytest.mark.parametrize(
    ("speedup", "expected"), [(1.5, REPRODUCED), (0.8, CONTRADICTED), (1.9, CONTRADICTED), (1.02, INCONCLUSIVE)]
)
def test_claim_14_wants_speed_ups_between_one_and_theory(fabricated, speedup, expected):
    timing(fabricated, "fast", 1.0, {0.02: (speedup, 1.8), 0.05: (1.7, 2.4)})
    assert (status(fabricated, 14), status(fabricated, 17)) == (expected, NOT_RUN)


def test_an_open_claim_about_times_asks_for_rounds(fabricated):
    timing(fabricated, "fast", 1.0, {0.02: (1.02, 1.8)})
    (row,) = (each.row() for each in check(Results.read([fabricated.store.root])) if each.claim.number == 14)
    assert row["settle"] == "more rounds, for a narrower interval: saibench time --size full --rounds 15"


def test_claim_14_is_about_the_largest_image_timed(fabricated):
    timing(fabricated, "fast", 1.0, {0.05: (1.7, 2.4)}, "avx512", size=128)
    timing(fabricated, "fast", 1.0, {0.05: (0.8, 2.4)}, "avx2", size=64)
    assert status(fabricated, 14) == REPRODUCED


def test_an_instruction_set_that_was_forced_is_timed_for_claim_14_and_is_no_other_machine(fabricated):
    timing(fabricated, "fast", 1.0, {0.05: (1.7, 2.4)}, "avx512")
    timing(fabricated, "fast", 3.0, {0.05: (0.8, 2.4)}, "avx2")
    assert (status(fabricated, 14), status(fabricated, 17)) == (CONTRADICTED, NOT_RUN)


@pytest.mark.parametrize(("share", "expected"), [(0.9, REPRODUCED), (0.5, CONTRADICTED)])
def test_claim_17_wants_the_slower_machine_nearer_to_theory(fabricated, share, expected):
    timing(fabricated, "fast", 1.0, {0.05: (0.7 * 2.4, 2.4)})
    timing(fabricated, "slow", 3.0, {0.05: (share * 2.4, 2.4)})
    assert status(fabricated, 17) == expected


@pytest.mark.parametrize(("density", "expected"), [(0.2, REPRODUCED), (0.6, CONTRADICTED)])
def test_claim_15_looks_for_the_sparsest_cell(fabricated, density, expected):
    fabricated.add("stochastic", 0.4, 1.0, density_mean=density)
    assert status(fabricated, 15) == expected


@pytest.mark.parametrize(("seeds", "judged", "told"), [(6, "paper", "mini"), (1, "mini", "paper")])
def test_the_largest_scale_with_enough_seeds_is_judged_and_the_others_are_told(fabricated, seeds, judged, told):
    for scale, worse, count in (("mini", 0.05, 6), ("paper", -0.05, seeds)):
        for seed in range(count):
            for gamma, cost in zip(GAMMAS, COSTS, strict=True):
                common = {"parameters": {"gamma": gamma}, "seed": seed, "scale": scale}
                fabricated.add("stochastic", 0.5 - worse + seed / 5000, cost, **common)
                fabricated.add("uniform", 0.5 + seed / 9000, cost, **common)
    checked = found(fabricated, 3)
    expected = {"paper": REPRODUCED if seeds == 6 else INCONCLUSIVE, "mini": CONTRADICTED}
    assert checked.finding.status == expected[judged] and f"scale {judged}" in checked.where
    assert any(f"scale {told}" in line and expected[told] in line for line in checked.others)


def measured(low, high, seeds=3):
    return Measured((low + high) / 2, low, high, [0.0] * seeds, list(range(seeds)), "seeds")


def test_the_rules_are_those_of_the_prose():
    assert [limited("", measured(*bounds), 0.1).status for bounds in ((0, 0.1), (0.11, 0.2), (0.05, 0.2))] == [
        REPRODUCED, CONTRADICTED, INCONCLUSIVE,
    ]  # fmt: skip
    assert [similar("", measured(*b), 0.1).status for b in ((-0.1, 0.1), (0.11, 0.2), (-0.3, -0.2), (0, 0.2))] == [
        REPRODUCED, CONTRADICTED, CONTRADICTED, INCONCLUSIVE,
    ]  # fmt: skip
    assert [signed("", measured(*b)).status for b in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))] == [
        REPRODUCED, CONTRADICTED, INCONCLUSIVE,
    ]  # fmt: skip
    assert signed("", measured(0.1, 0.2, seeds=2)).status == INCONCLUSIVE


def test_the_numbers_of_a_claim_say_what_they_mean_for_it():
    texts = [similar("A minus B", measured(*b), 0.1).text for b in ((-0.1, 0.1), (0.11, 0.2), (0, 0.2))]
    assert [text.split("points, ")[1] for text in texts] == [
        "similar: within ±10", "not similar: beyond ±10", "similar would be within ±10",
    ]  # fmt: skip
    texts = [limited("loss", measured(*b), 0.1).text for b in ((0, 0.1), (0.11, 0.2), (0.05, 0.2))]
    assert [text.split("points, ")[1] for text in texts] == [
        "at most the claimed 10", "more than the claimed 10", "claimed at most 10",
    ]  # fmt: skip


def test_a_claim_of_several_parts_is_reproduced_where_all_are_and_contradicted_where_one_is():
    parts = {status: Finding(status, status, 3) for status in STATUSES}
    assert combine([parts[REPRODUCED]] * 2).status == REPRODUCED
    assert combine([parts[REPRODUCED], parts[INCONCLUSIVE]]).status == INCONCLUSIVE
    assert combine([parts[INCONCLUSIVE], parts[NOT_RUN]]).status == NOT_RUN
    assert combine([parts[NOT_RUN], parts[CONTRADICTED]]).status == CONTRADICTED


UNEQUAL = (("rbf", 0.45), ("convolution", 0.40), ("average", 0.449))


@pytest.mark.parametrize(
    ("fill", "number", "remedy"),
    [
        (lambda f: [curve(f, m, [0.0] * 4, seeds=2) for m in ("stochastic", "uniform")], 3, "more seeds: "),
        (lambda f: [curve(f, m, [0.0] * 4) for m in ("stochastic", "uniform")], 3, "more seeds or more images"),
        (
            lambda f: [curve(f, "stochastic", [0.0] * 4), point(f, "smaller_backbone", 0.4, 0.9)], 5,
            "points of both at one computation",
        ),
        (lambda f: [point(f, "stochastic", s, 0.3, fill=k, gamma=0.1) for k, s in UNEQUAL], 6, "rows that are equal"),
    ],
)  # fmt: skip
def test_what_would_settle_an_open_claim_is_what_it_lacks(fabricated, fill, number, remedy):
    fill(fabricated)
    checked = found(fabricated, number)
    assert checked.finding.status == INCONCLUSIVE and remedy in checked.row()["settle"]
    assert ": saibench sweep coco" in checked.row()["settle"]


def test_claim_7_takes_six_seeds(fabricated):
    for fill, score, cost in (("rbf", 0.45, 0.3), ("zeros", 0.44, 0.4), ("reuse", 0.44, 0.4)):
        point(fabricated, "stochastic", score, cost, seeds=5, fill=fill, gamma=0.1)
    checked = found(fabricated, 7)
    assert checked.finding.status == INCONCLUSIVE and checked.row()["settle"].startswith("more seeds: ")


@pytest.mark.parametrize(("score", "expected"), [(0.44, REPRODUCED), (0.48, CONTRADICTED), (0.46, INCONCLUSIVE)])
def test_claim_7_reads_its_curve_where_accuracy_was_bought_with_computation(fabricated, score, expected):
    """Its curve has 0.46 halfway, in logarithms, between its points at 0.33 (0.45) and at 0.45 (0.47)."""
    curve(fabricated, "stochastic", [0.02, 0.03, 0.05, 0.08], fill="rbf")
    for fill in ("zeros", "reuse"):
        point(fabricated, "stochastic", score, (0.33 * 0.45) ** 0.5, fill=fill, gamma=0.1)
    checked = found(fabricated, 7)
    assert checked.finding.status == expected
    if score > 0.45:
        assert "at its computation, by our curve" in checked.finding.text


def test_the_command_prints_every_claim(fabricated, run_cli):
    fabricated.curves()
    code, printed, _ = run_cli("claims", "--store", fabricated.store.root, "--json")
    assert code == 0 and [row["claim"] for row in json.loads(printed)] == [claim.number for claim in CLAIMS]
    code, printed, _ = run_cli("claims", "--store", fabricated.store.root)
    assert code == 0 and "inconclusive" in printed and "not run" in printed
