"""The state of one run: which image, which masks were given, and the tally."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from benchmark.engines.base import Floats, Row
from benchmark.engines.cpu import kernels


@dataclass
class Call:
    """State of one run: given masks, the tally, and what the next block's masks may follow on."""

    given: Mapping[str, Floats]
    threads: int
    tally: dict[str, Row] = field(default_factory=dict)
    masks: dict[str, Floats] = field(default_factory=dict)
    noise: Mapping[str, Future[Floats]] = field(default_factory=dict)
    following: kernels.Follow | None = None
    followed: bool = False

    def expect(self, following: kernels.Follow | None) -> None:
        """Say what computes the next block's mask products, which can be had while this block's map is written."""
        self.followed = False
        self.following = following

    def follow(self) -> kernels.Follow | None:
        """Return what computes the next block's mask products, for the one who finishes this block's rows.

        Asked for by whoever writes the whole map, and then run: where nobody asks, the next block takes a pass itself.
        """
        self.followed = self.following is not None
        return self.following

    def timed(self, layer: str, kind: str) -> Timed:
        """Add what happens inside of a ``with`` block to a layer's seconds; gives the layer's row."""
        row = self.tally.get(layer)
        if row is None:
            row = self.tally[layer] = Row(kind)
        return Timed(row)


class Timed:
    """A clock for one row; thousands of them run for an image, so it is no generator."""

    __slots__ = ("row", "start")

    def __init__(self, row: Row) -> None:
        self.row = row

    def __enter__(self) -> Row:
        self.start = time.perf_counter()
        return self.row

    def __exit__(self, *exception: object) -> None:
        self.row.seconds += time.perf_counter() - self.start
