"""The engine's buffers, and the pieces in which kernels hand maps to each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from benchmark.engines.base import Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.kernels import Positions

BAND_BYTES = 3 << 20
"""Bytes that one kernel leaves to the next at a time: they stay in cache between the two."""

Size = tuple[int, int]


class Memory:
    """Buffers that live as long as the engine: named maps, and scratch that each block takes anew."""

    def __init__(self) -> None:
        self._named: dict[str, Floats] = {}
        self._scratch = kernels.empty(0)
        self._taken = 0
        self._positions: Positions = np.empty(0, dtype=np.int32)

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self._scratch.nbytes + self._positions.nbytes + sum(buffer.nbytes for buffer in self._named.values())

    def named(self, name: str, rows: int, channels: int) -> Floats:
        """Return the map of that name, uninitialised if it had to grow."""
        size = rows * channels
        if name not in self._named or self._named[name].size < size:
            self._named.pop(name, None)
            self._named[name] = kernels.empty(size)
        return self._named[name][:size].reshape(rows, channels)

    def scratch(self, rows: int, channels: int) -> Floats:
        """Take scratch memory that lasts until `release`."""
        size = -(-rows * channels // 16) * 16  # whole cache lines, so that no two maps share one
        begin, self._taken = self._taken, self._taken + size
        if self._taken > self._scratch.size:
            return kernels.empty(rows, channels)
        return self._scratch[begin : begin + rows * channels].reshape(rows, channels)

    def spaced(self, rows: int, channels: int) -> Floats:
        """Take scratch memory for rows that an interpolation reads: they lie `kernels.row_distance` apart.

        Up to fifty rows are read at once, and with 512 channels or a multiple they would share a few sets of L1.
        """
        return self.scratch(rows, kernels.row_distance(channels))[:, :channels]

    def all_positions(self, count: int) -> Positions:
        """Return 0 to ``count``, int32, read-only: a part of the longest that was asked for."""
        if self._positions.size < count:
            self._positions = np.arange(count, dtype=np.int32)
            self._positions.flags.writeable = False
        return self._positions[:count]

    def release(self) -> None:
        """Give all scratch back; next time there is enough in one piece."""
        if self._taken > self._scratch.size:
            self._scratch = kernels.empty(self._taken)
        self._taken = 0


def bands(rows: int, row_bytes: float) -> Iterator[tuple[int, int]]:
    """Split a map's rows into bands of at most `BAND_BYTES`, as equal as they can be: first row and end of each."""
    count = max(1, min(rows, math.ceil(rows * row_bytes / BAND_BYTES)))
    edges = [rows * i // count for i in range(count + 1)]
    return itertools.pairwise(edges)


def ring_pieces(begin: int, end: int, ring: int) -> Iterator[tuple[int, int]]:
    """Split ``[begin, end)`` where a ring of that many rows wraps: each piece lies in one stretch of the ring."""
    while begin < end:
        until = min(end, begin + ring - begin % ring)
        yield begin, until
        begin = until
