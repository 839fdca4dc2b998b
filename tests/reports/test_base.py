"""Tables in their formats, provenance, results from several stores, and the rules of the package."""

import ast
import io
import math
from pathlib import Path

import pandas as pd
import pytest

import reports
from benchmark.errors import SaibenchError, StoreError, UsageError
from benchmark.store import Store
from reports import base
from reports.base import Results, provenance_line
from reports.tables import Column, Table
from reports.values import decimals, number, plain, slug, with_spread

TABLE = Table(
    "50 % of γ_x",
    [Column("name", "Name"), Column("ap", "AP (%)", number(1, 100), right=True)],
    [{"name": "a|b", "ap": 1 / 3, "_hidden": "x"}, {"name": "c_d & e", "ap": None, "more": 2}],
    ["Note: 3 < 4"],
)


def test_markdown_is_aligned_and_escapes_bars():
    lines = TABLE.markdown().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert table[0] == "| Name    | AP (%) |"
    assert table[1].endswith("-: |")
    assert table[2] == r"| a\|b    |   33.3 |"
    assert lines[-1] == "Note: 3 < 4"


def test_latex_is_booktabs_and_escapes_what_latex_reads():
    text = TABLE.latex()
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    assert r"\begin{tabular}{lr}" in text
    assert r"c\_d \& e &  \\" in text
    assert r"\caption{50 \% of $\gamma$\_x}" in text
    assert "3 $<$ 4" in text


def test_csv_has_all_digits_and_all_keys_but_hidden_ones():
    frame = pd.read_csv(io.StringIO(TABLE.csv()))
    assert list(frame.columns) == ["name", "ap", "more"]
    assert frame["ap"][0] == 1 / 3
    assert math.isnan(frame["ap"][1])


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (math.nan, ""), (11.0, "11"), (0.05, "0.05"), (True, "yes"), ("rbf", "rbf"), ([1, 2.5], "1 2.5")],
)
def test_values_as_text(value, text):
    assert plain(value) == text


def test_a_spread_is_shown_only_where_there_is_one():
    assert with_spread(1.25, 0.5, 1) == "1.2 ± 0.5"
    assert with_spread(1.25, None, 2) == "1.25"
    assert with_spread(None, 0.5, 2) == ""


@pytest.mark.parametrize(
    ("values", "digits"), [([289.5, 1.0], 1), ([2.0], 3), ([0.05], 5), ([99999.0], 1), ([], 3), ([0], 3)]
)
def test_decimals_show_four_digits_of_the_largest(values, digits):
    assert decimals(values) == digits


def test_slugs_are_file_names():
    assert slug("/data/My set (2017)") == "data-my-set-2017"
    assert slug("…") == "unnamed"


def test_provenance_names_versions_machine_dates_and_data(fabricated):
    fabricated.add("dense", 0.5, 2.0)
    fabricated.add("stochastic", 0.4, 1.0, dataset="other", fingerprint="beef")
    cells = Results.read([fabricated.store.root]).cells()
    cells["git_sha"], cells["git_dirty"] = ["a" * 40, "b" * 40], [True, False]
    cells["started"] = ["2026-01-31T23:59:59Z", "2026-02-02T00:00:00Z"]
    cells["finished"] = cells["started"]
    line = provenance_line(cells)
    for part in (
        "commit aaaaaaaaaa with uncommitted changes, bbbbbbbbbb;",
        f"torch {cells['torch'][0]}",
        "made 2026-01-31 to 2026-02-02",
        "embedded (fingerprint f00dcafe), other (fingerprint beef)",
    ):
        assert part in line
    assert "\n" not in line


def test_a_cell_in_two_stores_counts_once_and_finished_wins(tmp_path, fabricated):
    other = type(fabricated)(tmp_path / "other")
    fabricated.add("dense", None, None, status="failed")
    other.add("dense", 0.5, 2.0)
    other.add("stochastic", 0.4, 1.0)
    for stores in ([fabricated.store.root, other.store.root], [other.store.root, fabricated.store.root]):
        cells = Results.read(stores).cells("coco")
        assert sorted(cells["method"]) == ["dense", "stochastic"]
        assert set(cells["status"]) == {"finished"}


def test_an_empty_store_is_one_line_a_report_and_no_error(tmp_path):
    (tmp_path / "empty").mkdir()
    outputs = reports.build([tmp_path / "empty"], tmp_path / "out")
    assert {output.name for output in outputs} == set(reports.available())
    figure4 = next(output for output in outputs if output.name == "figure4")
    assert "no data" in figure4.text and "saibench sweep" in figure4.text and "\n" not in figure4.text.strip()


def test_a_store_that_is_not_there_is_an_error(tmp_path, run_cli):
    with pytest.raises(StoreError, match="nowhere: there is no such store"):
        reports.build([tmp_path / "nowhere"], tmp_path / "out")
    code, _, said = run_cli("report", "--store", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert code == 1 and "there is no such store" in said
    assert not (tmp_path / "out").exists()


def test_only_the_reports_asked_for_are_made(tmp_path, fabricated):
    fabricated.add("dense", 0.5, 2.0, task="imagenet")
    outputs = reports.build([fabricated.store.root], tmp_path / "out", ["table4"])
    assert [output.name for output in outputs] == ["table4"]
    assert all(path.name.startswith("table4") for path in (tmp_path / "out").iterdir())


def test_a_report_that_is_not_there_lists_those_that_are(tmp_path):
    with pytest.raises(UsageError, match=r"no report 'figure9'; there are .*figure4"):
        reports.build([], tmp_path, ["figure9"])


def test_broken_records_are_named_and_the_rest_is_shown(tmp_path, fabricated):
    fabricated.add("dense", 0.5, 2.0)
    torn = fabricated.add("stochastic", 0.4, 1.0).folder
    (torn / "record.json").write_text("{")
    (output,) = reports.build([fabricated.store.root], tmp_path / "out", ["figure4"])
    assert any(str(torn) in line for line in output.warnings)
    assert "Dense" in output.text


def test_an_output_folder_that_is_a_file_is_one_line(tmp_path, fabricated):
    fabricated.add("dense", 0.5, 2.0)
    (tmp_path / "out").write_text("")
    with pytest.raises(SaibenchError, match=r"out: cannot be written .*--out"):
        reports.build([fabricated.store.root], tmp_path / "out", ["figure4"])


def test_a_store_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="is not a folder"):
        reports.build([tmp_path / "store"], tmp_path / "out")


def test_reports_leave_the_store_as_it_is(tmp_path, fabricated):
    fabricated.curves()
    before = {path: path.stat().st_mtime_ns for path in fabricated.store.root.rglob("*")}
    reports.build([fabricated.store.root], tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in fabricated.store.root.rglob("*")} == before
    assert len(Store(fabricated.store.root).records()) > 8


@pytest.mark.parametrize("path", sorted(Path(base.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_reports_know_nothing_of_the_harness_but_store_stats_and_errors(path):
    imported = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported += [name.name for name in node.names]
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.append(node.module)
    of_ours = [name for name in imported if name.split(".")[0] in ("benchmark", "methods", "baselines")]
    assert set(of_ours) <= {
        "benchmark.store",
        "benchmark.stats",
        "benchmark.errors",
        "benchmark.files",
        "benchmark.sampling",
        "benchmark.selection",
    }
