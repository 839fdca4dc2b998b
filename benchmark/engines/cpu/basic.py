"""The basic block: two 3x3 convolutions."""

from __future__ import annotations

import numpy as np

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.blocks import Block, Run
from benchmark.engines.cpu.layers import compile_convolution, places
from benchmark.engines.cpu.masks import Placed
from benchmark.nn.blocks import BasicBlock


class CompiledBasicBlock(Block):
    """Two 3x3 convolutions."""

    def __init__(self, block: BasicBlock, masks: list[Placed]) -> None:
        super().__init__(block, masks)
        self.conv2 = compile_convolution(f"{block.name}.conv2", block.conv2, block.bn2)
        self.places = places(block.bn2)
        if self.places is not None and 2 in self.fills:
            raise EngineRefusal(f"{block.name}.mask2", "the CPU engine has no masks over a map with pruned channels")

    def branch(self, run: Run) -> None:
        """Compute shortcut and branch, and their sum's ReLU, into the block's map."""
        y = self.fill_first(run, self.first(run))
        self.decide_late(run, y)
        samples = run.samples(2, self.step(2).computes)
        self.shortcut(run)
        if samples is None:
            self.end_dense(run, y)
        else:
            self.end_filled(run, y, samples)

    def end_dense(self, run: Run, y: Floats) -> None:
        """Run conv2 everywhere and add it to the shortcut."""
        call, out, size = run.call, run.out, run.sizes[0]
        with call.timed(f"{self.name}.conv2", "conv") as row:
            if self.places is None:
                follow = call.follow()
                row.macs += self.conv2(y, size, out, residual=out, relu=True, follow=follow, threads=call.threads)
                return
            rows = run.memory.scratch(size[0] * size[1], self.conv2.outputs)
            row.macs += self.conv2(y, size, rows, threads=call.threads)
            out[:, self.places] += rows
            np.maximum(out, 0, out=out)

    def end_filled(self, run: Run, y: Floats, samples: kernels.Samples) -> None:
        """Run conv2 at its samples, interpolate its output and add it to the shortcut."""
        call, fill = run.call, self.fills[2]
        with call.timed(fill.layer, "interpolation"):
            index = kernels.SampleIndex(samples, fill.window, compact=True, threads=call.threads)
            changed = self.changed(2, samples)
        rows = run.memory.spaced(len(samples), self.conv2.outputs)
        with call.timed(f"{self.name}.conv2", "conv") as row:
            row.macs += self.conv2(
                y, run.sizes[0], rows, positions=samples.positions, threads=call.threads, scale=samples.scale
            )
        source = self.source(run, 2, y, self.conv2.outputs)
        fill(call, samples.mask, index, rows, run.out, source, wanted=changed, residual=run.out, relu=True, ends=True)
