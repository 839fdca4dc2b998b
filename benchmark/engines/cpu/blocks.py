"""What both kinds of residual block share: masks, the first convolution with its fill, and the shortcut.

A block runs what its description says (`benchmark.nn.work`): each convolution at the positions that it computes, each
fill where something needs it. What is decided here is only the order of the work and where its results lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.fills import Fill
from benchmark.engines.cpu.kernels import Convolution
from benchmark.engines.cpu.layers import array, compile_convolution
from benchmark.engines.cpu.masks import BlockMasks, Placed
from benchmark.engines.cpu.memory import Memory, Size
from benchmark.engines.cpu.regions import Regions
from benchmark.nn import sparsity, work
from benchmark.nn.blocks import ResidualBlock
from benchmark.nn.interpolation import Reuse, Zeros


@dataclass
class Run:
    """A block on one image.

    Attributes
    ----------
    x, size
        The block's input, ``(H * W, C)``, and its height and width.
    sizes
        Height and width of the map behind each convolution.
    regions
        The positions that the block's masks decide.
    out
        The map that the block ends in: holds the shortcut, until the branch is added.
    """

    call: Call
    memory: Memory
    x: Floats
    size: Size
    sizes: tuple[Size, ...]
    regions: Regions
    out: Floats

    @property
    def out_size(self) -> Size:
        """Height and width of the block's map."""
        return self.sizes[-1]

    def samples(self, index: int, region: work.Region) -> kernels.Samples | None:
        """Return a region of the map behind a convolution, by its number, as samples; None for all positions."""
        return self.regions.samples(region, self.sizes[index - 1])


class Block:
    """What both kinds of block share."""

    def __init__(self, block: ResidualBlock, masks: list[Placed]) -> None:
        if block.work.gates:
            raise EngineRefusal(f"{block.name}.gate{block.work.gates[0]}", "the CPU engine has no gates over channels")
        self.name = block.name
        self.work = block.work
        self._sizes: dict[Size, tuple[Size, ...]] = {}
        self.masks = BlockMasks([mask for mask in masks if mask.number not in self.work.late])
        self.late = BlockMasks([mask for mask in masks if mask.number in self.work.late])
        self.fills = {
            index: Fill(f"{block.name}.{step.fill.layer}", getattr(block, step.fill.layer), step.fill)
            for index, step in enumerate(self.work.convolutions, start=1)
            if step.fill is not None
        }
        self.conv1 = compile_convolution(f"{block.name}.conv1", block.conv1, cast(nn.Module, block.bn1))
        self.downsample: Convolution | None = None
        if block.downsample is not None:
            self.downsample = compile_convolution(
                f"{block.name}.downsample.0", block.downsample[0], cast(nn.Module, block.downsample[1])
            )

    def __call__(
        self, call: Call, memory: Memory, x: Floats, size: Size, stage: str, following: BlockMasks | None
    ) -> tuple[Floats, Size]:
        """Run the block on ``x`` (H * W, C); the result takes the input's memory where shapes allow.

        ``following`` are the masks of the next block: the kernel that ends this one computes their products.
        """
        sizes = self.sizes(size)
        rows = sizes[-1][0] * sizes[-1][1]
        decided = self.masks.decide(call, memory, x, size, sizes)
        call.expect(None if following is None else following.follow(memory, rows))
        out = x if self.downsample is None else memory.named(stage, rows, self.downsample.outputs)
        self.branch(Run(call, memory, x, size, sizes, Regions(decided, call.threads), out))
        return out, sizes[-1]

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """Return height and width of the map behind each convolution, for an input of this size."""
        if size not in self._sizes:
            self._sizes[size] = self.work.sizes(size)
        return self._sizes[size]

    @property
    def placed(self) -> list[Placed]:
        """All masks, in the order in which they are decided."""
        return [*self.masks.placed, *self.late.placed]

    def noisy(self, size: Size) -> list[tuple[Placed, Size]]:
        """Return the masks that draw noise before the block runs, and their sizes for an input of this size."""
        return [*self.masks.noisy(size), *self.late.noisy(self.sizes(size)[0])]

    def decide_late(self, run: Run, y: Floats) -> None:
        """Decide the masks that read conv1's filled map."""
        if self.late.placed:
            run.regions.add(self.late.decide(run.call, run.memory, y, run.sizes[0], run.sizes))

    def branch(self, run: Run) -> None:
        """Compute shortcut and branch, and their sum's ReLU, into the block's map."""
        raise NotImplementedError

    def step(self, index: int) -> work.Convolution:
        """Return what the description says of a convolution, by its number."""
        return self.work.convolutions[index - 1]

    def shortcut(self, run: Run) -> None:
        """Compute the projection, if there is one, into the map that the block ends in; else the input lies there."""
        if self.downsample is not None:
            with run.call.timed(f"{self.name}.downsample.0", "conv") as row:
                row.macs += self.downsample(run.x, run.size, run.out, threads=run.call.threads)

    def source(self, run: Run, index: int, read: Floats, channels: int) -> Floats | None:
        """Return what convolution `index` reads, brought to its output's shape, for the reuse fill."""
        if not isinstance(self.fills[index].module, Reuse):
            return None
        size = run.size if index == 1 else run.sizes[index - 2]
        tensor = torch.from_numpy(np.ascontiguousarray(read).reshape(1, *size, -1)).permute(0, 3, 1, 2)
        matched = Reuse.match(tensor, torch.empty(1, channels, *run.sizes[index - 1]))
        return array(matched[0].permute(1, 2, 0).reshape(-1, channels))

    def first(self, run: Run) -> First:
        """Run conv1 where it computes."""
        call, size = run.call, run.sizes[0]
        features = run.memory.named("features", size[0] * size[1], self.conv1.outputs)
        rows, listed, scale = features, None, None
        with call.timed(f"{self.name}.conv1", "conv") as row:
            samples = run.samples(1, self.step(1).computes)
            if samples is not None:
                listed = samples.positions
            if samples is not None and 1 in self.fills and not samples.binary:
                # A gate's rows are scaled by M, and so cannot stand in the map that is filled from them.
                rows, scale = run.memory.scratch(len(samples), self.conv1.outputs), samples.scale
            row.macs += self.conv1(
                run.x,
                run.size,
                rows,
                positions=listed,
                scatter=rows is features and listed is not None,
                scale=scale,
                relu=True,
                threads=call.threads,
            )
        return First(features, rows, samples)

    def fill_first(self, run: Run, first: First) -> Floats:
        """Fill conv1's map where conv2 reads it and return it."""
        samples, fill = first.samples, self.fills.get(1)
        if samples is None or fill is None:
            return first.features
        with run.call.timed(fill.layer, "interpolation"):
            index = kernels.SampleIndex(samples, fill.window, compact=not samples.binary, threads=run.call.threads)
            wanted = self.wanted(run, fill, samples)
            source = self.source(run, 1, run.x, self.conv1.outputs)
        fill(run.call, samples.mask, index, first.rows, first.features, source, wanted=wanted)
        return first.features

    def wanted(self, run: Run, fill: Fill, samples: kernels.Samples) -> NDArray[np.bool_] | None:
        """Return the needed positions of conv1's map that are yet to write; None for all.

        Of a gate, whose rows lie elsewhere, those are the sampled ones too.
        """
        if samples.binary:
            return run.regions.missing(fill.needed, samples)
        return run.regions.positions(fill.needed, run.sizes[0])

    def changed(self, index: int, samples: kernels.Samples) -> NDArray[np.bool_] | None:
        """Return the positions of the block's map that a fill of the branch's end changes; None for all.

        A branch that is zero where it is not computed leaves the identity there, and the ReLU nothing to do: what came
        into the block came out of a ReLU. The next block's mask products then take a pass of their own.
        """
        identity = self.downsample is None and isinstance(self.fills[index].module, Zeros)
        return sparsity.sampled(samples.mask) if identity else None


class First(NamedTuple):
    """conv1's map, the rows that were computed of it (the map itself but for a gate), and its samples (None: all)."""

    features: Floats
    rows: Floats
    samples: kernels.Samples | None
