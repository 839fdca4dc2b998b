"""Figure 2(b): positions of one confidence are sampled all or none, or a part of them at random.

The paper draws a sketch. Here it is measured: how many positions of each confidence two trained networks sample, how
often neighbours are sampled together, and how much two draws have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.sampling import Sampling
from benchmark.selection import Cells
from reports import pictures
from reports.base import Output, Picture, Results, provenance_line
from reports.curves import Panel, panels, stems
from reports.drawing import entry, figure_style, legend_below, line_style, new_figure, place, save, write_below
from reports.looks import DETERMINISTIC, STOCHASTIC, Look, Pair, equal_computation
from reports.methods import Methods
from reports.tables import Column, Table
from reports.values import number, or_dash, plain

TITLE = "Figure 2(b): sampling positions of equal confidence"

CELLS = (Cells("coco", DETERMINISTIC), Cells("coco", STOCHASTIC))

BINS = 10  # of confidence, from 0 to 1
FEWEST = 20  # positions of a bin whose share is drawn

_NAME = "figure2b"
_TASK = "coco"
_COMMAND = f"saibench sweep {_TASK} --cells {_NAME}"
_COLUMNS = (
    Column("label", "Sampling"),
    Column("cell_id", "Cell", or_dash(plain)),
    Column("gmacs", "GMACs", or_dash(number(4)), True),
    Column("density", "Density", or_dash(number(3)), True),
    Column("below", "Sampled below 0.5", or_dash(number(3)), True),
    Column("above", "Sampled above 0.5", or_dash(number(3)), True),
    Column("neighbours", "Neighbour sampled too", or_dash(number(3)), True),
    Column("overlap", "In both draws", or_dash(number(3)), True),
    Column("status", "Status"),
)


def _share(value: object) -> str:
    return "no position" if value is None else number(3)(value)


_BIN_COLUMNS = (
    Column("bin", "Confidence"),
    Column("deterministic", "Deterministic: sampled", _share, True),
    Column("deterministic_positions", "Positions", right=True),
    Column("stochastic", "Stochastic: sampled", _share, True),
    Column("stochastic_positions", "Positions", right=True),
)


def build(results: Results, out: Path) -> Output:
    """Draw a figure and write two tables for each panel; a table that says what to run, where there is none."""
    found = panels(results, _TASK)
    files: list[Path] = []
    tables: list[Table] = []
    shown: list[Picture] = []
    names = stems(_NAME, found) if found else [f"{_NAME}-{_TASK}"]
    shown_panels: list[Panel | None] = [*found] or [None]
    for panel, stem in zip(shown_panels, names, strict=True):
        pair = None if panel is None else equal_computation(panel)
        tables.append(_table(panel, pair))
        files += tables[-1].write(out, stem)
        if panel is None or pair is None or not all(look.samplings for look in (pair.deterministic, pair.stochastic)):
            continue
        with figure_style():
            files += save(_draw(panel, pair, results.methods), out, stem)
        shown += _pictures(pair)
        tables.append(_bins(panel, pair))
        files += tables[-1].write(out, f"{stem}-confidence")
    text = "\n".join(table.markdown() for table in tables)
    return Output(_NAME, TITLE, files, text, list(results.warnings), tables, shown)


# ---------------------------------------------------------------------------------------------------------- numbers


def sampled_by_confidence(samplings: Sequence[Sampling]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return for each bin of confidence the share of its positions that the first draw samples, and their number.

    Returns
    -------
    shares, positions
        ``(BINS,)`` each; a share is NaN in a bin without positions.
    """
    positions, sampled = np.zeros(BINS, dtype=np.int64), np.zeros(BINS)
    for each in samplings:
        for name, confidence in each.confidences.items():
            place_ = np.minimum((confidence * BINS).astype(int), BINS - 1)
            positions += np.bincount(place_.ravel(), minlength=BINS)
            sampled += np.bincount(place_.ravel(), each.masks[name][0].ravel(), minlength=BINS)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sampled / positions, positions


def neighbours_together(samplings: Sequence[Sampling]) -> float:
    """Return the share of the neighbours, to the right and below, of sampled positions that are sampled too."""
    there = both = 0
    for each in samplings:
        for masks in each.masks.values():
            mask = masks[0]
            for one, other in ((mask[:, :-1], mask[:, 1:]), (mask[:-1], mask[1:])):
                there += int(one.sum())
                both += int((one & other).sum())
    return both / there if there else float("nan")


def overlap(samplings: Sequence[Sampling]) -> float:
    """Return the positions that two draws sample as a share of those that one of them does; 1 where draws are alike."""
    either = both = 0
    for each in samplings:
        for masks in each.masks.values():
            one, other = masks[0], masks[-1 if len(masks) == 1 else 1]
            either += int((one | other).sum())
            both += int((one & other).sum())
    return both / either if either else float("nan")


def _density(samplings: Sequence[Sampling]) -> float:
    sampled = sum(int(masks[0].sum()) for each in samplings for masks in each.masks.values())
    return sampled / sum(masks[0].size for each in samplings for masks in each.masks.values())


def _half(samplings: Sequence[Sampling], above: bool) -> float:
    shares, positions = sampled_by_confidence(samplings)
    chosen = slice(BINS // 2, None) if above else slice(0, BINS // 2)
    count = positions[chosen].sum()
    return float(np.nansum(shares[chosen] * positions[chosen]) / count) if count else float("nan")


# ----------------------------------------------------------------------------------------------------------- tables


def _looks(pair: Pair) -> list[tuple[str, Look]]:
    return [("deterministic", pair.deterministic), ("stochastic", pair.stochastic)]


def _table(panel: Panel | None, pair: Pair | None) -> Table:
    notes = [
        "Of the records' first validation images, over all positions of all masks. Sampled below and above 0.5: share "
        "of the positions with such a confidence. Neighbour sampled too: of the neighbours of sampled positions. In "
        "both draws: of the positions that one of two draws samples. The grid prior samples its positions whatever "
        "their confidence. The paper draws a sketch and prints no numbers.",
    ]
    if panel is None or pair is None:
        rows: list[dict[str, Any]] = [{"label": name, "status": f"not run: {_COMMAND}"} for name in
                                      ("deterministic", "stochastic")]  # fmt: skip
        heading = "nothing run yet" if panel is None else panel.data()
        return Table(f"{TITLE}; {heading}", _COLUMNS, rows, notes)
    rows = [_row(name, look) for name, look in _looks(pair)]
    cells = panel.cells[panel.cells["cell_id"].isin([look.cell["cell_id"] for _, look in _looks(pair)])]
    notes.append(f"Provenance: {provenance_line(cells)}.")
    return Table(f"{TITLE}; {panel.data()}", _COLUMNS, rows, notes)


def _row(name: str, look: Look) -> dict[str, Any]:
    row = {"label": name, "cell_id": str(look.cell["cell_id"]), "gmacs": look.cost, "status": look.problem or "shown"}
    if look.samplings:
        row |= {
            "density": _density(look.samplings), "below": _half(look.samplings, False),
            "above": _half(look.samplings, True), "neighbours": neighbours_together(look.samplings),
            "overlap": overlap(look.samplings),
        }  # fmt: skip
    return row


def _bins(panel: Panel, pair: Pair) -> Table:
    found = {name: sampled_by_confidence(look.samplings) for name, look in _looks(pair)}
    rows = [
        {
            "bin": f"{place_ / BINS:.1f} to {(place_ + 1) / BINS:.1f}",
            **{
                name: None if np.isnan(shares[place_]) else float(shares[place_]) for name, (shares, _) in found.items()
            },
            **{f"{name}_positions": int(positions[place_]) for name, (_, positions) in found.items()},
        }
        for place_ in range(BINS)
    ]
    return Table(f"Share sampled by confidence; {panel.data()}", _BIN_COLUMNS, rows)


# ----------------------------------------------------------------------------------------------------------- figure


def _draw(panel: Panel, pair: Pair, known: Methods) -> Figure:
    """Draw for both a confidence and two draws of one mask, and beside them the share sampled over confidence."""
    left, side, gap, head = 0.1, 1.35, 0.12, 0.3
    figure = new_figure(0.3 + 2 * (side + head) + 0.2)
    write_below(figure, left, 0.06, f"{TITLE}; {panel.data()}", fontsize=9, fontweight="bold")
    for row, (label, look) in enumerate(_looks(pair)):
        for column, (pixels, text) in enumerate(_row_of_pictures(label, pair, look)):
            axes = place(figure, left + column * (side + gap), 0.3 + head + row * (side + head), side, side)
            pictures.show_picture(axes, pixels, text)
    chart = place(figure, left + 3 * (side + gap) + 0.5, 0.3 + head, 2.0, 2.1)
    styles = [line_style(known.place(method)) for method in (DETERMINISTIC, STOCHASTIC)]
    for (_, look), style in zip(_looks(pair), styles, strict=True):
        _chart(chart, look, style)
    handles = [entry(str(look.cell["label"]), style) for (_, look), style in zip(_looks(pair), styles, strict=True)]
    legend_below(figure, left + 3 * (side + gap) + 0.5, 0.3 + head + 2.1 + 0.5, handles, 1)
    return figure


def _name(pair: Pair, look: Look) -> str:
    """Return the mask that is drawn: of those that both networks have, the one whose confidence varies most in both.

    A mask that is sure everywhere has nothing to show of how positions of one confidence are treated.
    """
    here = look.samplings[0].confidences
    both = [each.samplings[0].confidences for each in (pair.deterministic, pair.stochastic)]
    shared = [name for name in here if all(name in confidences for confidences in both)]
    return max(shared or here, key=lambda name: min(float(each[name].std()) for each in both if name in each))


def _row_of_pictures(label: str, pair: Pair, look: Look) -> list[tuple[pictures.Pixels, str]]:
    sampling, name = look.samplings[0], _name(pair, look)
    masks = sampling.masks[name]
    second = masks[1] if len(masks) > 1 else masks[0]
    alike = "" if len(masks) > 1 else ", the same"
    return [
        (pictures.heat(sampling.confidences[name]), f"{label}: confidence\n{pictures.words(name)}"),
        (pictures.overlay(sampling.image, masks[0]), f"first draw\n{masks[0].mean():.2f} sampled"),
        (pictures.overlay(sampling.image, second), f"second draw{alike}\n{second.mean():.2f} sampled"),
    ]


def _chart(axes: Axes, look: Look, style: dict[str, Any]) -> None:
    shares, positions = sampled_by_confidence(look.samplings)
    drawn = positions >= FEWEST
    axes.plot((np.arange(BINS) + 0.5)[drawn] / BINS, shares[drawn], **style)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="Confidence of a position", ylabel="Share sampled")


def _pictures(pair: Pair) -> list[Picture]:
    found = [each for label, look in _looks(pair) for each in _row_of_pictures(label, pair, look)]
    names = [label for label, _ in _looks(pair) for _ in range(3)]
    return [
        Picture(text.replace("\n", ", ") if text.startswith(name) else f"{name}: {text}".replace("\n", ", "),
                pictures.uri(pixels))
        for name, (pixels, text) in zip(names, found, strict=True)
    ]  # fmt: skip
