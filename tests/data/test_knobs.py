"""Sets with the renderer's knobs turned: their names, their manifests, and what is refused."""

import json
from pathlib import Path

import pytest

from benchmark.data import scenes
from benchmark.data.embedded import MANIFEST
from benchmark.errors import UsageError
from benchmark.tasks import find_task


def test_a_turned_knob_is_in_name_and_manifest(run_cli, tmp_path):
    code, out, _ = run_cli(
        "data", "make", "coco", "--scale", "evidence", "--pixels", "96", "--period", "4", "--objects", "0.1,0.5",
        "--images", "2,1", "--out", tmp_path, "--json",
    )  # fmt: skip
    folder = Path(json.loads(out)["folder"])
    assert code == 0 and "-96px-period4-side" in folder.name
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["height"], manifest["width"], manifest["images"]) == (96, 96, {"train": 2, "val": 1})
    assert manifest["style"] == {
        "shares": [0.1, 0.5],
        "period": 4.0,
        "smallest": 11,
        "faint": [0.3, 0.95],
        "poles": False,
    }


def test_sets_that_differ_in_one_knob_have_other_names():
    embedded = find_task("coco").embedded
    sizes = [embedded.varied("evidence", 128, None), embedded.varied("evidence", 256, None, period=9.0),
             embedded.varied("evidence", None, {"val": 7})]  # fmt: skip
    assert len({repr(size) for size in sizes}) == 3
    assert sizes[0].label.startswith("-128px-period5-side") and sizes[1].label.startswith("-256px-period9-side")
    assert sizes[2].images == {**embedded.sizes["evidence"].images, "val": 7}
    assert embedded.sizes["mini"].label == ""


def test_the_median_side_is_that_of_what_is_drawn():
    style = scenes.Style(shares=(0.04, 0.7), period=5, smallest=11)
    rng = scenes.generator("median")
    drawn = sorted(style.draw_side(rng, 256) for _ in range(2001))
    assert int(style.label(256).partition("side")[2]) == pytest.approx(drawn[1000], rel=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scale", "mini", "--pixels", "96"], "have no knobs; scales that have: evidence"),
        (["--scale", "evidence", "--objects", "0.5"], "give two numbers with a comma between them"),
        (["--scale", "evidence", "--objects", "0.5,0.2"], "give 0 < smaller < larger <= 1"),
        (["--scale", "evidence", "--images", "5,-1"], "both are above 0"),
        (["--scale", "evidence", "--period", "1"], "fewer than 2"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_before_any_work(run_cli, tmp_path, options, words):
    code, _, err = run_cli("data", "make", "coco", *options, "--out", tmp_path)
    assert code == 2 and words in " ".join(err.split()) and not any(tmp_path.iterdir())


def test_a_task_without_knobs_says_so():
    with pytest.raises(UsageError, match="scales that have: none"):
        find_task("imagenet").embedded.varied("mini", 64, None)
