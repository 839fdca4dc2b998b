"""The stem's convolutions and the max pooling; of a single convolution only a band is ever in memory."""

from __future__ import annotations

from typing import cast

from torch import nn

from benchmark.engines.base import Floats
from benchmark.engines.cpu import kernels
from benchmark.engines.cpu.calls import Call
from benchmark.engines.cpu.kernels import Geometry
from benchmark.engines.cpu.layers import compile_convolution, places
from benchmark.engines.cpu.memory import Memory, Size, bands
from benchmark.nn.resnet import ResNet


class Stem:
    """The stem's convolutions and the max pooling; of a single convolution only a band is ever in memory."""

    def __init__(self, model: ResNet) -> None:
        convs = [(n, m) for n, m in model.conv1.named_modules(prefix="conv1") if isinstance(m, nn.Conv2d)]
        norms: list[nn.Module] = [m for m in model.conv1.modules() if isinstance(m, nn.BatchNorm2d)]
        norms.append(cast(nn.Module, model.bn1))
        self.convs = [
            (name, compile_convolution(name, conv, norm, row_taps=i == 0))
            for i, ((name, conv), norm) in enumerate(zip(convs, norms, strict=True))
        ]
        self.places, self.width = places(norms[-1]), int(getattr(norms[-1], "width", 0))
        pool = cast(nn.MaxPool2d, model.maxpool)
        self.pool = {
            key: int(cast(int, getattr(pool, f"{key}{s}")))
            for key, s in (("kernel", "_size"), ("stride", ""), ("padding", ""))
        }

    def out_size(self, size: Size) -> Size:
        """Return the size of the pooled map for an image of this size."""
        for _, conv in self.convs:
            size = conv.geometry.out_size(*size)
        return Geometry(1, self.pool["kernel"], self.pool["stride"], self.pool["padding"]).out_size(*size)

    def __call__(self, call: Call, memory: Memory, image: Floats) -> tuple[Floats, Size]:
        """Run the stem on ``(3, H, W)``."""
        size: Size = (image.shape[1], image.shape[2])
        first = self.convs[0][1]
        border = first.geometry.padding
        padded = memory.scratch(first.geometry.in_rows(*size), image.shape[0])
        with call.timed(self.convs[0][0], "conv"):
            x = kernels.channels_last(image, border=border, out=padded, threads=call.threads)
        for name, conv in self.convs[:-1]:
            out_size = conv.geometry.out_size(*size)
            y = memory.scratch(out_size[0] * out_size[1], conv.outputs)
            with call.timed(name, "conv") as row:
                row.macs += conv(x, size, y, relu=True, threads=call.threads)
            x, size = y, out_size
        return self._last(call, memory, x, size)

    def _last(self, call: Call, memory: Memory, x: Floats, size: Size) -> tuple[Floats, Size]:
        """Run the last convolution and the pooling in bands; a row that two bands pool is kept, not recomputed."""
        name, conv = self.convs[-1]
        height, width = conv.geometry.out_size(*size)
        kernel, stride, padding = self.pool["kernel"], self.pool["stride"], self.pool["padding"]
        pooled_size = Geometry(1, kernel, stride, padding).out_size(height, width)
        out = memory.named("layer0", pooled_size[0] * pooled_size[1], conv.outputs)
        pieces = list(bands(pooled_size[0], 4 * width * conv.outputs * stride))
        held = max(b - a for a, b in pieces) * stride + kernel
        band = memory.scratch(held * width, conv.outputs)
        positions = memory.all_positions(height * width)
        computed = begin = 0
        for first, last in pieces:
            need = max(0, first * stride - padding)
            # The first rows of this band are the last of the one before, which both pool: moved to the front.
            keep = band[(need - begin) * width : (computed - begin) * width]
            band[: len(keep)] = keep.copy()
            begin = need
            until = height if last == pooled_size[0] else min(height, (last - 1) * stride - padding + kernel)
            with call.timed(name, "conv") as row:
                if until > computed:
                    row.macs += conv(
                        x,
                        size,
                        band[(computed - begin) * width : (until - begin) * width],
                        positions=positions[computed * width : until * width],
                        relu=True,
                        threads=call.threads,
                    )
            computed = until
            with call.timed("maxpool", "uncounted"):
                kernels.max_pool(
                    band[: (computed - begin) * width],
                    (height, width),
                    out,
                    first_row=begin,
                    rows=(first, last),
                    threads=call.threads,
                    **self.pool,
                )
        if self.places is None:
            return out, pooled_size
        wide = memory.named("scattered", len(out), self.width)
        wide[:] = 0
        wide[:, self.places] = out
        return wide, pooled_size
