"""The figures in the README and in docs/results.md are those of the stored records."""

import json
import re
from pathlib import Path

import pytest

from benchmark.files import reference_folder
from reports import documents, speed
from reports.base import Results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference():
    return Results.read([reference_folder(ROOT)])


@pytest.mark.parametrize(
    "name", ["README.md", "docs/results.md", "docs/training.md", "docs/engine.md", "docs/export.md"]
)
def test_the_documents_say_what_the_records_say(reference, name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert documents.filled(text, reference) == text, f"run: python -m reports.documents {name}"


def test_no_number_of_the_results_stands_outside_of_the_blocks():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    prose = re.sub(r"<!-- begin: (\w+) -->.*?<!-- end -->", "", text, flags=re.S)
    assert re.findall(r"\d+(?:\.\d+)?", prose) == ["95", "1", "1"]  # of the intervals, and the ends of Kendall's τ


def test_only_what_stands_between_the_marks_is_replaced(monkeypatch):
    monkeypatch.setitem(documents.BLOCKS, "made", lambda results: "new")
    text = "before\n<!-- begin: made -->\nold\n<!-- end -->\nafter\n"
    assert documents.filled(text, Results([], [], [])) == "before\n<!-- begin: made -->\nnew\n<!-- end -->\nafter\n"


def test_curves_of_two_data_sets_and_of_an_ablation_are_not_averaged(fabricated):
    for seed, ap in enumerate((0.5, 0.54)):
        fabricated.add("dense", ap, 2.0, seed=seed, dataset="coco-mini-v4-seed0")
    for masks, ap in ((2, 0.4), (3, 0.1)):
        chosen = {"gamma": 0.1, "masks_per_block": masks}
        fabricated.add("stochastic", ap, 1.0, parameters=chosen, dataset="coco-mini-v4-seed0")
    fabricated.add(
        "stochastic", 0.3, 0.8, parameters={"gamma": 0.2, "masks_per_block": 2}, dataset="coco-mini-v4-seed0"
    )
    fabricated.add("dense", 0.6, 4.0, dataset="cells", fingerprint="beef", overrides='{"from_scratch": true}')
    results = Results.read([fabricated.store.root])
    head, _, *rows = documents.curves(results).splitlines()
    assert rows == [
        "| coco, AP | Dense | 2 | 52.0 ± 2.8 @ 1.00 |",
        "| coco, AP | Stochastic sampling | 1 | 40.0 @ 0.50 · 30.0 @ 0.40 |",
    ]
    assert documents.curves_real(results).splitlines() == [head, _, "| cells, AP | Dense | 1 | 60.0 @ 1.00 |"]
    *_, last = documents.runs(results).splitlines()
    assert last.startswith("| `saibench sweep coco --data cells --from-scratch` | 1 | 1 |")


def test_an_unknown_block_is_an_error():
    with pytest.raises(KeyError, match="nobody"):
        documents.filled("<!-- begin: nobody -->\n<!-- end -->", Results([], [], []))


@pytest.mark.parametrize("name", speed.BLOCKS)
def test_a_store_without_timings_says_what_to_run(name):
    assert speed.BLOCKS[name](Results([], [], [])).startswith("not run: `saibench time ")


def timed(tmp_path, seconds_dense, between):
    """A store with the timing of one network whose steps take a second dense and half of it sparse."""
    layers = [("conv1", 0.2), ("layer1.conv2", 0.8), ("layer1.mask1", 0.0)]
    rows = [{"layer": name, "seconds": seconds / 2, "seconds_dense": seconds} for name, seconds in layers]
    if between:
        rows.append({"layer": "between", "seconds": between, "seconds_dense": between})
    common = {"backbone": "resnet50", "deformable": False, "gmacs": 1.0, "seconds_iqr": 0.0}
    row = {"density": 0.264, "gamma": 0.1, "seconds": 0.6, "speedup": 1.9, "speedup_theoretical": 2.5, "share": 0.76}
    run = {
        "machine": {"cpu": "a", "threads": 2, "instruction_set": "avx2", "finished": "2026"},
        "settings": {"backbone": "resnet50", "height": 64, "width": 96, "rounds": 3}, "peers": [], "break_even": [],
        "backbone": [
            {**common, "density": None, "gamma": None, "seconds": 1.2, "speedup": None, "speedup_theoretical": None,
             "share": None},
            {**common, **row, **({"seconds_dense": seconds_dense} if seconds_dense else {})},
        ],
        "layers": [{"deformable": False, "density": 0.264, **each} for each in rows],
    }  # fmt: skip
    (tmp_path / "timing").mkdir()
    (tmp_path / "timing" / "one.json").write_text(json.dumps(run))
    return Results([tmp_path], [], [])


def test_the_steps_of_a_network_add_up_to_its_whole_time(tmp_path):
    table = [line.split("|")[1:-1] for line in speed.steps(timed(tmp_path, 1.1, 0.1)).splitlines()[2:]]
    *parts, whole = [[float(cell.strip() or 0) for cell in row[1:]] for row in table]
    assert whole == [1.1, 0.6] and parts[-1] == [0.1, 0.1]
    assert [sum(column) for column in zip(*parts, strict=True)] == pytest.approx(whole)


def test_a_row_says_the_dense_time_that_it_was_paired_with(tmp_path):
    line = next(line for line in speed.speed(timed(tmp_path, 1.14, 0.1)).splitlines() if "γ" in line)
    assert line == "| 0.264 (γ 0.1) | 0.60 | 1.14 | 1.90 | 2.50 | 0.76 |"


def test_older_timings_are_read_and_what_they_cannot_say_is_marked(tmp_path):
    results = timed(tmp_path, None, None)
    text = speed.speed(results)
    assert "| 0.264 (γ 0.1) | 0.60 | ≈ 1.14 | 1.90 |" in text and "a record that has the ratio alone" in text
    *_, between, whole, _, note = speed.steps(results).splitlines()
    assert between == "| between the kernels | – | – |" and "0.600" in whole and note.startswith("–: ")


def test_no_time_in_the_documents_is_negative(reference):
    for block in speed.BLOCKS.values():
        assert not re.search(r"\| -[0-9]", block(reference))
