"""How figures look: colours, markers, type sizes, and files with the same bytes for the same numbers.

It knows no report and no record.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.files import write_atomic

__all__ = [
    "HEAD_LINE",
    "PLACES",
    "REFERENCE_LINE",
    "REFERENCE_STYLE",
    "WIDTH",
    "entry",
    "figure_style",
    "legend_below",
    "legend_height",
    "line_style",
    "new_figure",
    "place",
    "save",
    "write_below",
    "write_head",
]

#: Width of a page of text, in inches.
WIDTH = 7.2
#: Height of a line below an axes' title, in points.
HEAD_LINE = 10

# Colours of Okabe and Ito (without the yellow, which is too light for lines) and of Tol's muted scheme: apart
# for all common kinds of colour blindness. Each also has a marker of its own, so that print without colour
# can be read.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#882255", "#999933", "#332288", "#AA4499", "#117733", "#777777",
)  # fmt: skip
PLACES = len(_COLOURS)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "d")  # as many as colours

#: The dense network: black, because it is nobody's curve.
REFERENCE_STYLE: Mapping[str, Any] = {
    "color": "black", "marker": "*", "markersize": 10, "linestyle": "none",
}  # fmt: skip
REFERENCE_LINE: Mapping[str, Any] = {
    "color": "black", "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1,
}  # fmt: skip

_DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 16,  # room for a line of plain text below the title
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "svg.fonttype": "path",
    "svg.hashsalt": "saibench",  # otherwise the ids in an SVG are random
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw with our settings, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of a size in inches, for `save`."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a distance in inches from the figure's upper left corner, whatever stands below them."""
    total_width, total_height = figure.get_size_inches()
    return figure.add_axes(
        (left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height)
    )


def write_below(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    """Write text whose upper left corner is at a distance in inches from the figure's."""
    total_width, total_height = figure.get_size_inches()
    figure.text(left / total_width, 1 - top / total_height, text, va="top", ha="left", **style)


def write_head(axes: Axes, title: str, lines: Sequence[str]) -> None:
    """Write a title and lines of plain text below it, the last of them just above the axes."""
    axes.set_title(title, pad=matplotlib.rcParams["axes.titlepad"] + (len(lines) - 1) * HEAD_LINE)
    for index, line in enumerate(reversed(lines)):
        above = (0, 5 + index * HEAD_LINE)
        axes.annotate(line, (0, 1), above, xycoords="axes fraction", textcoords="offset points", fontsize=7.5)


def legend_below(figure: Figure, left: float, top: float, handles: Sequence[Line2D], columns: int) -> float:
    """Add a legend whose upper left corner is at a distance in inches from the figure's; return its height."""
    total_width, total_height = figure.get_size_inches()
    figure.legend(
        handles=list(handles),
        loc="upper left",
        bbox_to_anchor=(left / total_width, 1 - top / total_height),
        bbox_transform=figure.transFigure,
        ncols=columns,
        borderaxespad=0,
        borderpad=0,
        labelspacing=0.4,
        handlelength=2.6,
        columnspacing=1.4,
    )
    return legend_height(len(handles), columns)


def legend_height(entries: int, columns: int) -> float:
    """Return the height in inches of a legend."""
    return 0.15 * math.ceil(entries / columns)


def entry(name: str, style: Mapping[str, Any]) -> Line2D:
    """Return a legend's entry."""
    return Line2D([], [], label=name, **style)


def line_style(place: int, variant: int = 0) -> dict[str, Any]:
    """Return how a line looks.

    Parameters
    ----------
    place
        The method's: colour and marker, repeating after `PLACES`.
    variant
        Of several lines of one method: dashes and marker.
    """
    marker = _MARKERS[(place + 4 * variant + 5 * (place // PLACES)) % len(_MARKERS)]
    colour = _COLOURS[place % PLACES]
    solid = marker not in "PX"  # a white edge would eat these up
    return {
        "color": colour,
        "marker": marker,
        "markersize": 5.5 if solid else 6,
        "linestyle": _DASHES[(variant + place // PLACES) % len(_DASHES)],
        "markeredgecolor": "white" if solid else colour,
        "markeredgewidth": 0.6 if solid else 0.2,
    }


def save(figure: Figure, out: Path, stem: str, forms: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
    """Write a figure as PNG (300 dots an inch), SVG and PDF, without dates or versions in the files."""
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    files = []
    for form in forms:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, dpi=300, metadata=metadata[form])
        files.append(write_atomic(out / f"{stem}.{form}", buffer.getvalue()))
    return files
