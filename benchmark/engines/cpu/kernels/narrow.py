"""Convolutions with few outputs (masks, offsets), and those that follow another kernel on the rows it finishes."""

from __future__ import annotations

from benchmark.engines.base import Floats
from benchmark.engines.cpu.kernels import checks, library
from benchmark.engines.cpu.kernels.checks import Positions
from benchmark.engines.cpu.kernels.geometry import Geometry, bound, listed, tap_order

NARROW_LIMIT = 20
"""Outputs of a narrow convolution at most: the portable kernel's five vectors."""


class NarrowConvolution:
    """A convolution with few outputs (offsets): at most `NARROW_LIMIT`, no epilogue, nothing padded to a wide tile."""

    def __init__(self, weight: Floats, bias: Floats | None, geometry: Geometry) -> None:
        library.require()
        rows = tap_order(weight, geometry)
        if rows.shape[0] > NARROW_LIMIT:
            raise ValueError(f"a narrow convolution has at most {NARROW_LIMIT} outputs, not {rows.shape[0]}")
        self.geometry = geometry
        self.outputs = rows.shape[0]
        self.macs_per_position = rows.size
        self._packed = library.Packed(library.compiled.narrow_size(*rows.shape))
        library.compiled.narrow_pack(rows, self._packed.weights)
        self._bias: Floats | None = None
        if bias is not None:
            self._bias = checks.finite("bias", checks.floats("bias", bias, (self.outputs,))).copy()

    @property
    def packed(self) -> Floats:
        """The weights for the instruction set that is selected."""
        return self._packed.weights

    def planned(self, row: int) -> tuple[object, ...]:
        """Return what a plan takes of it; ``row`` is its row in the tally."""
        return self.geometry.walk, self.outputs, self._packed.weights, self._bias, row

    def __call__(
        self,
        x: Floats,
        size: tuple[int, int],
        out: Floats,
        *,
        positions: Positions | None = None,
        scatter: bool = False,
        threads: int = 1,
    ) -> int:
        """Compute ``conv(x) + bias`` at the listed positions; arguments as for `Convolution`."""
        n, rows = listed(self.geometry, size, positions, scatter)
        x = checks.floats("x", x, (self.geometry.in_rows(*size), self.geometry.channels))
        out = checks.floats("out", out, (rows, self.outputs))
        library.compiled.narrow(
            bound(self.geometry, *size),
            x.reshape(-1),
            self._packed.weights,
            self._bias,
            self.outputs,
            positions,
            n,
            out.reshape(-1),
            scatter,
            checks.threads(threads),
        )
        return n * self.macs_per_position


class Follow:
    """Mask products that another kernel computes of the rows that it has just finished, while they are in cache."""

    def __init__(self, convolution: NarrowConvolution, out: Floats) -> None:
        geometry = convolution.geometry
        if geometry != Geometry(geometry.channels):
            raise ValueError(f"what follows on finished rows is a 1 x 1 convolution, not {geometry}")
        self._convolution = convolution
        self.out = checks.floats("products", out, (None, convolution.outputs))

    def rows(self, which: slice) -> Follow:
        """Return the same for a part of the map's rows."""
        return Follow(self._convolution, self.out[which])

    def bound(self, finished: Floats) -> object:
        """Check against the map that is finished, ``(rows, C)``, and return what the compiled kernels take."""
        checks.floats(
            "the map that mask products follow", finished, (len(self.out), self._convolution.geometry.channels)
        )
        return library.compiled.Follow(self._convolution.packed, self._convolution.outputs, self.out.reshape(-1))
