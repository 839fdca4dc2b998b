"""The sentences of docs/results.md follow from the records: made-up stores for which the answer is known."""

import pytest

from benchmark.errors import DataError
from reports import findings
from reports.base import Results

GAMMAS = ((0.02, 0.95), (0.05, 0.6), (0.1, 0.45), (0.2, 0.3))


def results(fabricated):
    return Results.read([fabricated.store.root])


def curve(fabricated, method, loss, seeds, noise=0.0005, task="coco", **changes):
    for seed in range(seeds):
        for gamma, cost in GAMMAS:
            shift = noise * ((seed * (5 if method == "uniform" else 3) + int(100 * gamma)) % 7 - 3)
            parameters = {"gamma": gamma}
            fabricated.add(method, 0.5 - loss * (1 - cost) + shift, cost, task, parameters, seed, **changes)


def dense(fabricated, seeds, task="coco", score=0.5, **changes):
    for seed in range(seeds):
        fabricated.add("dense", score, 1.0, task, seed=seed, **changes)


@pytest.mark.parametrize(
    ("seeds", "noise", "said"),
    [
        (6, 0.0005, "distinguishable, p = 0.0312 |"),
        (6, 0.05, "not distinguishable, p = "),
        (1, 0.0005, "too few seeds to tell: 1 of 6 |"),
    ],
)
def test_the_highest_method_is_named_with_its_gap_and_whether_it_is_told_apart(fabricated, seeds, noise, said):
    dense(fabricated, seeds)
    curve(fabricated, "stochastic", 0.10, seeds, noise)
    curve(fabricated, "uniform", 0.12, seeds, noise)
    lines = findings.winners(results(fabricated)).splitlines()
    row = next(line for line in lines if line.startswith("| 0.5 "))
    assert said in row and f"| {seeds} |" in row
    if noise < 0.01:
        assert row.startswith("| 0.5 | Stochastic sampling | 90.") and "| Uniform (resolution) | +1.0" in row


def test_a_share_that_no_other_curve_reaches_has_no_gap(fabricated):
    dense(fabricated, 1)
    curve(fabricated, "stochastic", 0.1, 1)
    text = findings.winners(results(fabricated))
    assert "| 0.7 | Stochastic sampling | 9" in text and "no other method's curve reaches it" in text


def test_each_step_of_a_curve_falls_or_rises_or_is_within_its_interval(fabricated):
    """At the last step, the seeds of one method lose alike, those of one gain alike, and those of one disagree."""
    losses = {
        "stochastic": [(0.00, 0.03, 0.06, 0.09)] * 3,
        "relu_gating": [(0.00, 0.03, 0.06, 0.04)] * 3,
        "uniform": [(0.00, 0.03, 0.06, 0.03), (0.00, 0.03, 0.06, 0.09), (0.00, 0.03, 0.06, 0.05)],
    }
    for method, seeds in losses.items():
        for seed, along in enumerate(seeds):
            for (gamma, cost), loss in zip(GAMMAS, along, strict=True):
                fabricated.add(method, 0.5 - loss, cost, "coco", {"gamma": gamma}, seed)
    dense(fabricated, 3)
    row = findings.falls(results(fabricated)).splitlines()[-1]
    assert "| 3 | 9 | 7 | 1 | 1 |" in row
    assert row.endswith("| ReLU gating, to γ = 0.2: +2.0 [+2.0, +2.0] |")


def test_a_curve_that_computes_more_with_its_parameter_is_followed_downwards(fabricated):
    for budget, score in ((0.25, 0.40), (0.5, 0.45), (0.75, 0.49)):
        for seed in range(3):
            fabricated.add("dynconv", score, budget, "coco", {"budget": budget}, seed)
    row = findings.falls(results(fabricated)).splitlines()[-1]
    assert "| 1 | 2 | 2 | 0 | 0 | – |" in row


def test_single_points_have_no_steps(fabricated):
    dense(fabricated, 2)
    fabricated.add("smaller_backbone", 0.4, 0.5)
    assert findings.falls(results(fabricated)) == "Not run: `saibench sweep coco`."


def test_every_real_set_stands_beside_its_reported_value_run_or_not(fabricated):
    for seed, score in enumerate((0.88, 0.90, 0.92)):
        fabricated.add("dense", score, 1.0, "imagenet", seed=seed, dataset="imagenette-160", scale="small")
    text = findings.real(results(fabricated))
    row = next(line for line in text.splitlines() if "imagenette-160" in line)
    assert ", scale small | top1 | 90.0 [88." in row and "| 3 | 93.55 |" in row
    assert "not run: `saibench sweep coco --data bccd-coco --from-scratch --methods dense --seeds 0,1,2`" in text
    assert len(text.splitlines()) == 2 + len(findings.reported())


def test_a_broken_file_of_reported_values_is_one_line(tmp_path):
    (tmp_path / "real.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="real.csv: columns are a, b; expected task, dataset"):
        findings.reported(tmp_path / "real.csv")


def orders(fabricated, seeds=3, **changes):
    for place, method in enumerate(("stochastic", "deterministic_gumbel", "relu_gating", "uniform", "random")):
        curve(fabricated, method, 0.10 + 0.03 * place, seeds, **changes)


def test_orders_of_two_data_sets_and_of_the_paper_are_compared(fabricated):
    orders(fabricated)
    orders(fabricated, dataset="bccd-coco", fingerprint="beef")
    text = findings.ranks(results(fabricated))
    between = next(line for line in text.splitlines() if "bccd-coco" in line and "embedded" in line)
    assert "| 5 methods | +1.00 [+1.00, +1.00] | the orders agree more than by chance |" in between
    assert "| the paper's order | 4 pairs of 5 stated | +1.00 [+1.00, +1.00] |" in text


def test_one_seed_tells_no_order(fabricated):
    orders(fabricated, seeds=1)
    assert "too few seeds to tell: 1 of 3" in findings.ranks(results(fabricated))


def test_what_can_be_seen_is_counted(fabricated):
    dense(fabricated, 6)
    orders(fabricated, seeds=6)
    row = findings.limits(results(fabricated)).splitlines()[-1]
    assert row.startswith("| coco: embedded, scale mini | 6 | 0.30 | 4 of 4 | ± 0.0")


def test_each_claim_has_its_status_evidence_numbers_and_remedy(fabricated):
    curve(fabricated, "stochastic", 0.1, 6)
    curve(fabricated, "uniform", 0.2, 6)
    text = findings.claims(results(fabricated))
    assert text.startswith("Of the paper's 17 claims: ")
    third = text[text.index("- **3. ") :].split("\n\n")[0]
    assert "*Reproduced* (coco, embedded, scale mini, 6 seeds)" in third and "  - The paper: Figure 4(a)" in third
    assert "`saibench sweep coco --cells table2 --seeds 0,1,2,3,4,5`" in text
    assert text.count("To settle it: ") == 15  # all but the first and the third


def test_an_empty_store_says_what_to_run(fabricated):
    fabricated.store.root.mkdir(parents=True)
    empty = results(fabricated)
    for block in (findings.winners, findings.ranks, findings.limits):
        assert block(empty) == "Not run: `saibench sweep coco`."
    assert findings.real(empty).count("not run: ") == len(findings.reported())
    assert "17 not run" in findings.claims(empty)
