"""Figure 1: an image, and where deterministic and stochastic sampling compute on it at equal computation."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmark.sampling import Sampling
from benchmark.selection import Cells
from reports import pictures
from reports.base import Output, Picture, Results, provenance_line
from reports.curves import COST, Panel, panels, stems
from reports.drawing import WIDTH, figure_style, new_figure, place, save, write_below
from reports.looks import DETERMINISTIC, STOCHASTIC, Look, equal_computation, finished, look_of
from reports.tables import Column, Table
from reports.values import number, or_dash, plain

TITLE = "Figure 1: deterministic and stochastic sampling"

CELLS = (Cells("coco", DETERMINISTIC), Cells("coco", STOCHASTIC))

_NAME = "figure1"
_TASK = "coco"
_COMMAND = f"saibench sweep {_TASK} --cells {_NAME}"
_WHAT = {
    "b": "deterministic sampling",
    "c": "stochastic sampling, nearest accuracy at less computation",
    "d": "stochastic sampling at the computation of (b)",
}
_COLUMNS = (
    Column("part", "Part"),
    Column("what", "What it shows"),
    Column("cell_id", "Cell", or_dash(plain)),
    Column("setting", "Setting", or_dash(plain)),
    Column("seed", "Seed", or_dash(plain), True),
    Column("_score", "Accuracy", or_dash(plain), True),
    Column("gmacs", "GMACs", or_dash(number(4)), True),
    Column("of_b", "of (b)", or_dash(number(2)), True),
    Column("density", "Density here", or_dash(number(2)), True),
    Column("status", "Status"),
)


@dataclass(frozen=True)
class _Part:
    """One of (b), (c), (d)."""

    part: str
    look: Look | None
    problem: str = ""


def build(results: Results, out: Path) -> Output:
    """Draw a figure and write a table for each panel; a table that says what to run, where there is none."""
    found = panels(results, _TASK)
    files: list[Path] = []
    tables: list[Table] = []
    shown: list[Picture] = []
    names = stems(_NAME, found) if found else [f"{_NAME}-{_TASK}"]
    shown_panels: list[Panel | None] = [*found] or [None]
    for panel, stem in zip(shown_panels, names, strict=True):
        parts = _parts(panel)
        images = _images(parts)
        if panel is not None and images:
            with figure_style():
                files += save(_draw(panel, parts, images), out, stem)
            shown += _pictures(panel, parts, images[0])
        tables.append(_table(panel, parts, images))
        files += tables[-1].write(out, stem)
    text = "\n".join(table.markdown() for table in tables)
    return Output(_NAME, TITLE, files, text, list(results.warnings), tables, shown)


def _parts(panel: Panel | None) -> list[_Part]:
    pair = None if panel is None else equal_computation(panel)
    if panel is None or pair is None:
        return [_Part(part, None, f"not run: {_COMMAND}") for part in _WHAT]
    cheaper = _cheaper(panel, pair.deterministic, pair.stochastic)
    none = "no stochastic cell computes less than (b), other than (d)"
    return [
        _Part("b", pair.deterministic, pair.deterministic.problem),
        _Part("c", cheaper, none if cheaper is None else cheaper.problem),
        _Part("d", pair.stochastic, pair.stochastic.problem),
    ]


def _cheaper(panel: Panel, reference: Look, other: Look) -> Look | None:
    """Return the stochastic cell of less computation than the reference whose accuracy is nearest to it."""
    cells = finished(panel, STOCHASTIC)
    here = cells["seed"].eq(reference.cell["seed"]) & cells[COST].lt(reference.cost)
    cells = cells[here & cells["cell_id"].ne(other.cell["cell_id"])]
    if cells.empty:
        return None
    return look_of(cells.loc[(cells[panel.score] - reference.cell[panel.score]).abs().idxmin()])


def _images(parts: Sequence[_Part]) -> list[str]:
    """Return the images that the records of all parts keep masks of, (c) aside; none where one keeps no masks."""
    kept = [[each.identifier for each in part.look.samplings] for part in parts if part.look and part.part != "c"]
    return [name for name in kept[0] if all(name in other for other in kept)] if kept else []


def _sampling(part: _Part, image: str) -> Sampling | None:
    samplings = part.look.samplings if part.look else []
    return next((each for each in samplings if each.identifier == image), None)


def _mask(parts: Sequence[_Part], image: str) -> str:
    """Return the name of the mask that is drawn: one for all parts."""
    seen = [sampling for part in parts if (sampling := _sampling(part, image)) is not None]
    name = pictures.typical(seen[0])
    return name if all(name in each.masks for each in seen) else next(iter(seen[0].masks))


def _draw(panel: Panel, parts: Sequence[_Part], images: Sequence[str]) -> Figure:
    """Draw for each image a row with a mask and a row with the sampling density."""
    left, gap, head = 0.1, 0.1, 0.3
    side = (WIDTH - 2 * left - 3 * gap) / 4
    first = next(each for part in parts if (each := _sampling(part, images[0])) is not None)
    tall = side * first.image.shape[0] / first.image.shape[1]
    figure = new_figure(0.3 + 2 * len(images) * (tall + head) + 0.1)
    write_below(figure, left, 0.06, f"{TITLE}; {panel.data()}", fontsize=9, fontweight="bold")
    for row, image in enumerate(images):
        name, top = _mask(parts, image), 0.3 + 2 * row * (tall + head)
        axes = place(figure, left, top + head, side, tall)
        pictures.show_picture(axes, _picture(parts, image), f"(a) image {image}")
        below = top + tall + head
        write_below(figure, left, below + head, f"upper row: {pictures.words(name)}\nlower row: share of all masks\n"
                    "that compute a pixel,\nfrom dark (0) to light (1)", fontsize=7)  # fmt: skip
        for column, part in enumerate(parts, start=1):
            sampling, place_left = _sampling(part, image), left + column * (side + gap)
            if sampling is None or part.look is None:
                write_below(figure, place_left, top + head, _wrap(f"({part.part}) {part.problem}"), fontsize=6.5)
                continue
            text = f"({part.part}) {part.look.cell['label']}\n{part.look.about(panel)}"
            upper = place(figure, place_left, top + head, side, tall)
            pictures.show_picture(upper, pictures.overlay(sampling.image, sampling.masks[name][0]), text)
            density = sampling.density(0)
            lower = place(figure, place_left, below + head, side, tall)
            pictures.show_density(lower, density, f"({part.part}) density {density.mean():.2f}")
    return figure


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 34))


def _picture(parts: Sequence[_Part], image: str) -> Any:
    return next(each.image for part in parts if (each := _sampling(part, image)) is not None)


def _pictures(panel: Panel, parts: Sequence[_Part], image: str) -> list[Picture]:
    """Return what the page shows: the image, and a mask and the density of each part."""
    name = _mask(parts, image)
    shown = [Picture(f"(a) image {image}", pictures.uri(_picture(parts, image)))]
    for part in parts:
        sampling = _sampling(part, image)
        if sampling is not None and part.look is not None:
            said = f"({part.part}) {part.look.cell['label']}: {part.look.about(panel)}"
            mask = pictures.overlay(sampling.image, sampling.masks[name][0])
            shown.append(Picture(f"{said}; {pictures.words(name)}", pictures.uri(mask)))
            shown.append(Picture(f"{said}; sampling density", pictures.uri(pictures.heat(sampling.density(0)))))
    return shown


def _table(panel: Panel | None, parts: Sequence[_Part], images: Sequence[str]) -> Table:
    rows = []
    reference = parts[0].look
    for part in parts:
        row: dict[str, Any] = {"part": f"({part.part})", "what": _WHAT[part.part], "status": part.problem or "shown"}
        if part.look is not None and panel is not None:
            cell = part.look.cell
            sampling = _sampling(part, images[0]) if images else None
            row |= {
                "cell_id": str(cell["cell_id"]), "setting": str(cell["setting"]), "seed": int(cell["seed"]),
                "score": part.look.score(panel), "_score": f"{panel.metric.label} {part.look.score(panel):.1f}",
                "gmacs": part.look.cost, "of_b": part.look.cost / reference.cost if reference else None,
                "density": None if sampling is None else float(sampling.density(0).mean()),
            }  # fmt: skip
        rows.append(row)
    notes = [
        "Of the cells that share a seed, (b) and (d) are the two whose computation is nearest. GMACs and accuracy are "
        "those of the whole validation set; density here: share of the masks that compute a pixel, mean over the "
        "first image. The paper prints no numbers, and leaves the grid prior out of its pictures; here it is in them.",
    ]
    if panel is None:
        return Table(f"{TITLE}; nothing run yet", _COLUMNS, rows, notes)
    cells = [part.look.cell["cell_id"] for part in parts if part.look]
    if cells:
        notes.append(f"Provenance: {provenance_line(panel.cells[panel.cells['cell_id'].isin(cells)])}.")
    return Table(f"{TITLE}; {panel.data()}", _COLUMNS, rows, notes)
