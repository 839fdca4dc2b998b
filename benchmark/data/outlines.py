"""Boundaries of masks as polygons, for annotations of rendered scenes; it knows no file format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def trace(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the closed boundaries between the pixels of a mask and the rest.

    Parameters
    ----------
    mask : ndarray, bool, (H, W)
        Any mask; pixels that touch only at a corner belong to different parts.

    Returns
    -------
    list of ndarray, int64, (N, 2)
        Corners (x, y) in pixel edges, without repeating the first; outer boundaries run clockwise on the
        screen (positive `signed_area`), holes the other way.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Directed edges with the pixel on their right-hand side (y points down): start corner and direction.
    sides = {
        (1, 0): (inside & ~padded[:-2, 1:-1], (0, 0)),  # top, to the right
        (0, 1): (inside & ~padded[1:-1, 2:], (1, 0)),  # right, down
        (-1, 0): (inside & ~padded[2:, 1:-1], (1, 1)),  # bottom, to the left
        (0, -1): (inside & ~padded[1:-1, :-2], (0, 1)),  # left, up
    }
    leaving: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for direction, (edge, (dx, dy)) in sides.items():
        for y, x in np.argwhere(edge).tolist():
            leaving.setdefault((x + dx, y + dy), []).append(direction)
    loops = []
    while leaving:
        corner = start = next(iter(leaving))
        last: tuple[int, int] | None = None
        corners: list[tuple[int, int]] = []
        while True:
            ways = leaving[corner]
            # Where two pixels touch at a corner, turn right: stay with the pixel that we are going around.
            way = ways[0] if len(ways) == 1 or last is None else (-last[1], last[0])
            ways.remove(way)
            if not ways:
                del leaving[corner]
            if way != last:
                corners.append(corner)
            last = way
            corner = (corner[0] + way[0], corner[1] + way[1])
            if corner == start and (-way[1], way[0]) not in leaving.get(corner, ()):
                break
        loops.append(np.array(corners, np.int64))
    return loops


def signed_area(loop: NDArray[np.int64]) -> float:
    """Return the area within a closed polygon (N, 2); positive if it runs clockwise on the screen."""
    x, y = loop[:, 0], loop[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
