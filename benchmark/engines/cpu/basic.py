"""The basic block: two 3x3 convolutions."""

from __future__ import annotations

import numpy as np

from benchmark.engines.base import Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.blocks import Block
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.layers import compile_convolution, places
from benchmark.engines.cpu.masks import BlockMasks
from benchmark.engines.cpu.memory import Memory, Size
from benchmark.nn.blocks import BasicBlock


class CompiledBasicBlock(Block):
    """Two 3x3 convolutions."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__(block)
        self.conv2 = compile_convolution(f"{block.name}.conv2", block.conv2, block.bn2)
        self.places = places(block.bn2)

    def __call__(
        self,
        call: Call,
        memory: Memory,
        x: Floats,
        size: Size,
        stage: str,
        following: BlockMasks | None,
    ) -> tuple[Floats, Size]:
        """Run the block on ``x`` (H * W, C); the result takes the input's memory where shapes allow."""
        out_size = self.conv1.geometry.out_size(*size)
        decided = self.masks.decide(call, memory, x, size)
        call.expect(None if following is None else following.follow(memory, out_size[0] * out_size[1]))
        first, samples = self.first(call, memory, x, size, decided.get(1)), decided.get(2)
        y = self.fill_first(call, first, x, size, samples)
        out = self.shortcut(call, memory, x, size, stage, out_size[0] * out_size[1])
        if samples is None:
            self.end_dense(call, memory, y, out, out_size)
        else:
            self.end_filled(call, memory, y, x, size, out, out_size, samples)
        return out, out_size

    def end_dense(self, call: Call, memory: Memory, y: Floats, out: Floats, size: Size) -> None:
        """Run conv2 everywhere and add it to the shortcut."""
        with call.timed(f"{self.name}.conv2", "conv") as row:
            if self.places is None:
                row.macs += self.conv2(
                    y, size, out, residual=out, relu=True, follow=call.follow(), threads=call.threads
                )
                return
            rows = memory.scratch(size[0] * size[1], self.conv2.outputs)
            row.macs += self.conv2(y, size, rows, threads=call.threads)
            out[:, self.places] += rows
            np.maximum(out, 0, out=out)

    def end_filled(
        self,
        call: Call,
        memory: Memory,
        y: Floats,
        x: Floats,
        in_size: Size,
        out: Floats,
        size: Size,
        samples: kernels.Samples,
    ) -> None:
        """Run conv2 at its samples, interpolate its output and add it to the shortcut."""
        fill, layer = self.fills[2], f"{self.name}.interpolation2"
        with call.timed(layer, "interpolation"):
            index = kernels.SampleIndex(samples, fill.window, compact=True, threads=call.threads)
        rows = memory.spaced(len(samples), self.conv2.outputs)
        with call.timed(f"{self.name}.conv2", "conv") as row:
            row.macs += self.conv2(
                y, size, rows, positions=samples.positions, threads=call.threads, scale=samples.scale
            )
        source = self.source(2, x, in_size, size, self.conv2.outputs)
        fill(call, layer, samples.mask, index, rows, out, source, residual=out, relu=True, follow=True)
