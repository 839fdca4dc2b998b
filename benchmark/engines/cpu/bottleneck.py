"""The bottleneck: 1x1, 3x3 (deformable on request), 1x1, in bands, with conv3 before or after the fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.engines.base import Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.blocks import Block
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.fills import Fill
from benchmark.engines.cpu.kernels import NarrowConvolution, Positions
from benchmark.engines.cpu.layers import compile_convolution, folded, geometry
from benchmark.engines.cpu.masks import BlockMasks
from benchmark.engines.cpu.memory import Memory, Size, all_positions, bands, ring_pieces
from benchmark.nn import sparsity
from benchmark.nn.blocks import Bottleneck
from benchmark.nn.interpolation import Nearest


class CompiledBottleneck(Block):
    """1x1, 3x3 (deformable on request), 1x1."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__(block)
        self.conv2 = compile_convolution(f"{block.name}.conv2", block.conv2, block.bn2)
        self.conv3 = compile_convolution(f"{block.name}.conv3", block.conv3, block.bn3)
        self.bias3 = folded(block.conv3, block.bn3)[1]
        self.offset: NarrowConvolution | None = None
        if block.offset is not None:
            self.offset = NarrowConvolution(*folded(block.offset, None), geometry(f"{block.name}.offset", block.offset))

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
        out_size = self.conv2.geometry.out_size(*size)
        samples = self.masks.decide(call, memory, x, size)
        call.expect(None if following is None else following.follow(memory, out_size[0] * out_size[1]))
        first = self.first(call, memory, x, size, samples.get(1))
        samples2 = self.second_samples(call, samples)
        sampled2 = all_positions(out_size[0] * out_size[1]) if samples2 is None else samples2.positions
        offsets = self.offsets(call, memory, x, size, sampled2)
        y = self.fill_first(call, first, x, size, samples2, everywhere=self.offset is not None)
        out = self.shortcut(call, memory, x, size, stage, out_size[0] * out_size[1])
        second = _Second(self, call, y, size, sampled2, offsets)
        if samples2 is None:
            self.end_dense(call, memory, second, out, out_size)
        elif 3 in samples:
            self.end_with_own_mask(call, memory, second, x, size, out, out_size, samples2, samples[3])
        else:
            self.end_sharing(call, memory, second, x, size, out, out_size, samples2)
        return out, out_size

    def second_samples(self, call: Call, samples: dict[int, kernels.Samples]) -> kernels.Samples | None:
        """Return conv2's sampled positions: its own mask's, or conv1's at conv2's stride (Fig. 3a)."""
        if 2 in samples or 1 not in samples:
            return samples.get(2)
        stride = self.conv2.geometry.stride
        return kernels.Samples(np.ascontiguousarray(samples[1].mask[::stride, ::stride]), threads=call.threads)

    def offsets(self, call: Call, memory: Memory, x: Floats, size: Size, positions: Positions) -> Floats | None:
        """Run the offset convolution at conv2's positions."""
        if self.offset is None:
            return None
        offsets = memory.scratch(len(positions), self.offset.outputs)
        with call.timed(f"{self.name}.offset", "offset") as row:
            row.macs += self.offset(x, size, offsets, positions=positions, threads=call.threads)
        return offsets

    def end_dense(self, call: Call, memory: Memory, second: _Second, out: Floats, size: Size) -> None:
        """Run conv2 and conv3 densely, band by band."""
        pieces = list(bands(size[0], size[1] * self.conv2.outputs * 4))
        buffer = memory.scratch(max(b - a for a, b in pieces) * size[1], self.conv2.outputs)
        follow = call.follow()
        for first, last in pieces:
            here = slice(first * size[1], last * size[1])
            features = buffer[: here.stop - here.start]
            second.compact(here, features)
            with call.timed(f"{self.name}.conv3", "conv") as row:
                row.macs += self.conv3(
                    features,
                    (last - first, size[1]),
                    out[here],
                    residual=out[here],
                    relu=True,
                    follow=None if follow is None else follow.rows(here),
                    threads=call.threads,
                )

    def end_sharing(
        self,
        call: Call,
        memory: Memory,
        second: _Second,
        x: Floats,
        in_size: Size,
        out: Floats,
        size: Size,
        samples: kernels.Samples,
    ) -> None:
        """Run conv2 and conv3 under one mask: conv3 on the samples, or densely after the fill."""
        fill = self.fills[2]
        layer = f"{self.name}.interpolation2"
        with call.timed(layer, "interpolation"):
            on_samples = self.conv3_on_samples(samples, fill)
        if on_samples:
            self.end_on_samples(call, memory, second, fill, layer, out, size, samples)
            return
        filled = self.fill_second(call, memory, second, x, in_size, size, samples, None)
        with call.timed(f"{self.name}.conv3", "conv") as row:
            row.macs += self.conv3(
                filled, size, out, residual=out, relu=True, follow=call.follow(), threads=call.threads
            )

    def conv3_on_samples(self, samples: kernels.Samples, fill: Fill) -> bool:
        """Whether conv3 runs on the samples. The pairs need no counting if so many as there could be are few enough."""
        mask, window = samples.mask, fill.module.window
        channels = (self.conv3.geometry.channels, self.conv3.outputs)
        most = (mask.size - len(samples) if samples.binary else mask.size) * window**2
        if sparsity.conv3_plan(len(samples), most, mask.size, *channels, fill.linear).on_samples:
            return True
        pairs = int(sparsity.neighbour_pairs(mask, None, window))
        return bool(sparsity.conv3_plan(len(samples), pairs, mask.size, *channels, fill.linear).on_samples)

    def end_on_samples(
        self,
        call: Call,
        memory: Memory,
        second: _Second,
        fill: Fill,
        layer: str,
        out: Floats,
        size: Size,
        samples: kernels.Samples,
    ) -> None:
        """Run conv3 on conv2's rows and interpolate its output, adding bias, shortcut and ReLU in the same pass.

        The map's rows are walked in bands; the samples of a band and of the window around it live in a ring.
        """
        height = size[0]
        nearest = isinstance(fill.module, Nearest)  # whose one row may be anywhere: all rows are kept
        sample_bytes = 4 * (self.conv2.outputs + self.conv3.outputs)
        pieces = list(bands(height, len(samples) / height * sample_bytes))
        radius = fill.window // 2
        with call.timed(layer, "interpolation"):
            starts = samples.starts.tolist()
            held = len(samples)
            if not nearest:
                held = max(starts[last] - starts[max(0, first - 2 * radius)] for first, last in pieces)
            index = kernels.SampleIndex(samples, fill.window, compact=True, ring=held, threads=call.threads)
        scale = samples.scale
        rows = memory.spaced(held, self.conv3.outputs)
        features = memory.scratch(max(starts[last] - starts[first] for first, last in pieces), self.conv2.outputs)
        done = 0
        for first, last in pieces:
            here = slice(starts[first], starts[last])
            second.compact(here, features[: here.stop - here.start], scale)
            with call.timed(f"{self.name}.conv3", "conv") as row:
                for begin, end in ring_pieces(here.start, here.stop, held):
                    row.macs += self.conv3(
                        features[begin - here.start : end - here.start],
                        (1, end - begin),
                        rows[begin % held : begin % held + end - begin],
                        with_bias=False,
                        threads=call.threads,
                    )
            if nearest and last < height:
                continue
            ready = height if last == height else max(done, last - radius)
            fill(
                call,
                layer,
                samples.mask,
                index,
                rows,
                out,
                None,
                map_rows=(done, ready),
                bias=self.bias3,
                residual=out,
                relu=True,
                follow=True,
            )
            done = ready

    def fill_second(
        self,
        call: Call,
        memory: Memory,
        second: _Second,
        x: Floats,
        in_size: Size,
        size: Size,
        samples: kernels.Samples,
        read: Any | None,
    ) -> Floats:
        """Run conv2 and fill its map at the positions that are read (None: all)."""
        fill, layer = self.fills[2], f"{self.name}.interpolation2"
        with call.timed(layer, "interpolation"):
            index = kernels.SampleIndex(samples, fill.window, compact=True, threads=call.threads)
        rows = memory.scratch(len(samples), self.conv2.outputs)
        second.compact(slice(0, len(samples)), rows, samples.scale)
        filled = memory.scratch(samples.mask.size, self.conv2.outputs)
        source = self.source(2, x, in_size, size, self.conv2.outputs)
        fill(call, layer, samples.mask, index, rows, filled, source, wanted=read)
        return filled

    def end_with_own_mask(
        self,
        call: Call,
        memory: Memory,
        second: _Second,
        x: Floats,
        in_size: Size,
        out: Floats,
        size: Size,
        samples2: kernels.Samples,
        samples3: kernels.Samples,
    ) -> None:
        """Run conv3 at the samples of its own mask, on conv2's map filled where conv3 reads it."""
        filled = self.fill_second(call, memory, second, x, in_size, size, samples2, samples3.mask > 0)
        fill, layer = self.fills[3], f"{self.name}.interpolation3"
        with call.timed(layer, "interpolation"):
            index = kernels.SampleIndex(samples3, fill.window, compact=True, threads=call.threads)
        rows = memory.spaced(len(samples3), self.conv3.outputs)
        with call.timed(f"{self.name}.conv3", "conv") as row:
            row.macs += self.conv3(
                filled, size, rows, positions=samples3.positions, threads=call.threads, scale=samples3.scale
            )
        source = self.source(3, x, in_size, size, self.conv3.outputs)
        fill(call, layer, samples3.mask, index, rows, out, source, residual=out, relu=True, follow=True)


@dataclass
class _Second:
    """conv2 of a bottleneck at listed positions, any run of them at a time."""

    owner: CompiledBottleneck
    call: Call
    features: Floats
    size: Size
    sampled: Positions
    offsets: Floats | None

    def compact(self, which: slice, out: Floats, scale: Floats | None = None) -> None:
        """Compute the rows of ``sampled[which]`` into ``out``."""
        conv, name, positions = self.owner.conv2, self.owner.name, self.sampled[which]
        scale = None if scale is None else scale[which]
        if self.offsets is None:
            with self.call.timed(f"{name}.conv2", "conv") as row:
                row.macs += conv(
                    self.features,
                    self.size,
                    out,
                    positions=positions,
                    scale=scale,
                    relu=True,
                    threads=self.call.threads,
                )
            return
        with self.call.timed(f"{name}.conv2", "conv") as row:
            row.macs += conv.deform(
                self.features,
                self.size,
                self.offsets[which],
                out,
                positions=positions,
                scale=scale,
                relu=True,
                threads=self.call.threads,
            )
        with self.call.timed(f"{name}.conv2.bilinear", "bilinear") as row:
            row.macs += len(positions) * conv.geometry.kernel**2 * conv.geometry.channels * sparsity.BILINEAR_MACS
