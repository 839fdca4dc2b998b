"""Interpolation, and the end of a block in the same pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.engines.base import Floats
from benchmark.engines.cpu.kernels import checks, library
from benchmark.engines.cpu.kernels.checks import Positions
from benchmark.engines.cpu.kernels.narrow import Follow
from benchmark.engines.cpu.kernels.samples import SampleIndex

EPSILON = 1e-5
"""Added to the denominator of every interpolation (paper, text below eq. 3)."""


def row_distance(channels: int) -> int:
    """Return how many floats apart rows of that many channels should lie that an interpolation reads.

    Rows whose distance is a multiple of 4096 bytes (or half of it) put the same channel of each into one or two sets
    of a first-level cache, which hold 8 to 12 lines each; an interpolation reads more rows than that at once.
    """
    return channels if channels % 512 else channels + 16


def blend(
    samples: SampleIndex,
    rows: Floats,
    out: Floats,
    *,
    numerator: Floats | None = None,
    denominator: Floats | None = None,
    nearest: Positions | None = None,
    wanted: NDArray[np.bool_] | None = None,
    map_rows: tuple[int, int] | None = None,
    bias: Floats | None = None,
    residual: Floats | None = None,
    relu: bool = False,
    squared: bool = False,
    epsilon: float = EPSILON,
    follow: Follow | None = None,
    threads: int = 1,
) -> int:
    """Fill positions from the sampled rows around them, and end the block there.

    For each wanted position: ``out = relu(own + (1 - M) * C + bias + residual)`` with
    ``C = sum(numerator * rows) / (sum(denominator * M) + epsilon)`` over the sampled positions of the window; ``own``
    is the position's own row where it was sampled.

    Parameters
    ----------
    samples
        Index of the sampled positions.
    rows
        Their rows, already multiplied by M: ``(samples.rows, C)``, perhaps further apart than they are long.
    out
        ``(H * W, C)``; only the wanted rows are written. May be ``rows`` itself for a 0/1 mask with rows by position.
    numerator, denominator
        Kernels, ``(window, window)``; None fills with zeros.
    nearest
        ``(H, W)`` int32 instead of the kernels: the row that fills each position (-1: zeros).
    wanted
        Which positions, ``(H, W)``; None for all.
    map_rows
        Rows of the map, from and to; None for all.
    residual
        ``(H * W, C)``, may be ``out``.
    squared
        Multiply a sampled position's own row by M once more, as the paper's eqs. 4 and 5 do to the letter.
    follow
        Mask products of ``out``, computed as its positions are finished; all must then be wanted.

    Returns
    -------
    int
        (Position, sampled neighbour) pairs summed; times C these are the multiply-accumulates. A nearest fill counts
        none.
    """
    library.require()
    height, width = samples.size
    rows = checks.rows("rows", rows, (samples.rows, None))
    channels = rows.shape[1]
    if channels < 1:
        raise ValueError(f"rows has shape {rows.shape}: no channels")
    out = checks.floats("out", out, (height * width, channels))
    shape = (samples.window, samples.window)
    if (numerator is None) != (denominator is None) or (numerator is not None and nearest is not None):
        raise ValueError("give numerator and denominator, or nearest, or none of them")
    if numerator is not None and denominator is not None:
        numerator = checks.floats("numerator", numerator, shape).reshape(-1)
        denominator = checks.floats("denominator", denominator, shape).reshape(-1)
    if nearest is not None:
        nearest = checks.ints("nearest", nearest, samples.size).reshape(-1)
        if int(nearest.min()) < -1 or int(nearest.max()) >= samples.rows:
            raise ValueError(f"nearest holds {nearest.min()} .. {nearest.max()}, allowed are -1 .. {samples.rows - 1}")
    if bias is not None:
        bias = checks.floats("bias", bias, (channels,))
    if residual is not None:
        residual = checks.floats("residual", residual, (height * width, channels)).reshape(-1)
    if wanted is not None:
        if not isinstance(wanted, np.ndarray) or wanted.dtype != np.bool_:
            raise TypeError(f"wanted must be a boolean array, not {getattr(wanted, 'dtype', type(wanted).__name__)}")
        if wanted.shape != samples.size or not wanted.flags.c_contiguous:
            raise ValueError(f"wanted has shape {wanted.shape}, expected {samples.size}, C-contiguous")
        if follow is not None:
            raise ValueError("mask products follow where every position is wanted, not some")
    begin, end = map_rows or (0, height)
    if not 0 <= begin <= end <= height:
        raise ValueError(f"map_rows {map_rows} of a map of height {height}")
    return int(
        library.compiled.blend(
            width,
            samples.window,
            channels,
            samples.index.reshape(-1),
            None if samples.gate is None else samples.gate.reshape(-1),
            numerator,
            denominator,
            nearest,
            epsilon,
            rows,
            bias,
            residual,
            out.reshape(-1),
            relu,
            squared,
            None if wanted is None else wanted.reshape(-1).view(np.uint8),
            begin,
            end,
            None if follow is None else follow.bound(out),
            checks.threads(threads),
        )
    )
