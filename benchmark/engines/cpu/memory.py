"""The engine's buffers: for each calling thread its maps, by name, and the scratch memory of its plan."""

from __future__ import annotations

from typing import Any

from benchmark.engines.base import Floats
from benchmark.engines.cpu import kernels


class Memory:
    """Buffers that live as long as the engine, and the thread that calls it."""

    def __init__(self) -> None:
        self._named: dict[str, Floats] = {}
        self.arena: Any = kernels.arena()
        self.layout: tuple[tuple[int, int], Any] | None = None

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return int(self.arena.bytes) + sum(buffer.nbytes for buffer in self._named.values())

    def named(self, name: str, size: int) -> Floats:
        """Return the buffer of that name with as many numbers, uninitialised if it had to grow."""
        if name not in self._named or self._named[name].size < size:
            self._named.pop(name, None)
            self._named[name] = kernels.empty(size)
        return self._named[name][:size]
