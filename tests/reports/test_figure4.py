"""Figure 4's files: what is in them, that nothing runs out of the page, and that they are the same every time."""

import io

import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

import reports
from benchmark.store import RECORD_FIELDS
from reports import beside, figure4
from reports.base import Results
from reports.drawing import PLACES, line_style


def build(fabricated, out):
    (output,) = reports.build([fabricated.store.root], out, ["figure4"])
    return output


@pytest.fixture
def failing(fabricated):
    fabricated.curves(seeds=(0, 1)).perforated()
    fabricated.add("stochastic", None, None, parameters={"gamma": 0.4}, status="diverged")
    return fabricated


def test_each_panel_has_a_figure_and_a_table_in_every_form(fabricated, tmp_path):
    fabricated.curves()
    fabricated.curves("cityscapes", dense_score=0.7)
    output = build(fabricated, tmp_path / "out")
    stems = {f"figure4-{task}-mini-embedded{part}" for task in ("coco", "cityscapes") for part in ("", "-beside")}
    expected = {f"{stem}.{form}" for stem in stems for form in ("png", "svg", "pdf", "md", "csv", "tex")}
    assert {path.name for path in output.files} == expected == {path.name for path in (tmp_path / "out").iterdir()}
    assert imread(tmp_path / "out" / "figure4-coco-mini-embedded.png").shape[1] == 2160


def test_data_sets_of_one_name_get_files_of_their_own(fabricated, tmp_path):
    fabricated.add("dense", 0.5, 2.0)
    fabricated.add("dense", 0.5, 2.0, fingerprint="beef")
    names = {path.stem for path in build(fabricated, tmp_path).files}
    own = {name for name in names if not name.endswith("-beside")}
    assert own == {"figure4-coco-mini-embedded-f00dcafe", "figure4-coco-mini-embedded-beef"}
    assert {f"{name}-beside" for name in own} == names - own


def test_the_figure_names_its_units_methods_and_failures_and_the_paper_s_panel(failing, tmp_path):
    build(failing, tmp_path)
    svg = (tmp_path / "figure4-coco-mini-embedded.svg").read_text()  # matplotlib keeps drawn texts as comments
    for text in (
        "Backbone GMACs per image, measured", "paper's “GFLOPs”", "AP (%)", "Stochastic sampling",
        "Perforated (pooling)", "Checkerboard", "Figure 4(a)", "The paper: COCO 2017",
        "as printed, not measured here", "Diverged: ",
    ):  # fmt: skip
        assert text in svg


def test_the_same_store_gives_the_same_bytes(failing, tmp_path):
    first, second = build(failing, tmp_path / "a"), build(failing, tmp_path / "b")
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_figure_is_the_same_whatever_the_user_s_settings(failing, tmp_path):
    import matplotlib

    build(failing, tmp_path / "a")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        build(failing, tmp_path / "b")
        assert matplotlib.rcParams["font.size"] == 20
    name = "figure4-coco-mini-embedded.png"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def many_methods_with_long_names(fabricated):
    fabricated.curves(dense_cost=200.0).perforated()
    for index in range(9):
        fabricated.add(f"a_method_of_a_really_long_name_{index}", 0.3, 1.0 + index, dataset="an " * 40)
        fabricated.add("stochastic", None, None, parameters={"gamma": 1.0 + index}, status="failed", error="no " * 90)


def barely_trained_cells_with_a_changed_recipe(fabricated):
    changes = '{"train.steps": 6, "pretrain.steps": 6, "train.learning_rate": 0.0005}'
    fabricated.add("dense", 0.0013, 0.055, overrides=changes)
    fabricated.add("stochastic", 0.0023, 0.0584, parameters={"gamma": 0.05}, overrides=changes)


def a_single_cell(fabricated):
    fabricated.add("dense", 0.0, 0.001)


def classification_alone(fabricated):
    fabricated.curves("imagenet", dense_score=0.98, dense_cost=3.7)


def several_seeds_of_a_set_with_a_long_name(fabricated):
    fabricated.curves(
        seeds=(0, 1), dataset="microscopy-of-blood-cells-in-coco-format", overrides='{"from_scratch": true}'
    )


@pytest.mark.parametrize(
    "fill",
    [
        many_methods_with_long_names, barely_trained_cells_with_a_changed_recipe, a_single_cell, classification_alone,
        several_seeds_of_a_set_with_a_long_name,
    ],
)  # fmt: skip
def test_nothing_runs_out_of_the_page_or_into_something_else(fabricated, tmp_path, monkeypatch, fill):
    fill(fabricated)
    ours, both = [], []
    for module, figures in ((figure4, ours), (beside, both)):
        monkeypatch.setattr(module, "save", lambda figure, *_, figures=figures: figures.append(figure) or [])
    build(fabricated, tmp_path)
    assert len(ours) == 1 and len(both) == ("coco" in {record["task"] for record in fabricated.store.scan()[0]})
    for figure in (*ours, *both):
        check_page(figure)
    assert all(axes.get_ylim()[0] > -0.1 for axes in ours[0].axes)  # no accuracy is below zero


def check_page(figure):
    figure.canvas.draw()
    page = figure.bbox
    parts = [*figure.legends, *figure.texts, *figure.axes]
    boxes = [part.get_tightbbox(figure.canvas.get_renderer()) for part in parts]
    for index, (part, box) in enumerate(zip(parts, boxes, strict=True)):
        assert page.x0 <= box.x0 and box.x1 <= page.x1, part
        assert page.y0 <= box.y0 and box.y1 <= page.y1, part
        for other in boxes[index + 1 :]:
            assert not box.overlaps(other), (part, box, other)
    for axes in figure.axes:
        points = [point for line in axes.lines if line.get_marker() not in ("", "None") for point in line.get_xydata()]
        assert points
        for x, y in points:
            assert axes.get_xlim()[0] <= x < axes.get_xlim()[1]
            assert axes.get_ylim()[0] <= y < axes.get_ylim()[1]


def test_the_table_has_every_cell_with_its_numbers(failing, tmp_path):
    failing.add("dense", 0.7, 2.0, task="cityscapes")
    output = build(failing, tmp_path)
    cells = failing.store.records("coco")
    frame = pd.read_csv(tmp_path / "figure4-coco-mini-embedded.csv")
    assert sorted(frame["cell_id"]) == sorted(cells["cell_id"])
    assert set(RECORD_FIELDS) <= set(frame.columns)
    assert "metric_mIoU" not in frame.columns  # the other task's
    joined = frame.set_index("cell_id")["metric_AP"]
    expected = cells.set_index("cell_id")["metric_AP"].loc[joined.index]
    pd.testing.assert_series_equal(joined, expected)
    for cell in cells["cell_id"]:
        assert cell in output.text
    assert "| AP (%) |" in output.text and "| AP50 (%) |" in output.text
    assert "APs" not in output.text  # missing in every cell
    assert "Diverged: Stochastic sampling, γ = 0.4" in output.text
    assert "Provenance: Saibench " in output.text and "fingerprint f00dcafe" in output.text


def test_values_of_the_table_are_those_of_the_record_in_per_cent(fabricated, tmp_path):
    fabricated.add("dense", 0.4567, 1.25)
    output = build(fabricated, tmp_path)
    row = [line for line in output.text.splitlines() if line.startswith("| Dense")][-1]  # of the table of cells
    texts = [text.strip() for text in row.strip("|").split("|")]
    assert texts[:5] == ["Dense", "", "0", "45.7", "68.5"]
    assert "1.250 ± 0.062" in texts and "1.375" in texts


def test_the_metrics_of_single_classes_are_in_the_csv_only(fabricated, tmp_path):
    fabricated.add("dense", 0.5, 2.0, task="cityscapes", metric_road=0.9)
    output = build(fabricated, tmp_path)
    assert "road" not in output.text
    assert pd.read_csv(tmp_path / "figure4-cityscapes-mini-embedded.csv")["metric_road"].tolist() == [0.9]


def test_small_counts_keep_their_digits(fabricated, tmp_path):
    fabricated.add("dense", 0.5, 0.01234567)
    assert "0.01235 ± 0.00062" in build(fabricated, tmp_path).text


def test_only_failures_still_give_a_table(fabricated, tmp_path):
    fabricated.add("dense", None, None, status="failed", error="out of memory")
    output = build(fabricated, tmp_path)
    assert "out of memory" in output.text
    assert {path.suffix for path in output.files if "beside" not in path.name} == {".md", ".csv", ".tex"}


def test_lines_differ_in_colour_and_marker():
    styles = [line_style(place) for place in range(PLACES)]
    assert len({style["color"] for style in styles}) == len({style["marker"] for style in styles}) == PLACES
    variants = [line_style(6, variant) for variant in range(4)]
    assert len({style["color"] for style in variants}) == 1
    assert len({(str(style["linestyle"]), style["marker"]) for style in variants}) == 4


# What a person without one kind of cone sees: Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, severity 1.
PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))


@pytest.mark.parametrize("matrix", [PROTAN, DEUTAN], ids=["protan", "deutan"])
def test_the_paper_s_methods_stay_apart_for_the_colour_blind(matrix):
    def seen(colour):
        linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in to_rgb(colour)]
        return [max(0.0, sum(weight * c for weight, c in zip(row, linear, strict=True))) ** (1 / 2.4) for row in matrix]

    colours = [seen(line_style(place)["color"]) for place in range(6)]
    for index, one in enumerate(colours):
        for other in colours[index + 1 :]:
            assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 0.1


def test_a_method_has_one_colour_in_all_figures_and_no_other_method_has_it(fabricated):
    for method in ("stochastic", "uniform", "mine", "yours"):
        fabricated.add(method, 0.5, 2.0)
    known = Results.read([fabricated.store.root]).methods
    styles = figure4._styles(known, ["stochastic", "uniform", "mine", "yours"])
    assert len({style["color"] for style in styles}) == 4
    assert figure4._styles(known, ["mine"])[0] == styles[2]


def test_ablations_are_in_the_table_and_not_in_the_figure(fabricated, tmp_path):
    for gamma in (0.1, 0.2):
        parameters = {"gamma": gamma, "fill": "rbf"}
        fabricated.add("stochastic", 0.4, 1 - gamma, parameters=parameters, method_curve=["gamma"])
    fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": 0.1, "fill": "zeros"}, method_curve=["gamma"])
    build(fabricated, tmp_path)
    assert "fill = zeros" not in (tmp_path / "figure4-coco-mini-embedded.svg").read_text()
    assert "zeros" in (tmp_path / "figure4-coco-mini-embedded.md").read_text()


def test_a_plug_in_by_file_is_in_figure_and_table(fabricated, tmp_path):
    fabricated.add("my_own_idea", 0.42, 0.7, parameters={"stride": 3})
    fabricated.add("dense", 0.5, 2.0)
    output = build(fabricated, tmp_path)
    assert "My own idea" in output.text
    assert "My own idea" in (tmp_path / "figure4-coco-mini-embedded.svg").read_text()
    assert io.StringIO(output.text).readline().startswith("**Figure 4(a)")
