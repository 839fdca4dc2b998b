"""A backbone in a graph: each block as its description says (`benchmark.nn.work`), convolutions on listed positions.

What a convolution computes, reads and fills is derived there and in no other place; here it only becomes nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import nn
from torchvision.ops import DeformConv2d

from benchmark.export.fills import fill
from benchmark.export.graph import Graph, Value
from benchmark.export.maps import (
    Listed,
    Map,
    blank,
    convolve,
    everywhere,
    gather,
    gather_deformed,
    listed,
    product,
    scatter,
    widen,
)
from benchmark.export.masks import Decision, ExportRefusal, MaskWriter
from benchmark.export.weights import Weights, folded
from benchmark.nn import work
from benchmark.nn.blocks import BasicBlock, Bottleneck, ResidualBlock
from benchmark.nn.interpolation import Zeros
from benchmark.nn.masks import Mask
from benchmark.nn.resnet import ResNet, residual_blocks
from benchmark.nn.work import Convolution, ReadBy, Region, Sampled, Size, Subsampled, Walk

STEM = ("conv1", "bn1", "relu", "maxpool")


@dataclass
class BackboneWriter:
    """Writes a backbone into a graph.

    Attributes
    ----------
    graph : Graph
        Where to.
    masks : MaskWriter
        How masks come into it.
    size : (int, int) or None
        Height and width of all images, where the graph is for one size alone.
    """

    graph: Graph
    masks: MaskWriter
    size: Size | None = None

    def __call__(self, model: ResNet, images: Value) -> dict[str, Map]:
        """Write it; return the stages' maps by name.

        Parameters
        ----------
        model
            The backbone, in evaluation mode.
        images
            ``(1, 3, H, W)``.

        Raises
        ------
        ExportRefusal
            For a part that has no form in standard operators.
        """
        inputs = {} if self.size is None else block_inputs(model, self.size)
        x, maps = self._stem(model, images), {}
        for name, child in model.named_children():
            if name in STEM or not name.startswith("layer"):
                continue
            if type(child) is not nn.Sequential:
                reason = f"the exporter runs a stage's blocks one after the other, not {type(child).__name__}"
                raise ExportRefusal(name, reason)
            for place, block in child.named_children():
                if type(block) not in (Bottleneck, BasicBlock):
                    reason = f"the exporter does not know blocks of class {type(block).__name__}"
                    raise ExportRefusal(f"{name}.{place}", reason)
                self.graph.scope = f"{name}.{place}/"
                residual = cast(ResidualBlock, block)
                x = BlockWriter(self.graph, self.masks, residual, x, inputs.get(residual.name)).run()
            maps[name] = x
        self.graph.scope = ""
        return maps

    def _stem(self, model: ResNet, images: Value) -> Map:
        x = Map.of_planes(self.graph, images, 3)
        convolutions = [m for m in model.conv1.modules() if isinstance(m, nn.Conv2d)]
        norms = [m for m in model.conv1.modules() if isinstance(m, nn.BatchNorm2d)]
        for convolution, norm in zip(convolutions, [*norms, model.bn1], strict=True):
            walk = Walk.of(convolution)
            x = convolve(self.graph, x, folded(convolution, cast(nn.Module, norm)), walk, relu=True)
            x = widen(self.graph, x, cast(nn.Module, norm))
        walk = _pooling(model)
        planes = self.graph.op(
            "MaxPool", x.planes, kernel_shape=list(walk.kernel), strides=list(walk.stride), pads=[*walk.padding] * 2
        )
        extent = blank(self.graph, x, walk, x.channels)
        return Map(self.graph, x.channels, extent.height, extent.width, planes=planes)


def _pooling(model: ResNet) -> Walk:
    kernel, stride, padding = (
        (cast(int, getattr(model.maxpool, name)),) * 2 for name in ("kernel_size", "stride", "padding")
    )
    return Walk(kernel, stride, padding, (1, 1))


def block_inputs(model: ResNet, size: Size) -> dict[str, Size]:
    """Return height and width of each block's input, by the block's name, for images of a size.

    Raises
    ------
    ValueError
        For images that are smaller than the stem's kernels.
    """
    walks = [Walk.of(module) for module in model.conv1.modules() if isinstance(module, nn.Conv2d)]
    for walk in (*walks, _pooling(model)):
        size = walk.out_size(size)
        if min(size) < 1:
            raise ValueError("images are smaller than the stem's kernels")
    found = {}
    for block in residual_blocks(model):
        found[block.name] = size
        size = block.work.sizes(size)[-1]
    return found


class BlockWriter:
    """Writes a residual block.

    Parameters
    ----------
    graph, masks
        Where to, and how masks come into it.
    block
        The block.
    x
        Its input.
    size
        Height and width of the input, where they are known.
    """

    def __init__(self, graph: Graph, masks: MaskWriter, block: ResidualBlock, x: Map, size: Size | None) -> None:
        self.graph, self.writer, self.block, self.x = graph, masks, block, x
        self.work = block.work
        self.sizes = None if size is None else self.work.sizes(size)
        self.decisions: dict[int, Decision] = {}
        self._listed: dict[Region, Listed] = {}
        if self.work.gates:
            raise ExportRefusal(f"{block.name}.gate{self.work.gates[0]}", "the exporter has no gates over channels")

    def run(self) -> Map:
        """Write it; return its output."""
        extents = self._extents()
        early = [number for number in self.work.masks if number not in self.work.late]
        self._decide(early, self.x, extents)
        source, steps = self.x, self.work.convolutions
        for place, step in enumerate(steps):
            number = place + 1
            if number in self.work.late:
                self._decide([number], source, extents)
            if place + 1 < len(steps) and steps[place + 1].commutes and step.fill is not None:
                return self._commuting(step, steps[place + 1], number, source, extents)
            if number == len(steps) and step.fill is not None and isinstance(self._module(step.fill.layer), Zeros):
                return self._added(step, number, source)
            source = self._filled(step, number, source, extents[place])
        shortcut = self._shortcut()
        if source.has_rows and shortcut.has_rows:
            rows = self.graph.op("Relu", self.graph.op("Add", source.rows, shortcut.rows))
            return source.like(rows, source.channels)
        planes = self.graph.op("Relu", self.graph.op("Add", source.planes, shortcut.planes))
        return Map(self.graph, source.channels, source.height, source.width, planes=planes)

    def _extents(self) -> list[Map]:
        """Return the extent of the map behind each convolution."""
        found, extent = [], self.x
        for number, step in enumerate(self.work.convolutions, start=1):
            norm = self._module(f"bn{number}")
            channels = int(getattr(norm, "width", cast(Any, norm).num_features))
            extent = blank(self.graph, extent, step.walk, channels)
            found.append(extent)
        return found

    def _decide(self, numbers: list[int], source: Map, extents: list[Map]) -> None:
        named = [(f"{self.block.name}.mask{number}", cast(Mask, self._module(f"mask{number}"))) for number in numbers]
        logits = self.writer.products(named, source)
        for number, (place, mask) in zip(numbers, named, strict=True):
            size = None if self.sizes is None else self.sizes[number - 1]
            governed = extents[number - 1]
            self.decisions[number] = self.writer.decide(place, mask, source, governed, size, logits.get(place, ""))

    def _filled(self, step: Convolution, number: int, source: Map, extent: Map) -> Map:
        """Write a convolution, and the fill behind it."""
        relu = number < len(self.work.convolutions)
        if step.computes == work.EVERYWHERE and not step.walk.anywhere:
            return widen(self.graph, self._convolved(number, source, relu), self._module(f"bn{number}"))
        at = everywhere(self.graph, extent) if step.computes == work.EVERYWHERE else self._at(step.computes)
        rows = self._rows(step, number, source, at, relu)
        if step.fill is None:
            if step.computes == work.EVERYWHERE:
                return extent.like(rows, extent.channels)
            return scatter(self.graph, rows, at, extent, extent.channels)
        return self._fill(step, rows, at, source, extent, number)

    def _fill(self, step: Convolution, rows: Value, at: Listed, source: Map, extent: Map, number: int) -> Map:
        described = cast(work.Fill, step.fill)
        size = None if self.sizes is None else self.sizes[number - 1]
        return fill(
            self.graph, f"{self.block.name}.{described.layer}", self._module(described.layer), rows, at,
            self._values(described.mask), extent, source=source, walk=step.walk, size=size,
        )  # fmt: skip

    def _commuting(self, step: Convolution, last: Convolution, number: int, source: Map, extents: list[Map]) -> Map:
        """Write the fill before the last convolution, which then runs everywhere.

        The other order computes the convolution at the samples alone, and fills four times as many channels. A fill is
        a depthwise convolution here, bound by memory, where this product is bound by arithmetic: docs/export.md has the
        times of both.
        """
        filled = self._filled(step, number, source, extents[number - 1])
        shortcut = self._shortcut()
        weights = self._weights(number + 1)
        planes = convolve(
            self.graph,
            Map(self.graph, filled.channels, filled.height, filled.width, planes=filled.planes),
            weights,
            last.walk,
            relu=False,
        )
        summed = self.graph.op("Relu", self.graph.op("Add", planes.planes, shortcut.planes))
        return Map(self.graph, weights.outputs, filled.height, filled.width, planes=summed)

    def _added(self, step: Convolution, number: int, source: Map) -> Map:
        """Write a last convolution that leaves zeros: elsewhere, the shortcut passes alone."""
        shortcut = self._shortcut()
        # A block's input has passed a ReLU already.
        base = shortcut.rows if self.block.downsample is None else self.graph.op("Relu", shortcut.rows)
        at = self._at(step.computes)
        rows = self._rows(step, number, source, at, relu=False)
        mask = self._values(cast(work.Fill, step.fill).mask)
        if not mask.hard:
            weights = self.graph.op("Gather", self.graph.reshape(mask.values, -1, 1), at.index, axis=0)
            rows = self.graph.op("Mul", rows, weights)
        own = self.graph.op("Gather", shortcut.rows, at.index, axis=0)
        summed = self.graph.op("Relu", self.graph.op("Add", rows, own))
        index = self.graph.op("Unsqueeze", at.index, self.graph.integers(1))
        return shortcut.like(self.graph.op("ScatterND", base, index, summed), shortcut.channels)

    def _rows(self, step: Convolution, number: int, source: Map, at: Listed, relu: bool) -> Value:
        """Write a convolution at listed positions; return its rows, with all channels."""
        weights, norm = self._weights(number), self._module(f"bn{number}")
        if step.walk.anywhere:
            deformed = cast(DeformConv2d, self._module(f"conv{number}"))
            plain = Walk(step.walk.kernel, step.walk.stride, step.walk.padding, step.walk.dilation)
            beside = self._module(step.beside)
            offsets = product(self.graph, gather(self.graph, self.x, Walk.of(beside), at), folded(beside), relu=False)
            if deformed.groups != 1:
                raise ExportRefusal(f"{self.block.name}.conv{number}", "the exporter has no grouped convolutions")
            read = gather_deformed(self.graph, source, plain, offsets, at)
        else:
            read = gather(self.graph, source, step.walk, at)
        rows = product(self.graph, read, weights, relu)
        index = getattr(norm, "index", None)
        if index is None:
            return rows
        width = int(cast(Any, norm).width)
        places = np.full(width, weights.outputs)
        places[index.cpu().numpy()] = np.arange(weights.outputs)
        padded = self.graph.op("Pad", rows, self.graph.integers(0, 0, 0, 1))
        return str(self.graph.op("Gather", padded, self.graph.constant(places), axis=1))

    def _convolved(self, number: int, source: Map, relu: bool) -> Map:
        convolution = cast(nn.Conv2d, self._module(f"conv{number}"))
        return convolve(self.graph, source, self._weights(number), Walk.of(convolution), relu)

    def _shortcut(self) -> Map:
        if self.block.downsample is None:
            return self.x
        convolution, norm = self.block.downsample[0], self.block.downsample[1]
        return convolve(
            self.graph, self.x, folded(convolution, cast(nn.Module, norm)), Walk.of(convolution), relu=False
        )

    def _weights(self, number: int) -> Weights:
        convolution = self._module(f"conv{number}")
        if cast(Any, convolution).groups != 1:
            raise ExportRefusal(f"{self.block.name}.conv{number}", "the exporter has no grouped convolutions")
        return folded(convolution, self._module(f"bn{number}"))

    def _module(self, name: str) -> nn.Module:
        return cast(nn.Module, getattr(self.block, name))

    def _values(self, region: Region) -> Decision:
        """Return the mask values of a region that is a mask."""
        if isinstance(region, Sampled):
            return self.decisions[region.mask]
        assert isinstance(region, Subsampled)
        inner, values = self._values(region.region), ""
        values = inner.values
        for axis, step in zip((2, 3), region.stride, strict=True):
            if step > 1:
                values = self.graph.slice(values, axis, 0, np.iinfo(np.int64).max, step)
        return Decision(values, inner.hard)

    def _at(self, region: Region) -> Listed:
        if region not in self._listed:
            self._listed[region] = listed(self.graph, self._positions(region))
        return self._listed[region]

    def _positions(self, region: Region) -> Value:
        """Return the positions of a region, boolean ``(1, 1, H, W)``."""
        if not isinstance(region, ReadBy):
            return str(self.graph.op("Greater", self._values(region).values, self.graph.constant(0.0)))
        walk, graph = region.walk, self.graph
        inner = graph.op("Cast", self._positions(region.region), to=1)
        # A transposed convolution with ones counts how often each input position is read, stride and dilation included.
        ones = graph.constant(np.ones((1, 1, *walk.kernel), dtype=np.float32))
        counts = graph.op(
            "ConvTranspose", inner, ones, strides=list(walk.stride), dilations=list(walk.dilation),
            kernel_shape=list(walk.kernel),
        )  # fmt: skip
        counts = graph.op("Pad", counts, graph.integers(0, 0, 0, 0, 0, 0, *walk.stride))
        extent = self._read_extent(region)
        for axis, size in ((2, extent.height), (3, extent.width)):
            padding = walk.padding[axis - 2]
            counts = graph.slice(counts, axis, padding, graph.op("Add", size, graph.integers(padding)))
        return str(graph.op("Greater", counts, graph.constant(0.5)))

    def _read_extent(self, region: ReadBy) -> Map:
        """Return the extent of the map that a region lies on: what the convolution with its walk reads."""
        extents = [self.x, *self._extents()]
        for place, step in enumerate(self.work.convolutions):
            if step.walk == region.walk:
                return extents[place]
        raise AssertionError(f"{self.block.name}: no convolution walks as {region.walk}")
