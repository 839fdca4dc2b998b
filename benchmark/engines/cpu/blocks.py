"""What both kinds of residual block share: the first convolution with its fill, and the shortcut."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.engines.base import Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.fills import Fill
from benchmark.engines.cpu.kernels import Convolution
from benchmark.engines.cpu.layers import array, compile_convolution
from benchmark.engines.cpu.masks import BlockMasks
from benchmark.engines.cpu.memory import Memory, Size
from benchmark.nn import sparsity
from benchmark.nn.blocks import ResidualBlock
from benchmark.nn.interpolation import Interpolation, Reuse


class Block:
    """What both kinds of block share: the first convolution with its fill, and the shortcut."""

    def __init__(self, block: ResidualBlock) -> None:
        self.name = block.name
        self.block = block
        self.masks = BlockMasks(block)
        self.fills = {
            index: Fill(fill)
            for index in (1, 2, 3)
            if (fill := cast(Interpolation | None, getattr(block, f"interpolation{index}"))) is not None
        }
        self.conv1 = compile_convolution(f"{block.name}.conv1", block.conv1, cast(nn.Module, block.bn1))
        self.downsample: Convolution | None = None
        if block.downsample is not None:
            self.downsample = compile_convolution(
                f"{block.name}.downsample", block.downsample[0], cast(nn.Module, block.downsample[1])
            )

    def out_size(self, size: Size) -> Size:
        """Return the size of the block's map for an input of this size."""
        return cast(Convolution, cast(Any, self).conv2).geometry.out_size(*self.conv1.geometry.out_size(*size))

    def shortcut(self, call: Call, memory: Memory, x: Floats, size: Size, stage: str, rows: int) -> Floats:
        """Return the map that the block ends in: the projection's output, or the input itself."""
        if self.downsample is None:
            return x
        out = memory.named(stage, rows, self.downsample.outputs)
        with call.timed(f"{self.name}.downsample.0", "conv") as row:
            row.macs += self.downsample(x, size, out, threads=call.threads)
        return out

    def source(self, index: int, x: Floats, size: Size, out_size: Size, channels: int) -> Floats | None:
        """Return the block's input brought to a map's shape, for the reuse fill."""
        if not isinstance(self.fills[index].module, Reuse):
            return None
        tensor = torch.from_numpy(x.reshape(1, *size, -1)).permute(0, 3, 1, 2)
        matched = Reuse.match(tensor, torch.empty(1, channels, *out_size))
        return array(matched[0].permute(1, 2, 0).reshape(-1, channels))

    def first(self, call: Call, memory: Memory, x: Floats, size: Size, samples: kernels.Samples | None) -> First:
        """Run conv1 at its sampled positions (None: all)."""
        out_size = self.conv1.geometry.out_size(*size)
        features = memory.named("features", out_size[0] * out_size[1], self.conv1.outputs)
        rows, listed = features, None
        if samples is not None:
            listed = samples.positions
            if not samples.binary:
                # A gate's rows are scaled by M, and so cannot stand in the map that is filled from them.
                rows = memory.scratch(len(samples), self.conv1.outputs)
        with call.timed(f"{self.name}.conv1", "conv") as row:
            row.macs += self.conv1(
                x,
                size,
                rows,
                positions=listed,
                scatter=rows is features and listed is not None,
                scale=None if samples is None else samples.scale,
                relu=True,
                threads=call.threads,
            )
        return First(features, rows, out_size, samples)

    def fill_first(
        self,
        call: Call,
        first: First,
        x: Floats,
        size: Size,
        read_by: kernels.Samples | None,
        *,
        everywhere: bool = False,
    ) -> Floats:
        """Fill conv1's map where conv2 reads it and return it.

        `read_by` are conv2's samples (None: all positions); a deformable conv2 may read `everywhere`.
        """
        samples = first.samples
        if samples is None:
            return first.features
        layer, fill = f"{self.name}.interpolation1", self.fills[1]
        with call.timed(layer, "interpolation"):
            index = kernels.SampleIndex(samples, fill.window, compact=not samples.binary, threads=call.threads)
            wanted = self.wanted(call, samples, first.size, read_by, everywhere)
            source = self.source(1, x, size, first.size, self.conv1.outputs)
        fill(call, layer, samples.mask, index, first.rows, first.features, source, wanted=wanted)
        return first.features

    def wanted(
        self, call: Call, samples: kernels.Samples, size: Size, read_by: kernels.Samples | None, everywhere: bool
    ) -> NDArray[np.bool_]:
        """Return the positions of conv1's map to write; of a gate's, whose rows lie elsewhere, the sampled ones too."""
        geometry = cast(Convolution, cast(Any, self).conv2).geometry
        if everywhere:
            return samples.mask != 1 if samples.binary else np.ones(size, dtype=bool)
        if samples.binary and read_by is not None:
            return kernels.missing_read(samples, read_by, geometry, threads=call.threads)
        mask = None if read_by is None else read_by.mask
        walk = (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        read = sparsity.positions_read(mask, *walk, size)
        return np.ascontiguousarray(read & (samples.mask != 1) if samples.binary else read)


class First(NamedTuple):
    """conv1's map, the rows that were computed of it (the map itself but for a gate), its size and its samples."""

    features: Floats
    rows: Floats
    size: Size
    samples: kernels.Samples | None
