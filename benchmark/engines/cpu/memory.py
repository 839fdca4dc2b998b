"""Where the images of a call have their maps: a calling thread's buffers, and how images are grouped in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.engines.base import Floats
from benchmark.engines.cpu.compiling import CompiledBlock
from benchmark.engines.cpu.descriptions import Network, check_map
from benchmark.engines.cpu.kernels import library
from benchmark.nn.work import Size

GROUP_POSITIONS = 1600
"""Positions of a map that a group of images should have: a panel of weights, once in cache, then serves as many."""


@dataclass(frozen=True)
class Stage:
    """A stage: its name, and its blocks in order."""

    name: str
    blocks: Sequence[CompiledBlock]


@dataclass(frozen=True)
class Phase:
    """Blocks ``first`` to ``last`` run for ``group`` images at a time, before the next phase does."""

    first: int
    last: int
    group: int


@dataclass(frozen=True)
class Workspace:
    """What one group of images needs while it runs: maps between blocks' convolutions, and scratch memory."""

    stem_map: Floats
    scattered: Floats | None
    features: Floats
    products: Floats
    arena: Any


@dataclass(frozen=True)
class Buffers:
    """Where images of one size have their maps and masks.

    Attributes
    ----------
    images, size
        How many, and their height and width.
    maps, map_sizes
        For each block, the map that it ends in, ``(images * size)`` numbers, and its numbers for one image.
    mask_sizes, mask_shapes
        For each mask, its numbers for one image, height and width.
    stages
        Each stage's maps, ``(images, H, W, C)``.
    phases, workspaces
        How images are grouped: with one workspace all threads run one group, with more each has groups of its own.
    """

    images: int
    size: Size
    maps: Sequence[Floats]
    map_sizes: Sequence[int]
    mask_sizes: Sequence[int]
    mask_shapes: Sequence[Size]
    stages: dict[str, Floats]
    phases: Sequence[Phase]
    workspaces: Sequence[Workspace]

    def __post_init__(self) -> None:
        """Check what the kernels trust: that every map has room, and phases follow each other."""
        if any(map_.size < self.images * size for map_, size in zip(self.maps, self.map_sizes, strict=True)):
            raise ValueError("a map has less room than its images need")
        edges = [0, *(phase.last + 1 for phase in self.phases)]
        if [phase.first for phase in self.phases] != edges[:-1] or edges[-1] != len(self.maps):
            raise ValueError(f"phases do not follow each other: {self.phases}")
        if any(not 1 <= phase.group <= self.images for phase in self.phases) or not self.workspaces:
            raise ValueError(f"groups of {self.images} images: {self.phases}")


class Memory:
    """Buffers that live as long as the engine, and the thread that calls it."""

    def __init__(self) -> None:
        self._named: dict[str, Floats] = {}
        self._arenas: list[Any] = []
        self._laid_out: dict[int, tuple[tuple[Size, int], tuple[Buffers, Any]]] = {}

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return sum(int(arena.bytes) for arena in self._arenas) + sum(buffer.nbytes for buffer in self._named.values())

    def laid_out(
        self, place: int, images: int, size: Size, network: Network, stages: Sequence[Stage], threads: int
    ) -> tuple[Buffers, Any]:
        """Return the buffers of so many images of a size, and the same as the kernels take it.

        Parameters
        ----------
        place
            Which of a call's sizes it is: each has maps of its own, which stay until the next call.
        stages
            The network's stages.
        threads
            Threads that run it.
        """
        key = size, images
        if place not in self._laid_out or self._laid_out[place][0] != key:
            buffers = self._lay_out(place, images, size, network, stages, threads)
            self._laid_out[place] = key, (buffers, library.compiled.Layout(buffers))
        return self._laid_out[place][1]

    def _lay_out(
        self, place: int, images: int, size: Size, network: Network, stages: Sequence[Stage], threads: int
    ) -> Buffers:
        check_map(size, images)
        at = stem = network.stem.out_size(size)
        if min(stem) < 1:
            raise ValueError(f"an image of {size[0]} x {size[1]} is smaller than the stem's kernels")
        plan: list[tuple[Stage, int, list[Size]]] = []
        needs: list[tuple[int, int]] = []  # features and products of one image, by block
        shapes: list[Size] = []
        for stage in stages:
            for block in stage.blocks:
                sizes = block.sizes(at)
                for each in (at, *sizes):
                    check_map(each, images)
                shapes += [mask.shape(at, sizes) for mask in block.masks]
                needs.append(
                    (math.prod(sizes[0]) * block.plan.convolutions[0].outputs, math.prod(at) * block.plan.columns)
                )
                at = sizes[-1]
            plan.append((stage, math.prod(at) * stage.blocks[-1].plan.outputs, [at]))
        phases = _phases([(len(stage.blocks), math.prod(ends[0])) for stage, _, ends in plan], images)
        maps, map_sizes, found = [], [], {}
        for stage, numbers, (end,) in plan:
            array = self._numbers(f"{stage.name}/{place}", images * numbers)
            maps += [array] * len(stage.blocks)
            map_sizes += [numbers] * len(stage.blocks)
            found[stage.name] = array.reshape(images, *end, -1)
        rooms = [
            tuple(phase.group * max(need[kind] for need in needs[phase.first : phase.last + 1]) for phase in phases)
            for kind in (0, 1)
        ]
        first = phases[0].group * math.prod(stem)
        workers = 1
        spaces = [self._workspace(number, first, network, max(rooms[0]), max(rooms[1])) for number in range(workers)]
        return Buffers(
            images, size, maps, map_sizes, [math.prod(shape) for shape in shapes], shapes, found, phases, spaces
        )

    def _workspace(self, number: int, positions: int, network: Network, features: int, products: int) -> Workspace:
        """Return a group's workspace; ``positions`` are those of its pooled stem maps, the others numbers."""
        if number == len(self._arenas):
            self._arenas.append(library.compiled.Arena())
        width = network.stem.width
        # Mask products go into the stem's map: the first block has read it before the first are written.
        stem = self._numbers(f"stem {number}", max(products, positions * network.stem.convolutions[-1].outputs))
        return Workspace(
            stem,
            self._numbers(f"scattered {number}", positions * width) if width else None,
            self._numbers(f"features {number}", features),
            stem,
            self._arenas[number],
        )

    def _numbers(self, name: str, size: int) -> Floats:
        """Return the buffer of that name with as many numbers, uninitialised if it had to grow."""
        if name not in self._named or self._named[name].size < size:
            self._named.pop(name, None)
            self._named[name] = library.empty(size)
        return self._named[name][:size]


def _phases(stages: Sequence[tuple[int, int]], images: int) -> list[Phase]:
    """Return how many images run at a time through which blocks, of each stage's blocks and positions."""
    phases: list[Phase] = []
    begin = 0
    for blocks, positions in stages:
        group = min(images, -(-GROUP_POSITIONS // positions))
        last = begin + blocks - 1
        if phases and phases[-1].group == group:
            phases[-1] = Phase(phases[-1].first, last, group)
        else:
            phases.append(Phase(begin, last, group))
        begin = last + 1
    return phases
