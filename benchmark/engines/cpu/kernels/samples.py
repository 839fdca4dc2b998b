"""The sampled positions of a mask: listed, asked what reads them, and found again by an interpolation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.engines.base import Floats
from benchmark.engines.cpu.kernels import checks, library
from benchmark.engines.cpu.kernels.geometry import Geometry, bound

WINDOW_LIMIT = 15


class Samples:
    """The sampled positions of a mask, listed.

    Parameters
    ----------
    mask
        ``(H, W)`` float32: 0 where nothing is computed, else M (1, or a gate's value).

    Attributes
    ----------
    mask
        The mask.
    positions
        Its sampled positions in order, int32.
    starts
        ``(H + 1,)`` int32: how many are sampled before each row.
    binary
        Whether all values are 0 or 1.
    """

    def __init__(self, mask: Floats, *, threads: int = 1) -> None:
        library.require()
        mask = checks.floats("mask", mask, (None, None))
        if mask.size == 0:
            raise ValueError(f"mask of shape {mask.shape} is empty")
        self.mask = mask
        self.starts = np.empty(mask.shape[0] + 1, dtype=np.int32)
        kind = library.compiled.count_samples(mask, self.starts, checks.threads(threads))
        if kind < 0:
            raise ValueError(f"mask of shape {mask.shape} holds NaN, infinity or negative values")
        self.binary = kind == 1
        self.positions = np.empty(self.starts[-1], dtype=np.int32)
        library.compiled.list_samples(mask, self.starts, self.positions, threads)

    def __len__(self) -> int:
        """Return the number of sampled positions."""
        return len(self.positions)

    @property
    def scale(self) -> Floats | None:
        """M at the sampled positions; None if it is 1 at all of them."""
        return None if self.binary else self.mask.reshape(-1)[self.positions]


def positions_read(
    reader: Samples,
    geometry: Geometry,
    size: tuple[int, int],
    *,
    missing_of: Samples | None = None,
    threads: int = 1,
) -> NDArray[np.bool_]:
    """Return the positions of a map of this size that a convolution reads at its sampled positions, (H, W).

    What `benchmark.nn.sparsity.positions_read` says, from the list of samples; with ``missing_of``, the samples of the
    map itself, only those positions of it that are missing (M != 1).
    """
    if geometry.out_size(*size) != reader.mask.shape:
        raise ValueError(f"{geometry} on {size} gives {geometry.out_size(*size)}, but the mask is {reader.mask.shape}")
    if missing_of is not None and missing_of.mask.shape != size:
        raise ValueError(f"the map's mask has shape {missing_of.mask.shape}, expected {size}")
    wanted = np.empty(size, dtype=np.uint8)
    mask = None if missing_of is None else missing_of.mask
    library.compiled.positions_read(
        bound(geometry, *size), reader.positions, reader.starts, mask, wanted, checks.threads(threads)
    )
    return wanted.view(np.bool_)


class SampleIndex:
    """Where the rows of a mask's sampled positions are, with the border that a window needs.

    Parameters
    ----------
    samples
        The sampled positions.
    window
        Odd window of the interpolation.
    compact
        Rows are numbered in order of position (True), or by the position itself (False).
    ring
        Compact rows are numbered modulo this many: the caller keeps only the rows around what it fills.
    """

    def __init__(
        self, samples: Samples, window: int, *, compact: bool, ring: int | None = None, threads: int = 1
    ) -> None:
        if window % 2 != 1 or not 1 <= window <= WINDOW_LIMIT:
            raise ValueError(f"window must be odd and at most {WINDOW_LIMIT}, not {window}")
        radius = window // 2
        mask = samples.mask
        self.window = window
        self.size = mask.shape
        self.rows = mask.size
        if compact:
            self.rows = len(samples) if ring is None else ring
        padded = (mask.shape[0] + 2 * radius, mask.shape[1] + 2 * radius)
        self.index = np.empty(padded, dtype=np.int32)
        number_modulo = max(self.rows, 1) if compact else 0
        library.compiled.index_samples(
            samples.positions, samples.starts, mask.shape[1], radius, number_modulo, self.index, checks.threads(threads)
        )
        self.gate: Floats | None = None
        if not samples.binary:
            self.gate = np.zeros(padded, dtype=np.float32)
            self.gate[radius : radius + mask.shape[0], radius : radius + mask.shape[1]] = mask
