"""The study's report: gaps at shares of the computation, and plain words where seeds or points are missing."""

import json

import pytest

from reports import resolution
from reports.base import Results
from tests.reports.conftest import Fabricated


def fill(store, pixels, side, lift, seeds, **changes):
    """Curves whose gap between stochastic and each other method is `lift` at every computation."""
    common = {
        "scale": "evidence", "dataset": f"coco-evidence-{pixels}px-period5-side{side}-0123abcd-v4-seed0",
        "fingerprint": f"f{pixels}", "overrides": json.dumps({"backbone": "mini", "train.steps": 300}),
    }  # fmt: skip
    for seed in seeds:
        store.add("dense", 0.6, 1.0, seed=seed, **common)
        for method, below in (("stochastic", 0.0), ("deterministic_gumbel", lift), ("relu_gating", 2 * lift)):
            for gamma, cost in ((0.1, 0.9), (0.5, 0.6), (2.5, 0.45)):
                score = 0.3 + 0.3 * cost - below + 0.001 * (seed % 3)
                store.add(method, score, cost, parameters={"gamma": gamma}, seed=seed, **common, **changes)
        store.add("uniform", 0.4, 0.25, parameters={"shorter_side": pixels // 2}, seed=seed, **common)


@pytest.fixture
def report(tmp_path):
    def build(*given):
        store = Fabricated(tmp_path / "store")
        for arguments in given:
            fill(store, *arguments)
        return resolution.build(Results.read([tmp_path / "store"]), tmp_path)

    return build


def rows(output, other, share):
    return [row for row in output.tables[0].rows if row["other"] == other and row["share"] == share]


def test_gaps_are_read_at_shares_of_the_dense_computation(report):
    output = report((128, 26, 0.01, range(6)), (256, 33, 0.03, range(6)))
    for share in resolution.SHARES:
        assert [row["gap"] for row in rows(output, "deterministic_gumbel", share)] == pytest.approx([1.0, 3.0])
        assert [row["positions"] for row in rows(output, "relu_gating", share)] == [26 / 16, 33 / 16]
        assert all(row["verdict"].startswith("better") for row in rows(output, "relu_gating", share))
    assert {path.suffix for path in output.files} >= {".png", ".svg", ".pdf", ".csv"}


def test_it_says_too_few_seeds_and_where_curves_do_not_reach(report):
    output = report((128, 26, 0.01, range(2)))
    assert "too few seeds to tell: 2 of 6" in rows(output, "deterministic_gumbel", 0.65)[0]["verdict"]
    (missing,) = rows(output, "uniform", 0.65)
    assert missing["gap"] is None and missing["verdict"] == "curves do not reach there"
    assert rows(output, "equal_interval", 0.5)[0]["seeds"] == 0


def test_networks_and_steps_are_lines_of_their_own(report, tmp_path):
    store = Fabricated(tmp_path / "store")
    fill(store, 128, 26, 0.01, [0])
    store.add("dense", 0.6, 1.0, scale="evidence", dataset="coco-evidence-128px-period5-side26-0123abcd-v4-seed0",
              fingerprint="f128", determinants={"n": 1200}, overrides=json.dumps({"train.steps": 1200}))  # fmt: skip
    output = resolution.build(Results.read([tmp_path / "store"]), tmp_path)
    assert {row["line"] for row in output.tables[0].rows} == {
        "period 5, network mini, 300 steps", "period 5, the scale's network, 1200 steps"
    }  # fmt: skip


def test_without_its_cells_it_says_how_to_make_them(tmp_path):
    store = Fabricated(tmp_path / "store")
    store.add("dense", 0.5, 1.0)
    assert "python studies/resolution.py" in resolution.build(Results.read([tmp_path / "store"]), tmp_path / "out").text
