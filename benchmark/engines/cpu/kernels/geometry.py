"""How a convolution walks a map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmark.engines.base import Floats
from benchmark.engines.cpu.kernels import checks, library
from benchmark.engines.cpu.kernels.checks import Positions

REACH_LIMIT = 2**20
"""Of all numbers of a geometry: sums of them and a map's size stay within 32 bits."""


@dataclass(frozen=True)
class Geometry:
    """A convolution's kernel and how it walks a map.

    ``row_taps`` is for few input channels (a network's stem): the input then carries its own zero border of
    ``padding`` and a whole kernel row is one run of ``kernel * channels`` floats. Needs dilation 1.
    """

    channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    row_taps: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no convolution."""
        if min(self.channels, self.kernel, self.stride, self.dilation) < 1 or self.padding < 0:
            raise ValueError(f"no convolution has {self}")
        if self.row_taps and self.dilation != 1:
            raise ValueError(f"row_taps needs dilation 1: {self}")
        if max(self.channels, self.stride, self.padding, self.dilation * self.kernel) > REACH_LIMIT:
            raise ValueError(f"a convolution reaches {REACH_LIMIT} positions and channels at most: {self}")

    @property
    def walk(self) -> tuple[int, ...]:
        """All fields, as plans take them."""
        return self.channels, self.kernel, self.stride, self.padding, self.dilation, int(self.row_taps)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the output map's (height, width) for an input map without its border."""
        reach = self.dilation * (self.kernel - 1) - 2 * self.padding
        return (height - reach - 1) // self.stride + 1, (width - reach - 1) // self.stride + 1

    def in_rows(self, height: int, width: int) -> int:
        """Return the rows of the input array for a map of this height and width."""
        border = 2 * self.padding if self.row_taps else 0
        return (height + border) * (width + border)


@lru_cache(maxsize=4096)
def bound(geometry: Geometry, height: int, width: int) -> object:
    """Return what the compiled kernels take for this geometry on a map of this height and width, without border."""
    g = geometry
    checks.size("size", (height, width))
    out_height, out_width = g.out_size(height, width)
    if out_height < 1 or out_width < 1:
        raise ValueError(f"a {height} x {width} map is smaller than the kernel of {g}")
    checks.size("the output's size", (out_height, out_width))
    border = 2 * g.padding if g.row_taps else 0
    return library.compiled.Geometry(
        height + border,
        width + border,
        out_width,
        g.channels,
        g.kernel,
        g.kernel,
        g.stride,
        g.padding,
        g.dilation,
        g.row_taps,
    )


def listed(geometry: Geometry, size: tuple[int, int], positions: Positions | None, scatter: bool) -> tuple[int, int]:
    """Return the number of positions and the rows of the output array."""
    out_height, out_width = geometry.out_size(*checks.size("size", size))
    whole = out_height * out_width
    if positions is None:
        return whole, whole
    n = len(checks.ints("positions", positions, (None,)))
    return n, whole if scatter else n


def tap_order(weight: object, geometry: Geometry) -> Floats:
    """Check weights ``(C_out, C_in, K, K)`` and return them as ``(C_out, K * K * C_in)``."""
    weight = checks.floats("weight", weight, (None, geometry.channels, geometry.kernel, geometry.kernel))
    if weight.size == 0:
        raise ValueError(f"weight of shape {weight.shape} is empty")
    checks.finite("weight", weight)
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1))
