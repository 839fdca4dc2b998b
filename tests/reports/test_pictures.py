"""Pictures of masks; Figures 1 and 2(b), which choose their cells and say what is missing."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.sampling import Sampling
from reports import figure1, figure2b, pictures
from reports.base import Results
from reports.curves import panels
from reports.drawing import figure_style, save
from reports.looks import equal_computation, typical_cell
from tests.reports.conftest import masks

SIDE = 4


def seen(values, confidence=None, draws=None):
    """Return a sampling of one mask."""
    values = np.array(values, dtype=bool)[None] if draws is None else np.array(draws, dtype=bool)
    confidences = {} if confidence is None else {"layer1.0.mask1": np.array(confidence, dtype=np.float32)}
    image = np.full((8, 8, 3), 200, dtype=np.uint8)
    return Sampling(image, "7", list(range(len(values))), {"layer1.0.mask1": values}, confidences)


def test_an_overlay_keeps_colours_where_it_is_computed_and_is_dark_elsewhere():
    mask = np.array([[True, False], [False, False]])
    found = pictures.overlay(np.full((4, 6, 3), 100, dtype=np.uint8), mask)
    assert (found[:2, :3] == 100).all() and (found[2:] < 30).all() and (found[:2, 3:] < 30).all()


def test_colours_grow_lighter_with_the_density():
    colours = pictures.heat(np.linspace(0, 1, 9)[None]).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(colours[0]) > 0).all()


def test_the_typical_mask_is_on_the_finest_maps_and_nearest_to_their_mean():
    shares = {"a": (8, 0.1), "b": (8, 0.4), "c": (8, 0.8), "d": (2, 0.43)}
    rng = np.random.default_rng(0)
    values = {name: rng.permutation(side * side).reshape(1, side, side) < share * side * side
              for name, (side, share) in shares.items()}  # fmt: skip
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    assert pictures.typical(Sampling(image, "7", [0], values)) == "b"


@pytest.mark.parametrize(("draws", "size"), [(1, (32, 32)), (5, (20, 70))])
def test_a_drawing_has_every_mask_and_the_notes_within_its_edges(tmp_path, draws, size):
    sampling = masks(0.4, draws=draws)
    image = np.zeros((*size, 3), dtype=np.uint8)
    sampling = Sampling(image, "<&>", sampling.seeds, sampling.masks)
    with figure_style():
        figure = pictures.draw(sampling, "A title", ["Untrained. " * 40, "Another line."])
        texts = {text.get_text() for axes in figure.axes for text in axes.texts}
        assert len([text for text in texts if "mask 1" in text]) == 2
        assert len([text for text in texts if text.startswith("seed")]) == (0 if draws == 1 else draws)
        files = save(figure, tmp_path, "picture")
    assert [path.suffix for path in files] == [".png", ".svg", ".pdf"]
    pixels = np.array(Image.open(files[0]).convert("L"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()


# ------------------------------------------------------------------------------------------------- Figures 1 and 2(b)


def build(report, fabricated, out):
    fabricated.store.root.mkdir(parents=True, exist_ok=True)
    return report.build(Results.read([fabricated.store.root]), out)


def add(fabricated, method, score, cost, gamma, kept=True, **changes):
    samplings = [masks(cost / 2, name, 2 if method == "stochastic" else 1, confident=True) for name in ("7", "8")]
    return fabricated.add(
        method, score, cost, parameters={"gamma": gamma}, samplings=samplings if kept else None, **changes
    )


def both(fabricated, **changes):
    """Two curves that cost nearly the same at (0.1, 0.2)."""
    cells = {}
    for gamma, cost in ((0.02, 1.2), (0.1, 0.8)):
        cells["deterministic", gamma] = add(fabricated, "deterministic_gumbel", 0.5 - gamma, cost, gamma, **changes)
    for gamma, cost in ((0.05, 1.0), (0.2, 0.81), (0.3, 0.6)):
        cells["stochastic", gamma] = add(fabricated, "stochastic", 0.5 - gamma / 2, cost, gamma, **changes)
    return cells


def rows(output, table=0):
    return pd.DataFrame(output.tables[table].rows).set_index(
        "part" if "part" in output.tables[table].rows[0] else "label"
    )


@pytest.mark.parametrize("report", [figure1, figure2b])
def test_nothing_run_says_what_runs_it(report, fabricated, tmp_path):
    output = build(report, fabricated, tmp_path)
    name = report.__name__.rpartition(".")[2]
    assert f"not run: saibench sweep coco --cells {name}" in output.text and output.pictures == []
    assert not any(text == "" for table in output.tables for row in table.cells() for text in row)
    assert {path.suffix for path in output.files} == {".md", ".csv", ".tex"}


@pytest.mark.parametrize("report", [figure1, figure2b])
def test_one_method_alone_is_not_run_either(report, fabricated, tmp_path):
    add(fabricated, "stochastic", 0.4, 1.0, 0.1)
    output = build(report, fabricated, tmp_path)
    assert output.text.count("not run") >= 2 and not any(path.suffix == ".png" for path in output.files)


@pytest.mark.parametrize("report", [figure1, figure2b])
def test_cells_of_different_seeds_are_not_compared(report, fabricated, tmp_path):
    add(fabricated, "stochastic", 0.4, 1.0, 0.1, seed=1)
    add(fabricated, "deterministic_gumbel", 0.4, 1.0, 0.1, seed=0)
    assert "not run" in build(report, fabricated, tmp_path).text


@pytest.mark.parametrize("report", [figure1, figure2b])
def test_records_without_masks_say_what_adds_them(report, fabricated, tmp_path):
    cells = both(fabricated, kept=False)
    output = build(report, fabricated, tmp_path)
    cell = cells["stochastic", 0.2].cell_id
    assert f"saibench show IMAGE --checkpoint {cell} --keep" in output.text
    assert not any(text == "" for table in output.tables for row in table.cells() for text in row)
    assert output.pictures == [] and not any(path.suffix == ".png" for path in output.files)


def test_figure_1_takes_the_cells_of_nearest_computation(fabricated, tmp_path):
    cells = both(fabricated)
    output = build(figure1, fabricated, tmp_path)
    found = rows(output)
    assert found.loc["(b)", "cell_id"] == cells["deterministic", 0.1].cell_id
    assert found.loc["(d)", "cell_id"] == cells["stochastic", 0.2].cell_id
    assert found.loc["(c)", "cell_id"] == cells["stochastic", 0.3].cell_id  # the only other one that computes less
    assert found.loc["(d)", "of_b"] == pytest.approx(0.81 / 0.8) and (found["status"] == "shown").all()
    assert {".png", ".svg", ".pdf", ".md", ".csv", ".tex"} == {path.suffix for path in output.files}
    assert len(output.pictures) == 7 and all(each.uri.startswith("data:image/png;base64,") for each in output.pictures)


def test_figure_1_leaves_out_what_there_is_no_cell_for(fabricated, tmp_path):
    add(fabricated, "deterministic_gumbel", 0.4, 0.8, 0.1)
    add(fabricated, "stochastic", 0.45, 0.8, 0.1)
    output = build(figure1, fabricated, tmp_path)
    assert "no stochastic cell computes less" in output.text and any(path.suffix == ".png" for path in output.files)


def test_a_cell_that_keeps_masks_comes_before_a_nearer_one_that_does_not(fabricated, tmp_path):
    cells = both(fabricated)
    add(fabricated, "stochastic", 0.45, 0.8, 0.17, kept=False)
    (panel,) = panels(Results.read([fabricated.store.root]))
    assert equal_computation(panel).stochastic.cell["cell_id"] == cells["stochastic", 0.2].cell_id


def test_a_broken_file_of_masks_is_told_and_stops_nothing(fabricated, tmp_path):
    cells = both(fabricated)
    path = cells["stochastic", 0.2].folder / "sampling.npz"
    path.write_bytes(b"no archive")
    output = build(figure1, fabricated, tmp_path)
    assert "sampling.npz: broken" in output.text


def test_the_page_shows_the_cell_nearest_to_half_of_the_dense_computation(fabricated):
    cells = both(fabricated)
    fabricated.add("dense", 0.5, 2.0)
    (panel,) = panels(Results.read([fabricated.store.root]))
    line = next(line for line in panel.main if line.method == "stochastic")
    assert typical_cell(panel, line).cell["cell_id"] == cells["stochastic", 0.05].cell_id


def test_figure_2b_shows_both_and_writes_what_it_draws(fabricated, tmp_path):
    both(fabricated)
    output = build(figure2b, fabricated, tmp_path)
    assert len(output.tables) == 2 and len(output.pictures) == 6 and any(path.suffix == ".pdf" for path in output.files)
    found = rows(output)
    assert found.loc["deterministic", "overlap"] == 1 and found.loc["stochastic", "overlap"] < 1
    assert sum(row["stochastic_positions"] for row in output.tables[1].rows) == 2 * 2 * 64


def test_the_share_sampled_is_that_of_the_positions_of_a_confidence():
    confidence = [[0.05, 0.05, 0.55], [0.55, 0.95, 1.0]]
    shares, positions = figure2b.sampled_by_confidence([seen([[1, 0, 1], [1, 1, 1]], confidence)] * 2)
    assert positions.tolist() == [4, 0, 0, 0, 0, 4, 0, 0, 0, 4]
    assert shares[[0, 5, 9]].tolist() == [0.5, 1.0, 1.0] and np.isnan(shares[1])


def test_neighbours_and_overlap_are_counted_by_hand():
    # Sampled: (0,0), (0,1), (1,0). Neighbours to the right and below: (0,1) and (1,0) are sampled, of (0,1) to the
    # right there is none, below (1,1) is not, to the right of (1,0) neither.
    assert figure2b.neighbours_together([seen([[1, 1], [1, 0]])]) == pytest.approx(2 / 4)
    assert np.isnan(figure2b.neighbours_together([seen([[0, 0], [0, 0]])]))
    assert figure2b.overlap([seen(None, draws=[[[1, 1], [0, 0]], [[1, 0], [1, 0]]])]) == pytest.approx(1 / 3)
    assert figure2b.overlap([seen([[1, 0], [0, 0]])]) == 1
