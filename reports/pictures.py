"""Pictures of where a network computes: masks over an image, and how many of them compute each pixel.

They are drawn from a `benchmark.sampling.Sampling`; which cells are shown, and what is said of them, is the business of
``saibench show``, of the reports and of the page.
"""

from __future__ import annotations

import base64
import io
import math
import re
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from benchmark.sampling import Sampling, stretch
from reports.drawing import WIDTH, new_figure, place, write_below

__all__ = ["draw", "heat", "overlay", "show_density", "show_picture", "typical", "uri", "words"]

_COLOURS = "viridis"  # lightness rises with the density, also in print without colour
_LEFT = 0.1
_GAP = 0.12
_HEAD = 0.17  # of a panel: a line of text
_DIM = 0.22  # of the colours that are left where nothing is computed

Pixels = npt.NDArray[np.uint8]


def overlay(image: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    """Return an image ``(H, W, 3)`` that is dark where a mask ``(h, w)`` leaves positions out."""
    computed = stretch(mask.astype(np.float64), (image.shape[0], image.shape[1]))[..., None]
    return np.rint(image * np.where(computed > 0, 1.0, _DIM)).astype(np.uint8)


def heat(density: npt.NDArray[np.floating]) -> Pixels:
    """Return shares ``(H, W)`` as colours ``(H, W, 3)``: dark for 0, light for 1."""
    return matplotlib.colormaps[_COLOURS](density, bytes=True)[..., :3]


def uri(pixels: Pixels, side: int = 128) -> str:
    """Return a picture as a ``data:`` address: a small PNG, no longer than so many pixels."""
    small = Image.fromarray(pixels)
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.quantize(64).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def words(name: str) -> str:
    """Return a mask's name for people: ``layer1.0.mask2`` is the second mask of block 0 in stage ``layer1``."""
    return re.sub(r"\.mask(\d)$", r" mask \1", name)


def typical(sampling: Sampling) -> str:
    """Return the mask that stands for all where one is shown: on the finest maps, the density nearest to their mean."""
    shares = sampling.shares()
    finest = max(mask[0].size for mask in sampling.masks.values())
    fine = {name: shares[name] for name, mask in sampling.masks.items() if mask[0].size == finest}
    mean = float(np.mean(list(fine.values())))
    return min(fine, key=lambda name: abs(fine[name] - mean))


def show_picture(axes: Axes, pixels: Pixels, text: str) -> None:
    """Show pixels as they are, under a line of text."""
    axes.imshow(pixels, interpolation="nearest", aspect="equal")
    _bare(axes, text)


def show_density(axes: Axes, density: npt.NDArray[np.float64], text: str) -> None:
    """Show shares as colours, under a line of text."""
    show_picture(axes, heat(density), text)


def draw(sampling: Sampling, title: str, notes: Sequence[str]) -> Figure:
    """Draw an image, how many masks compute each pixel, over all draws and in each, and every mask of the first draw.

    Parameters
    ----------
    title
        What was run on which image.
    notes
        Lines below: what the network is, and that it is untrained where it is.
    """
    height, width = sampling.image.shape[:2]
    tops = _tops(sampling)
    columns, small = max(4, min(5, len(tops))), _columns(len(sampling.masks))
    side = (WIDTH - 2 * _LEFT - (columns - 1) * _GAP) / columns
    tiny = (WIDTH - 2 * _LEFT - (small - 1) * _GAP) / small
    rows, others = math.ceil(len(tops) / columns), math.ceil(len(sampling.masks) / small)
    tall, short = side * height / width, tiny * height / width
    wrapped = [line for note in notes for line in textwrap.wrap(note, 125)]
    masks_top = 0.4 + rows * (tall + _HEAD + _GAP) + 0.3
    foot = masks_top + others * (short + _HEAD + _GAP) + 0.05
    figure = new_figure(foot + 0.135 * len(wrapped) + 0.08)
    write_below(figure, _LEFT, 0.06, title, fontsize=9, fontweight="bold")
    for index, (pixels, text) in enumerate(tops):
        row, column = divmod(index, columns)
        left, top = _LEFT + column * (side + _GAP), 0.4 + row * (tall + _HEAD + _GAP)
        show_picture(place(figure, left, top + _HEAD, side, tall), pixels, text)
    _scale(figure, masks_top - 0.27)
    for index, (name, mask) in enumerate(sampling.masks.items()):
        row, column = divmod(index, small)
        left, top = _LEFT + column * (tiny + _GAP), masks_top + row * (short + _HEAD + _GAP)
        text = f"{words(name)}  {mask[0].mean():.2f}"
        show_picture(place(figure, left, top + _HEAD, tiny, short), overlay(sampling.image, mask[0]), text)
    write_below(figure, _LEFT, foot, "\n".join(wrapped), fontsize=7, linespacing=1.25)
    return figure


def _tops(sampling: Sampling) -> list[tuple[Pixels, str]]:
    """Return the pictures of the upper rows."""
    high, wide = sampling.image.shape[:2]
    mean = sampling.density()
    found = [(sampling.image, f"image, {wide}×{high}"), (heat(mean), f"sampling density, mean {mean.mean():.2f}")]
    if len(sampling.seeds) == 1:
        return found
    for draw_, seed in enumerate(sampling.seeds):
        density = sampling.density(draw_)
        found.append((heat(density), f"seed {seed}: {density.mean():.2f}"))
    return found


def _columns(masks: int) -> int:
    """Return how many masks stand in a row: so many that text above them can be read."""
    return 4 if masks <= 8 else 6


def _scale(figure: Figure, top: float) -> None:
    """Draw the scale of the densities, and say what the pictures below it are."""
    axes = place(figure, _LEFT, top + 0.02, 1.0, 0.08)
    bar = figure.colorbar(ScalarMappable(cmap=_COLOURS), cax=axes, orientation="horizontal", ticks=[])
    bar.outline.set_visible(False)
    text = "0 to 1: share of the masks that compute a pixel.   Below, each mask of the first draw: dark is left out."
    write_below(figure, _LEFT + 1.1, top, text, fontsize=7)


def _bare(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.annotate(text, (0, 1), (0, 2.5), xycoords="axes fraction", textcoords="offset points", fontsize=6.5)
