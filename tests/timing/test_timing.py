"""The timer's report: its shape and arithmetic, on a network of a few layers. No time is asserted."""

import json
import sys
from math import comb

import numpy as np
import pytest

from benchmark import timing
from benchmark.cells import Request, execute, plan
from benchmark.cli import main
from benchmark.cli.commands import time as time_command
from benchmark.engines import EngineUnavailable, find
from benchmark.errors import UsageError
from benchmark.nn import Masks, build_backbone, interpolation, residual_blocks
from benchmark.store import Store
from benchmark.timing.clock import BETWEEN, UNSTEADY, Variant, disagreement, median_interval, middle_parts
from benchmark.timing.energy import NOT_EXPOSED, Meter
from benchmark.timing.networks import break_even
from reports import table5, timings
from reports.base import Results
from tests.conftest import TINY

try:
    find().max_threads()
except EngineUnavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

WANTED = {"backbone": "mini_small", "densities": [0.25, 1.0], "rounds": 2, "threads": 1}


@pytest.fixture(scope="module")
def reports():
    steps = []
    found = timing.run(
        timing.Wanted(sizes=[(64, 96), (32, 64)], peers=["torch"], **WANTED),
        progress=lambda done, total, what: steps.append((done, total)),
    )
    assert steps == [(i, len(steps)) for i in range(len(steps))]
    return found


def test_every_density_is_a_row_beside_the_dense_one(reports):
    assert [(each["settings"]["height"], each["settings"]["width"]) for each in reports] == [(64, 96), (32, 64)]
    for report in reports:
        rows = [row for row in report["backbone"] if not row["deformable"]]
        assert [row["density"] for row in rows] == [None, 1.0, 0.493, 0.357, 0.264, 0.25, 0.182]
        assert {tuple(row) for row in report["backbone"]} == {tuple(rows[0])}
        for row in rows[1:]:
            assert row["share"] == pytest.approx(row["speedup"] / row["speedup_theoretical"])
            assert row["speedup"] == row["seconds_dense"] / row["seconds"]  # from what is printed
            assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
            assert 0 < row["seconds_masks"] < row["seconds"] and row["disagreement"] >= 0
            assert row["seconds_min"] <= row["seconds_p10"] <= row["seconds"] <= row["seconds_p90"]
            assert row["gmacs_executed"] >= row["gmacs"] > 0 and row["rounds"] == 2
        assert {row["gamma"] for row in rows[1:]} == {None, 0.02, 0.05, 0.1, 0.2}
        assert any(row["deformable"] for row in report["backbone"])
        assert report["complete"] and len(report["break_even"]) == 2


def test_the_seconds_of_layers_and_between_them_add_up_to_the_rows(reports):
    for report in reports:
        for row in (row for row in report["backbone"] if row["density"] is not None):
            layers = [
                each for each in report["layers"]
                if (each["density"], each["deformable"]) == (row["density"], row["deformable"])
            ]  # fmt: skip
            (between,) = (each for each in layers if each["layer"] == BETWEEN)
            assert between["seconds"] >= 0 and between["seconds_dense"] >= 0
            for name in ("seconds", "seconds_dense"):
                assert sum(each[name] for each in layers) == pytest.approx(row[name])


@pytest.mark.parametrize("rounds", [1, 2, 3, 6])
def test_the_parts_of_the_middle_round_add_up_to_the_median(rounds):
    rng = np.random.default_rng(rounds)
    parts = [{"conv": a, BETWEEN: b} for a, b in rng.random((rounds, 2))]
    variant = Variant("", lambda: None, [sum(part.values()) for part in parts], parts)
    assert sum(middle_parts(variant).values()) == pytest.approx(np.median(variant.seconds))


def test_peers_compute_the_same(reports):
    for report in reports:
        (peer,) = report["peers"]
        assert peer["relative_difference"] < 1e-4
        assert peer["seconds"] > 0
        assert peer["engine_dense_speedup"] == peer["seconds"] / peer["seconds_dense"]


def one_row_after_another(store, **changed):
    """A timing without deformable convolution and the paper's densities: three rows."""
    options = {"sizes": [(32, 64)], "deformable": (False,), "table5": False, **WANTED, **changed}
    return timing.Timing(timing.Wanted(**options), store)


def only_report(store):
    (path,) = (store / "timing").glob("*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("rounds", range(1, 40))
def test_the_interval_of_a_median_is_the_narrowest_that_covers_it_in_95_of_100_runs(rounds):
    low, high = map(int, median_interval(np.random.default_rng(0).permutation(rounds)))

    def coverage(out):  # of the median of any distribution: how often so many values at least lie on either side
        return sum(comb(rounds, below) for below in range(out + 1, rounds - out)) / 2**rounds

    assert low + high == rounds - 1
    assert low == 0 or coverage(low) >= 0.95
    assert rounds <= 5 or coverage(low) >= 0.95 > coverage(low + 1)


def test_rows_are_kept_as_they_are_measured_and_an_interrupted_run_goes_on(tmp_path):
    first = one_row_after_another(tmp_path)
    assert len(first.jobs) == 3 and first.seconds > 0
    rows = first.rows()
    for count in (1, 2):
        next(rows)
        kept = only_report(tmp_path)
        assert len(kept["backbone"]) == count and not kept["complete"]
    rows.close()  # as an interrupt ends it
    second = one_row_after_another(tmp_path)
    assert [job.what for job in second.jobs] == [0.25]
    list(second.rows())
    done = only_report(tmp_path)
    assert done["complete"] and [row["density"] for row in done["backbone"]] == [None, 1.0, 0.25]
    assert done["backbone"][:2] == kept["backbone"]
    assert done["break_even"] == second.reports[0]["break_even"] != []


def test_a_run_of_something_else_begins_anew(tmp_path):
    rows = one_row_after_another(tmp_path).rows()
    next(rows)
    for changed in ({"rounds": 1}, {"sizes": [(64, 64)]}, {"seed": 1}, {"densities": [0.5, 1.0]}):
        assert len(one_row_after_another(tmp_path, **changed).jobs) == 3
    list(one_row_after_another(tmp_path).rows())
    assert len(one_row_after_another(tmp_path).jobs) == 3  # one that came to its end is not continued


def test_within_a_budget_rounds_get_fewer_and_rows_are_left_out(tmp_path):
    wanted = timing.Wanted(sizes=[(32, 64)], deformable=(False,), table5=False, **(WANTED | {"rounds": 1000}))
    some = timing.Timing(wanted, tmp_path, budget=1e-9)
    assert list(some.rows()) == [] and some.left_out == 3
    assert some.reports[0]["settings"]["rounds"] == 1


@pytest.fixture(scope="module")
def cell():
    model = build_backbone("mini_small")
    for block in residual_blocks(model):
        block.adapt(Masks.gumbel(), interpolation.rbf())
    images = [(name, np.zeros((3, 64, 64), np.float32)) for name in ("a", "b")]
    named = {"cell_id": "0123456789ab", "task": "coco", "method": "stochastic", "score": 0.25, "seed": 3}
    return timing.time_cell(timing.empty_report(named, 2, 2, 1), model, images, 3)


def test_a_cell_is_timed_on_its_own_masks(cell):
    found = cell["cell"]
    assert [row["image"] for row in found["images"]] == ["a", "b"]
    assert all(0 < row["density"] <= 1 for row in found["images"])
    assert found["masks_in_pytorch"] == 0  # a stochastic cell: kernels decide all of them
    assert found["share"] == pytest.approx(found["speedup"] / found["speedup_measured_macs"])
    assert found["speedup"] == found["seconds_dense"] / found["seconds"]
    for name, percentiles in found["percentiles"].items():
        values = [row[name] for row in found["images"]]
        assert percentiles == {"p50": min(values), "p90": max(values), "p99": max(values)}  # of two images
    assert found["seconds"] == pytest.approx(np.mean([row["seconds"] for row in found["images"]]))


def test_reports_are_kept_and_become_table_5(reports, cell, tmp_path):
    for report in (*reports, cell):
        path = timing.save(report, tmp_path)
        assert json.loads(path.read_text()) == json.loads(json.dumps(report))
    (path.parent / "broken.json").write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    output = table5.build(Results([tmp_path], [], []), out)
    assert "measured here" in output.text and "E5-2650 v2" in output.text
    assert "0123456789ab" in output.text and "stochastic" in output.text
    assert {file.suffix for file in output.files} == {".md", ".csv", ".tex", ".png", ".svg", ".pdf"}
    (warning,) = output.warnings
    assert "broken.json" in warning
    shown = timings.milliseconds(Results([tmp_path], [], []))
    seconds = [row["seconds_dense"] / row["speedup"] for row in cell["cell"]["images"]]  # alone: its own dense runs
    assert shown == {"0123456789ab": pytest.approx(1000 * np.mean(seconds))}


def test_a_cell_timed_with_the_same_settings_is_found_again(cell, tmp_path):
    timing.save(cell, tmp_path)
    named = {"cell_id": "0123456789ab"}
    assert timing.kept(timing.empty_report(named, 2, 2, 1), tmp_path)["cell"]["images"] == cell["cell"]["images"]
    for other in ((named, 3, 2, 1), (named, 2, 3, 1), ({"cell_id": "ffff"}, 2, 2, 1)):
        assert timing.kept(timing.empty_report(*other), tmp_path) is None


def test_rounds_that_disagree_are_told_from_those_that_do_not():
    steady, busy = [1.0, 1.1, 1.0, 1.05, 1.2], [1.0, 1.0, 2.0, 3.0, 1.0]
    assert disagreement(steady) < UNSTEADY < disagreement(busy)
    assert disagreement(steady, busy) == disagreement(busy)


def rapl(root, number, name, *readings):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "max_energy_range_uj").write_text("1000\n")
    (folder / "energy_uj").write_text("990\n")


def test_energy_is_that_of_all_packages_and_survives_a_counter_that_starts_anew(tmp_path):
    rapl(tmp_path, "0", "package-0")
    rapl(tmp_path, "1", "package-1")
    rapl(tmp_path, "0:0", "core")
    rapl(tmp_path, "2", "psys")
    meter = Meter(tmp_path)
    assert meter.source == "RAPL, package-0, package-1" and meter.read() == [990, 990]
    assert meter.joules([990, 10], [20, 50]) == pytest.approx((30 + 40) / 1e6)


def test_energy_that_is_not_exposed_is_said_to_be_so(tmp_path):
    meter = Meter(tmp_path)
    assert meter.source == NOT_EXPOSED and meter.joules(meter.read(), meter.read()) is None


def test_no_timings_say_what_makes_them(tmp_path):
    assert "saibench time" in table5.build(Results([tmp_path], [], []), tmp_path).text


@pytest.mark.parametrize(
    "wrong", [{"densities": [0.0]}, {"densities": [1.5]}, {"rounds": 0}, {"sizes": [(16, 64)]}, {"peers": ["tvm"]}]
)
def test_what_cannot_be_timed_is_refused(wrong):
    with pytest.raises(UsageError):
        timing.Wanted("mini_small", **wrong)


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


class TestCommand:
    def call(self, monkeypatch, *words):
        monkeypatch.setattr(sys, "argv", ["saibench", "time", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code

    def test_rows_are_sentences_without_none(self, monkeypatch, tmp_path, capsys):
        options = ["--backbone", "mini_small", "--size", "32x64", "--size", "64x64", "--density", "0.5"]
        assert self.call(monkeypatch, *options, "--threads", 1, "--rounds", 1, "--store", tmp_path) == 0
        out, err = capsys.readouterr()
        assert "mini_small 32x64: dense" in out and "mini_small 64x64, deformable: density 0.5" in out
        assert "a share of" in out and "sparse is faster than dense" in out
        assert "None" not in out and "[" not in out
        assert "rows, about" in err
        assert len(list((tmp_path / "timing").glob("*.json"))) == 2

    def test_more_threads_than_the_process_may_use_are_refused(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(time_command, "usable_cores", lambda: 1)
        assert self.call(monkeypatch, "--threads", 2, "--store", tmp_path) == 2
        assert "this process may use 1 of the machine's" in " ".join(capsys.readouterr().err.split())

    def test_rows_whose_rounds_disagree_say_so(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(timing, "UNSTEADY", -1.0)
        words = ["--backbone", "mini_small", "--size", "32x32", "--density", "0.5", "--rounds", 1, "--threads", 1]
        assert self.call(monkeypatch, *words, "--store", tmp_path) == 0
        out, err = capsys.readouterr()
        rows = out.count("mini_small 32x32") - out.count("sparse is faster")
        assert out.count("rounds disagree by") == rows >= 4
        assert f"warning: in {rows} of {rows} rows" in err

    def test_quick_is_small(self, monkeypatch, tmp_path, capsys):
        words = ["--quick", "--backbone", "mini_small", "--threads", 1, "--store", tmp_path, "--json"]
        assert self.call(monkeypatch, *words) == 0
        (report,) = json.loads(capsys.readouterr().out)
        assert (report["settings"]["height"], report["settings"]["width"]) == timing.SIZES["small"]
        assert [row["density"] for row in report["backbone"]] == [None, 0.5, 0.264]

    def test_a_store_without_weights_is_one_line(self, monkeypatch, tmp_path, capsys):
        assert self.call(monkeypatch, "--cells", "--store", tmp_path) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "none of its 0 finished cells has weights" in err

    def test_cells_have_a_size_of_their_own(self, monkeypatch, tmp_path, capsys):
        assert self.call(monkeypatch, "--cells", "--size", "small", "--store", tmp_path) == 2
        assert "at their own size" in capsys.readouterr().err

    def test_all_trained_cells_are_timed_and_not_again(self, monkeypatch, tmp_path, capsys, tiny_set):
        data = tiny_set("imagenet")
        planned = plan(Request("imagenet", "stochastic", data=data, overrides=TINY))
        execute(planned, Store(tmp_path))
        words = ["--cells", "--images", 2, "--rounds", 1, "--threads", 1, "--store", tmp_path, "--data", data]
        assert self.call(monkeypatch, *words) == 0
        out, err = capsys.readouterr()
        assert planned.cell.id in out and "share of" in out and "1 cells, about" in err
        shown = timings.read(Results([tmp_path], [], [])).cells
        assert list(shown) == [planned.cell.id] and len(shown[planned.cell.id]["cell"]["images"]) == 2
        assert self.call(monkeypatch, *words) == 0
        assert "kept from an earlier run" in capsys.readouterr().out
        wrong = [*words[:-1], tmp_path / "nowhere", "--force"]
        assert self.call(monkeypatch, *wrong) == 1
        assert "none of its 1 trained cells was timed" in capsys.readouterr().err
        assert self.call(monkeypatch, "--checkpoint", planned.cell.id, *words[1:], "--force") == 0
        assert len(list((tmp_path / "timing").glob("cell-*.json"))) >= 1
