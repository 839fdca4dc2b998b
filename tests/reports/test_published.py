"""The paper's printed numbers: complete, consistent with each other, and checked when they are read."""

import shutil

import numpy as np
import pytest

from benchmark.errors import DataError
from reports import published


@pytest.mark.parametrize("name", published.FILES)
def test_each_file_is_read_and_says_where_its_numbers_stand(name):
    frame = published.load(name)
    assert len(frame)
    assert frame["source"].ne("").all()
    assert set(frame["method"]) <= {path.stem for path in (published.FOLDER.parents[1]).glob("*s/*.py")} | {
        "lccl", "pfec", "sfp", "fpgm",
    }  # fmt: skip


def test_the_folder_holds_no_file_that_nobody_reads():
    assert {path.stem for path in published.FOLDER.glob("*.csv")} == set(published.FILES)


def test_table_5_s_speed_ups_follow_from_its_seconds_and_gflops():
    frame = published.load("table5")
    for _, rows in frame.groupby("machine"):
        dense, ours = rows[rows["method"] == "dense"].iloc[0], rows[rows["method"] != "dense"]
        # the seconds are printed with two digits, so that the ratio is known to about two per cent
        np.testing.assert_allclose(dense["seconds"] / ours["seconds"], ours["real_speedup"], rtol=0.02)
        np.testing.assert_allclose(dense["gflops"] / ours["gflops"], ours["theoretical_speedup"], atol=0.006)


def test_the_same_model_has_the_same_numbers_in_every_table():
    curve = published.load("coco")
    ours = curve[(curve["method"] == "stochastic") & curve["source"].str.startswith("P")].set_index("value")
    for name, value in (("table1", "rbf"), ("table2", "rbf"), ("table3", "11")):
        row = published.load(name).set_index("value").loc[value]
        assert (row["score"], row["gflops"]) == tuple(ours.loc["0.1", ["score", "gflops"]])
    timed = published.load("table5")
    timed = timed[timed["machine"] == timed["machine"].iloc[0]].set_index("value")
    for value in ours.index:
        assert tuple(timed.loc[value, ["score", "gflops"]]) == tuple(ours.loc[value, ["score", "gflops"]])


def test_the_densities_belong_to_the_points_of_the_curve():
    curve = published.load("coco")
    densities = published.load("densities").set_index("value")["density"]
    assert set(densities.index) == set(curve.loc[curve["method"] == "stochastic", "value"])
    assert densities.sort_index().is_monotonic_decreasing


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("41.8,110.0", "41.8,much", r"table1\.csv, line 2: gflops is not a number"),
        ("41.9,109.8", "419,109.8", r"line 3: score must lie between 0 and 100"),
        ("41.9,109.8", ",109.8", r"line 3: score is empty"),
        ("P Table 1,\n", "hearsay,\n", r"line 4: source must begin"),
        ("method,", "model,", r"columns are model, .*expected method"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, old, new, message):
    text = (published.FOLDER / "table1.csv").read_text()
    assert old in text
    (tmp_path / "table1.csv").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        published.load("table1", tmp_path)


def test_a_line_that_is_there_twice_is_named(tmp_path):
    shutil.copy(published.FOLDER / "table1.csv", tmp_path)
    lines = (tmp_path / "table1.csv").read_text().splitlines()
    (tmp_path / "table1.csv").write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(DataError, match="line 5: the line is there twice"):
        published.load("table1", tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"table1\.csv: cannot be read"):
        published.load("table1", tmp_path)
