"""Accuracy against milliseconds: the timed cells over GMACs and over time, and what to run where nothing was timed."""

import json

import pandas as pd
import pytest

import reports


def timing(fabricated, record, seconds, finished="2026-01-01", gmacs=2.0, drift=1.0, in_pytorch=0):
    """Keep the timing of a cell: an image takes its seconds, and 0.02 without masks, on a machine so much slower."""
    folder = fabricated.store.root / "timing"
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "machine": {"finished": finished, "cpu": "a", "threads": 1, "instruction_set": "avx2"}, "settings": {},
        "backbone": [], "peers": [],
        "cell": {"cell_id": record.cell_id, "masks_in_pytorch": in_pytorch, "images": [{
            "image": number, "seconds": value * drift, "seconds_dense": 0.02 * drift, "gmacs": gmacs / 2,
            "speedup": 0.02 / value, "speedup_measured_macs": 2.0,
        } for number, value in enumerate(seconds)]},
    }  # fmt: skip
    (folder / f"cell-{record.cell_id}-{finished}.json").write_text(json.dumps(run))


def network(fabricated, gmacs, **peers):
    folder = fabricated.store.root / "timing"
    run = {
        "machine": {"finished": "2026", "cpu": "a", "threads": 1, "instruction_set": "avx2"},
        "settings": {"backbone": "mini", "height": 128, "width": 160},
        "backbone": [{
            "backbone": "mini", "density": None, "deformable": False, "gmacs": gmacs, "seconds": 1, "seconds_iqr": 0.1,
        }],
        "peers": [{"peer": name, "seconds": seconds} for name, seconds in peers.items()], "break_even": [],
    }  # fmt: skip
    (folder / f"network-{gmacs}.json").write_text(json.dumps(run))


def build(fabricated, out):
    (output,) = reports.build([fabricated.store.root], out, ["milliseconds"])
    return output, pd.read_csv(out / "milliseconds-coco-mini-embedded.csv")


def test_without_timings_it_says_what_to_run(fabricated, tmp_path):
    fabricated.curves()
    output, frame = build(fabricated, tmp_path)
    assert set(frame["status"]) == {f"not run: saibench time --cells --store {fabricated.store.root}"}
    assert {path.suffix for path in output.files} == {".md", ".csv", ".tex"}
    assert len(frame) == 1 and frame["ms"].isna().all() and "not run" in output.text


def test_timed_cells_stand_over_gmacs_and_over_time_and_the_share_realised_follows(fabricated, tmp_path):
    dense = fabricated.add("dense", 0.5, 2.0)
    for seed in (0, 1):
        record = fabricated.add("stochastic", 0.4 + 0.02 * seed, 1.0, parameters={"gamma": 0.1}, seed=seed)
        timing(fabricated, record, [0.010 + 0.004 * seed, 0.016])
    fabricated.add("stochastic", 0.3, 0.5, parameters={"gamma": 0.2})
    timing(fabricated, dense, [0.020])
    output, frame = build(fabricated, tmp_path)
    rows = frame.set_index("setting")
    row = rows.loc["γ = 0.1"]
    assert (row["timed"], row["ms"], row["ms_share"]) == (2, pytest.approx(14.0), pytest.approx(0.7))
    assert row["realised"] == pytest.approx(0.5 / 0.7) and row["score"] == pytest.approx(41)
    assert rows.loc["γ = 0.2", "status"].startswith("not run: saibench time --cells")
    assert {path.suffix for path in output.files} == {".md", ".csv", ".tex", ".png", ".svg", ".pdf"}
    svg = (tmp_path / "milliseconds-coco-mini-embedded.svg").read_text()
    assert "Backbone ms per image, measured" in svg and "Backbone GMACs per image, measured" in svg


def test_a_machine_that_slows_down_between_two_cells_does_not_order_them(fabricated, tmp_path):
    timing(fabricated, fabricated.add("dense", 0.5, 2.0), [0.020])
    for gamma, seconds, drift in ((0.1, 0.016, 1.0), (0.2, 0.012, 1.7)):
        timing(fabricated, fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": gamma}), [seconds], drift=drift)
    other = fabricated.add("uniform", 0.3, 0.5, parameters={"shorter_side": 64})  # another network: its own time
    timing(fabricated, other, [0.02], gmacs=0.5, drift=0.25)
    _, frame = build(fabricated, tmp_path)
    assert frame.set_index("setting").loc[["γ = 0.1", "γ = 0.2"], "ms"].tolist() == pytest.approx([16, 12])
    assert frame.set_index("method").loc["uniform", "ms"] == pytest.approx(5)


def test_masks_that_the_engine_leaves_to_pytorch_are_told(fabricated, tmp_path):
    timing(fabricated, fabricated.add("dense", 0.5, 2.0), [0.020])
    timing(fabricated, fabricated.add("dynconv", 0.4, 1.0, parameters={"budget": 0.5}), [0.050], in_pytorch=8)
    _, frame = build(fabricated, tmp_path)
    assert frame.set_index("method")["masks_in_pytorch"].to_dict() == {"dense": 0, "dynconv": 8}
    drawn = (tmp_path / "milliseconds-coco-mini-embedded.svg").read_text()
    assert "<!-- Dynconv † -->" in drawn and "<!-- Dense -->" in drawn


def test_the_newest_timing_of_a_cell_counts(fabricated, tmp_path):
    dense = fabricated.add("dense", 0.5, 2.0)
    timing(fabricated, dense, [0.5], "2026-02-01")
    timing(fabricated, dense, [0.1], "2026-01-01")
    assert build(fabricated, tmp_path)[1]["ms"].tolist() == [500]


@pytest.mark.parametrize(("gmacs", "there"), [(2.01, True), (3.0, False)])
def test_other_runtimes_stand_beside_a_dense_network_of_as_many_gmacs(fabricated, tmp_path, gmacs, there):
    timing(fabricated, fabricated.add("dense", 0.5, 2.0), [0.02])
    network(fabricated, gmacs, openvino=0.03)
    output, frame = build(fabricated, tmp_path)
    assert (30.0 in frame["ms"].tolist()) == there == ("Dense on openvino" in output.text)
    assert ("Other runtimes: not run" in output.text) != there


def test_an_empty_store_says_which_commands_to_run(fabricated, tmp_path):
    fabricated.store.root.mkdir(parents=True)
    (output,) = reports.build([fabricated.store.root], tmp_path, ["milliseconds"])
    assert "saibench sweep coco, then saibench time --cells" in output.text and output.files == []
