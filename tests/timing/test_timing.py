"""The timer's report: its shape and arithmetic, on a network of a few layers. No time is asserted."""

import json

import numpy as np
import pytest

from benchmark import timing
from benchmark.engines import EngineUnavailable, find
from benchmark.errors import UsageError
from benchmark.nn import Masks, build_backbone, interpolation, residual_blocks
from benchmark.timing.networks import break_even
from reports import table5
from reports.base import Results

try:
    find().max_threads()
except EngineUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture(scope="module")
def report():
    steps = []
    model = build_backbone("mini_small")
    for block in residual_blocks(model):
        block.adapt(Masks.gumbel(), interpolation.rbf())
    images = [(name, np.zeros((3, 64, 64), np.float32)) for name in ("a", "b")]
    report = timing.run(
        "mini_small",
        (64, 96),
        [0.25, 1.0],
        peers=["torch"],
        rounds=2,
        threads=1,
        cell=(model, images, 3),
        progress=lambda done, total, what: steps.append((done, total)),
    )
    assert steps == [(i, len(steps)) for i in range(len(steps))]
    return report


def test_every_density_is_a_row_beside_the_dense_one(report):
    rows = [row for row in report["backbone"] if not row["deformable"]]
    assert [row["density"] for row in rows] == [None, 1.0, 0.493, 0.357, 0.264, 0.25, 0.182]
    assert {tuple(row) for row in report["backbone"]} == {tuple(rows[0])}
    for row in rows[1:]:
        assert row["share"] == pytest.approx(row["speedup"] / row["speedup_theoretical"])
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        assert row["gmacs"] > 0 and row["rounds"] == 2
    assert {row["gamma"] for row in rows[1:]} == {None, 0.02, 0.05, 0.1, 0.2}
    assert any(row["deformable"] for row in report["backbone"])


def test_peers_compute_the_same(report):
    (peer,) = report["peers"]
    assert peer["relative_difference"] < 1e-4
    assert peer["seconds"] > 0


def test_a_cell_is_timed_on_its_own_masks(report):
    rows = report["cell"]["images"]
    assert [row["image"] for row in rows] == ["a", "b"]
    assert all(0 < row["density"] <= 1 for row in rows)
    assert report["cell"]["share"] == pytest.approx(report["cell"]["speedup"] / report["cell"]["speedup_measured_macs"])


def test_a_report_is_kept_and_becomes_table_5(report, tmp_path):
    path = timing.save(report, tmp_path)
    assert json.loads(path.read_text()) == json.loads(json.dumps(report))
    (path.parent / "broken.json").write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    output = table5.build(Results([tmp_path], [], []), out)
    assert "measured here" in output.text and "E5-2650 v2" in output.text
    assert {file.suffix for file in output.files} == {".md", ".csv", ".tex", ".png", ".svg", ".pdf"}
    assert "broken.json" in output.warnings[0]


def test_no_timings_say_what_makes_them(tmp_path):
    assert "saibench time" in table5.build(Results([tmp_path], [], []), tmp_path).text


@pytest.mark.parametrize(
    "wrong", [{"densities": [0.0]}, {"densities": [1.5]}, {"rounds": 0}, {"size": (16, 64)}, {"peers": ["tvm"]}]
)
def test_what_cannot_be_timed_is_refused(wrong):
    with pytest.raises(UsageError):
        timing.run("mini_small", **wrong)


@pytest.mark.parametrize(
    ("ratios", "density"),
    [
        ([(0.2, 3.0), (0.5, 1.5), (1.0, 0.5)], 0.75),
        ([(0.2, 3.0), (0.5, 1.5)], 0.5),
        ([(0.2, 0.9), (0.5, 1.5)], None),
    ],
)
def test_break_even_lies_where_the_ratio_crosses_one(ratios, density):
    assert break_even(ratios) == density
