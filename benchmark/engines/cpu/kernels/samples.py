"""The sampled positions of a mask: listed, asked what reads them, and found again by an interpolation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmark.engines.base import Floats
from benchmark.engines.cpu.kernels import checks, library
from benchmark.engines.cpu.kernels.checks import Positions
from benchmark.engines.cpu.kernels.geometry import Geometry, bound

WINDOW_LIMIT = 31
"""The widest window of an interpolation (`MAX_WINDOW` of blend_group.h)."""


class Samples:
    """The sampled positions of a mask, listed.

    What kernels read of it cannot be written to, since they do not check it again.

    Parameters
    ----------
    mask
        ``(H, W)`` float32: 0 where nothing is computed, else M (1, or a gate's value). It is not copied: who writes to
        it afterwards has lists of another mask.
    """

    def __init__(self, mask: Floats, *, threads: int = 1) -> None:
        library.require()
        mask = checks.floats("mask", mask, (None, None))
        if mask.size == 0:
            raise ValueError(f"mask of shape {mask.shape} is empty")
        checks.size("mask", mask.shape)
        threads = checks.threads(threads)
        starts = np.empty(mask.shape[0] + 1, dtype=np.int32)
        kind = library.compiled.count_samples(mask, starts, threads)
        if kind < 0:
            raise ValueError(f"mask of shape {mask.shape} holds NaN, infinity or negative values")
        positions = np.empty(starts[-1], dtype=np.int32)
        library.compiled.list_samples(mask, starts, positions, threads)
        self._mask, self._binary = mask, kind == 1
        self._positions, self._starts = _read_only(positions), _read_only(starts)

    def __len__(self) -> int:
        """Return the number of sampled positions."""
        return len(self._positions)

    @property
    def mask(self) -> Floats:
        """The mask."""
        return self._mask

    @property
    def positions(self) -> Positions:
        """Its sampled positions in order, int32."""
        return self._positions

    @property
    def starts(self) -> Positions:
        """``(H + 1,)`` int32: how many are sampled before each row."""
        return self._starts

    @property
    def binary(self) -> bool:
        """Whether all values are 0 or 1."""
        return self._binary

    @property
    def scale(self) -> Floats | None:
        """M at the sampled positions; None if it is 1 at all of them."""
        return None if self._binary else self._mask.reshape(-1)[self._positions]


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
    if geometry.row_taps:
        raise ValueError(f"positions that are read have no border: {geometry}")
    checks.size("size", size)
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

    What kernels read of it cannot be written to, since they do not check it again.

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
        if ring is not None and (not compact or not min(1, len(samples)) <= ring <= checks.POSITION_LIMIT):
            raise ValueError(f"a ring of {ring} rows for {len(samples)} samples, compact={compact}")
        radius = window // 2
        mask = samples.mask
        self._window, self._size = window, (mask.shape[0], mask.shape[1])
        self._rows = mask.size
        if compact:
            self._rows = len(samples) if ring is None else ring
        padded = (mask.shape[0] + 2 * radius, mask.shape[1] + 2 * radius)
        index = np.empty(padded, dtype=np.int32)
        number_modulo = max(self._rows, 1) if compact else 0
        library.compiled.index_samples(
            samples.positions, samples.starts, mask.shape[1], radius, number_modulo, index, checks.threads(threads)
        )
        self._index = _read_only(index)
        self._gate: Floats | None = None
        if not samples.binary:
            self._gate = np.zeros(padded, dtype=np.float32)
            self._gate[radius : radius + mask.shape[0], radius : radius + mask.shape[1]] = mask

    @property
    def window(self) -> int:
        """Side of the window."""
        return self._window

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the mask."""
        return self._size

    @property
    def rows(self) -> int:
        """How many rows the numbers are of."""
        return self._rows

    @property
    def index(self) -> Positions:
        """Each position's row, -1 where none is, with a border of half a window: ``(H + 2 r, W + 2 r)`` int32."""
        return self._index

    @property
    def gate(self) -> Floats | None:
        """M with the same border; None if it is 0 or 1 everywhere."""
        return self._gate


def _read_only(array: Positions) -> Positions:
    """Return a view whose owner nobody else has, so that it cannot be made writable again."""
    array.flags.writeable = False
    return array.view()
