"""The bottleneck: 1x1, 3x3 (deformable on request), 1x1, in bands, with conv3 before or after the fill."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.engines.base import EngineRefusal, Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.blocks import Block, Run
from benchmark.engines.cpu.fills import Fill
from benchmark.engines.cpu.kernels import NarrowConvolution, Positions
from benchmark.engines.cpu.layers import compile_convolution, folded, geometry, places
from benchmark.engines.cpu.masks import Placed
from benchmark.engines.cpu.memory import bands, ring_pieces
from benchmark.nn import sparsity
from benchmark.nn.blocks import Bottleneck
from benchmark.nn.interpolation import Nearest


class CompiledBottleneck(Block):
    """1x1, 3x3 (deformable on request), 1x1."""

    def __init__(self, block: Bottleneck, masks: list[Placed]) -> None:
        super().__init__(block, masks)
        if self.late.placed:
            reason = "the CPU engine decides a bottleneck's masks from the block's input alone"
            raise EngineRefusal(self.late.placed[0].name, reason)
        if places(block.bn3) is not None:
            raise EngineRefusal(
                f"{block.name}.conv3", "the CPU engine prunes the inner convolutions of a bottleneck only"
            )
        self.conv2 = compile_convolution(f"{block.name}.conv2", block.conv2, block.bn2)
        self.conv3 = compile_convolution(f"{block.name}.conv3", block.conv3, block.bn3)
        last = self.step(3).fill
        if 2 not in self.fills and last is not None and last.reads_source:
            raise EngineRefusal(f"{block.name}.interpolation3", "the CPU engine copies the input of a masked map only")
        self.bias3 = folded(block.conv3, block.bn3)[1]
        self.offset: NarrowConvolution | None = None
        if self.step(2).beside:
            self.offset = NarrowConvolution(*folded(block.offset, None), geometry(f"{block.name}.offset", block.offset))

    def branch(self, run: Run) -> None:
        """Compute shortcut and branch, and their sum's ReLU, into the block's map."""
        first = self.first(run)
        samples = run.samples(2, self.step(2).computes)
        whole = run.memory.all_positions(run.out_size[0] * run.out_size[1])
        sampled = whole if samples is None else samples.positions
        offsets = self.offsets(run, sampled)
        y = self.fill_first(run, first)
        self.shortcut(run)
        second = _Second(self, run, y, sampled, offsets)
        if samples is None:
            self.end_dense(run, second)
        elif 2 not in self.fills:
            self.end_on_samples(run, second, samples, 3)
        elif 3 in self.fills:
            self.end_with_own_mask(run, second, samples)
        else:
            self.end_sharing(run, second, samples)

    def offsets(self, run: Run, positions: Positions) -> Floats | None:
        """Run the offset convolution at conv2's positions."""
        if self.offset is None:
            return None
        offsets = run.memory.scratch(len(positions), self.offset.outputs)
        with run.call.timed(f"{self.name}.offset", "offset") as row:
            row.macs += self.offset(run.x, run.size, offsets, positions=positions, threads=run.call.threads)
        return offsets

    def end_dense(self, run: Run, second: _Second) -> None:
        """Run conv2 and conv3 densely, band by band."""
        call, size = run.call, run.out_size
        pieces = list(bands(size[0], size[1] * self.conv2.outputs * 4))
        buffer = run.memory.scratch(max(b - a for a, b in pieces) * size[1], self.conv2.outputs)
        follow = call.follow()
        for first, last in pieces:
            here = slice(first * size[1], last * size[1])
            features = buffer[: here.stop - here.start]
            second.compact(here, features)
            with call.timed(f"{self.name}.conv3", "conv") as row:
                row.macs += self.conv3(
                    features,
                    (last - first, size[1]),
                    run.out[here],
                    residual=run.out[here],
                    relu=True,
                    follow=None if follow is None else follow.rows(here),
                    threads=call.threads,
                )

    def end_sharing(self, run: Run, second: _Second, samples: kernels.Samples) -> None:
        """Run conv2 and conv3 under one mask: conv3 on the samples, or densely after the fill."""
        call, fill = run.call, self.fills[2]
        with call.timed(fill.layer, "interpolation"):
            on_samples = self.step(3).commutes and self.cheaper_on_samples(samples, fill)
        if on_samples:
            self.end_on_samples(run, second, samples, 2)
            return
        filled = self.fill_second(run, second, samples)
        with call.timed(f"{self.name}.conv3", "conv") as row:
            row.macs += self.conv3(
                filled, run.out_size, run.out, residual=run.out, relu=True, follow=call.follow(), threads=call.threads
            )

    def cheaper_on_samples(self, samples: kernels.Samples, fill: Fill) -> bool:
        """Whether conv3 runs on the samples. The pairs need no counting if so many as there could be are few enough."""
        mask, window = samples.mask, fill.module.window
        channels = (self.conv3.geometry.channels, self.conv3.outputs)
        most = (mask.size - len(samples) if samples.binary else mask.size) * window**2
        if sparsity.conv3_plan(len(samples), most, mask.size, *channels).on_samples:
            return True
        pairs = int(sparsity.neighbour_pairs(mask, None, window))
        return bool(sparsity.conv3_plan(len(samples), pairs, mask.size, *channels).on_samples)

    def end_on_samples(self, run: Run, second: _Second, samples: kernels.Samples, filled: int) -> None:
        """Run conv3 on conv2's rows and fill its output, adding shortcut and ReLU in the same pass.

        The fill is conv3's own (``filled`` is 3: M and the bias belong to conv3), or conv2's, which trades places with
        conv3 (2: M belongs to conv2, and conv3's bias comes after the fill).

        The map's rows are walked in bands. A band's fill reads samples of ``radius`` map rows above and below it, so
        the fill lags ``radius`` rows behind the convolutions; conv3's rows live in a ring that holds the samples of a
        band and of the window around it, numbered modulo its length, and each band overwrites what no window reads any
        more.
        """
        call, fill, height = run.call, self.fills[filled], run.out_size[0]
        scale2, scale3 = (samples.scale, None) if filled == 2 else (None, samples.scale)
        whole = isinstance(fill.module, Nearest)  # its row may be anywhere: all rows are kept
        sample_bytes = 4 * (self.conv2.outputs + self.conv3.outputs)
        pieces = list(bands(height, len(samples) / height * sample_bytes))
        radius = fill.window // 2
        with call.timed(fill.layer, "interpolation"):
            starts = samples.starts.tolist()
            held = len(samples)
            if not whole:
                held = max(starts[last] - starts[max(0, first - 2 * radius)] for first, last in pieces)
            index = kernels.SampleIndex(samples, fill.window, compact=True, ring=held, threads=call.threads)
            changed = self.changed(3, samples) if filled == 3 else None
        rows = run.memory.spaced(held, self.conv3.outputs)
        features = run.memory.scratch(max(starts[last] - starts[first] for first, last in pieces), self.conv2.outputs)
        done = 0
        for first, last in pieces:
            here = slice(starts[first], starts[last])
            second.compact(here, features[: here.stop - here.start], scale2)
            with call.timed(f"{self.name}.conv3", "conv") as row:
                for begin, end in ring_pieces(here.start, here.stop, held):
                    row.macs += self.conv3(
                        features[begin - here.start : end - here.start],
                        (1, end - begin),
                        rows[begin % held : begin % held + end - begin],
                        scale=None if scale3 is None else scale3[begin:end],
                        with_bias=filled == 3,
                        threads=call.threads,
                    )
            if whole and last < height:
                continue
            ready = height if last == height else max(done, last - radius)
            fill(
                call,
                samples.mask,
                index,
                rows,
                run.out,
                None,
                wanted=changed,
                map_rows=(done, ready),
                bias=self.bias3 if filled == 2 else None,
                residual=run.out,
                relu=True,
                ends=True,
            )
            done = ready

    def fill_second(self, run: Run, second: _Second, samples: kernels.Samples) -> Floats:
        """Run conv2 and fill its map where it is needed; the rest of it is not written."""
        call, fill = run.call, self.fills[2]
        with call.timed(fill.layer, "interpolation"):
            index = kernels.SampleIndex(samples, fill.window, compact=True, threads=call.threads)
            needed = run.regions.positions(fill.needed, run.out_size)
        rows = run.memory.scratch(len(samples), self.conv2.outputs)
        second.compact(slice(0, len(samples)), rows, samples.scale)
        filled = run.memory.scratch(samples.mask.size, self.conv2.outputs)
        source = self.source(run, 2, second.features, self.conv2.outputs)
        fill(call, samples.mask, index, rows, filled, source, wanted=needed)
        return filled

    def end_with_own_mask(self, run: Run, second: _Second, samples2: kernels.Samples) -> None:
        """Run conv3 at the samples of its own mask, on conv2's map filled where conv3 reads it."""
        call, fill = run.call, self.fills[3]
        filled = self.fill_second(run, second, samples2)
        with call.timed(fill.layer, "interpolation"):
            samples = run.samples(3, self.step(3).computes)
            assert samples is not None  # a fill's convolution computes what a mask samples
            index = kernels.SampleIndex(samples, fill.window, compact=True, threads=call.threads)
            changed = self.changed(3, samples)
        rows = run.memory.spaced(len(samples), self.conv3.outputs)
        with call.timed(f"{self.name}.conv3", "conv") as row:
            row.macs += self.conv3(
                filled, run.out_size, rows, positions=samples.positions, threads=call.threads, scale=samples.scale
            )
        source = self.source(run, 3, filled, self.conv3.outputs)
        fill(call, samples.mask, index, rows, run.out, source, wanted=changed, residual=run.out, relu=True, ends=True)


@dataclass
class _Second:
    """conv2 of a bottleneck at listed positions, any run of them at a time."""

    owner: CompiledBottleneck
    run: Run
    features: Floats
    sampled: Positions
    offsets: Floats | None

    def compact(self, which: slice, out: Floats, scale: Floats | None = None) -> None:
        """Compute the rows of ``sampled[which]`` into ``out``."""
        conv, name, positions = self.owner.conv2, self.owner.name, self.sampled[which]
        scale = None if scale is None else scale[which]
        if self.offsets is None:
            with self.run.call.timed(f"{name}.conv2", "conv") as row:
                row.macs += conv(
                    self.features,
                    self.run.sizes[0],
                    out,
                    positions=positions,
                    scale=scale,
                    relu=True,
                    threads=self.run.call.threads,
                )
            return
        with self.run.call.timed(f"{name}.conv2", "conv") as row:
            row.macs += conv.deform(
                self.features,
                self.run.sizes[0],
                self.offsets[which],
                out,
                positions=positions,
                scale=scale,
                relu=True,
                threads=self.run.call.threads,
            )
        with self.run.call.timed(f"{name}.conv2.bilinear", "bilinear") as row:
            row.macs += len(positions) * conv.geometry.kernel**2 * conv.geometry.channels * sparsity.BILINEAR_MACS
