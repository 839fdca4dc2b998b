"""Feature maps in a graph, in two layouts, and convolutions over all of a map or over listed positions of it.

A map is ``(1, C, H, W)``, as dense convolutions take it, or rows ``(H * W, C)``, one a position, which are gathered and
scattered. Either is made of the other where it is asked for, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from benchmark.export.graph import Graph, Value
from benchmark.export.weights import Weights
from benchmark.nn.work import Walk


class Map:
    """A feature map.

    Attributes
    ----------
    channels : int
        Its channels.
    height, width : Value
        Vectors of one number.
    """

    def __init__(
        self,
        graph: Graph,
        channels: int,
        height: Value,
        width: Value,
        *,
        planes: Value | None = None,
        rows: Value | None = None,
    ) -> None:
        self.graph, self.channels, self.height, self.width = graph, channels, height, width
        self._planes, self._rows = planes, rows

    @classmethod
    def of_planes(cls, graph: Graph, planes: Value, channels: int) -> Map:
        """Return the map of a value ``(1, C, H, W)``."""
        return cls(graph, channels, graph.size(planes, 2), graph.size(planes, 3), planes=planes)

    def like(self, rows: Value, channels: int) -> Map:
        """Return a map of the same extent, from rows."""
        return Map(self.graph, channels, self.height, self.width, rows=rows)

    @property
    def has_rows(self) -> bool:
        """Whether it is at hand as rows."""
        return self._rows is not None

    @property
    def planes(self) -> Value:
        """``(1, C, H, W)``."""
        if self._planes is None:
            columns = self.graph.op("Transpose", self.rows, perm=[1, 0])
            self._planes = self.graph.reshape(columns, 1, self.channels, self.height, self.width)
        return self._planes

    @property
    def rows(self) -> Value:
        """``(H * W, C)``."""
        if self._rows is None:
            columns = self.graph.reshape(self.planes, self.channels, -1)
            self._rows = str(self.graph.op("Transpose", columns, perm=[1, 0]))
        return self._rows

    @property
    def positions(self) -> Value:
        """Number of its positions, a vector of one number."""
        return str(self.graph.op("Mul", self.height, self.width))

    def square(self) -> Value:
        """``(H, W, C)``."""
        return self.graph.reshape(self.rows, self.height, self.width, self.channels)


@dataclass(frozen=True)
class Listed:
    """Positions of a map that are listed.

    Attributes
    ----------
    index : Value
        ``(n,)``, in the order of the rows.
    """

    index: Value


def out_size(graph: Graph, source: Map, walk: Walk) -> tuple[Value, Value]:
    """Return height and width of a convolution's output."""
    sizes = []
    for axis, size in enumerate((source.height, source.width)):
        kernel, stride = walk.kernel[axis], walk.stride[axis]
        padding, dilation = walk.padding[axis], walk.dilation[axis]
        spare = 2 * padding - dilation * (kernel - 1) - 1
        if (spare, stride) == (-1, 1):
            sizes.append(size)
            continue
        steps = graph.op("Add", size, graph.integers(spare)) if spare else size
        if stride > 1:
            steps = graph.op("Div", steps, graph.integers(stride))
        sizes.append(graph.op("Add", steps, graph.integers(1)))
    return sizes[0], sizes[1]


def convolve(graph: Graph, source: Map, weights: Weights, walk: Walk, relu: bool) -> Map:
    """Return a convolution of the whole map: pointwise on rows where the map has them, else on planes."""
    height, width = out_size(graph, source, walk)
    if walk.kernel == (1, 1) and source.has_rows:
        rows = source.rows
        if walk.stride != (1, 1):
            square = source.square()
            for axis in (0, 1):
                square = graph.slice(square, axis, 0, np.iinfo(np.int64).max, walk.stride[axis])
            rows = graph.reshape(square, -1, source.channels)
        return Map(graph, weights.outputs, height, width, rows=product(graph, rows, weights, relu))
    planes = graph.op(
        "Conv",
        source.planes,
        graph.constant(weights.kernel),
        graph.constant(weights.bias),
        kernel_shape=list(walk.kernel),
        strides=list(walk.stride),
        pads=[*walk.padding, *walk.padding],
        dilations=list(walk.dilation),
    )
    if relu:
        planes = graph.op("Relu", planes)
    return Map(graph, weights.outputs, height, width, planes=planes)


def product(graph: Graph, rows: Value, weights: Weights, relu: bool, bias: bool = True) -> Value:
    """Return rows ``(n, taps * C)`` times a convolution's weights, ``(n, K)``, with its bias and ReLU."""
    result = graph.op("MatMul", rows, graph.constant(weights.matrix))
    if bias:
        result = graph.op("Add", result, graph.constant(weights.bias))
    return str(graph.op("Relu", result)) if relu else str(result)


def gather(graph: Graph, source: Map, walk: Walk, at: Listed) -> Value:
    """Return what a convolution reads at listed positions of its output: rows ``(n, taps * C)``."""
    if walk.is_pointwise:
        return str(graph.op("Gather", source.rows, at.index, axis=0))
    (top, left), (kernel, across) = walk.padding, walk.kernel
    square, wide = source.square(), source.width
    if top or left:
        pads = graph.integers(top, left, 0, top, left, 0)
        square = graph.op("Pad", square, pads)
        wide = graph.op("Add", source.width, graph.integers(2 * left))
    table = graph.reshape(square, -1, source.channels)
    _, width = out_size(graph, source, walk)
    row = graph.op("Mul", graph.op("Div", at.index, width), graph.integers(walk.stride[0]))
    column = graph.op("Mul", graph.op("Mod", at.index, width), graph.integers(walk.stride[1]))
    first = graph.op("Add", graph.op("Mul", row, wide), column)
    vertical, horizontal = np.indices((kernel, across)).reshape(2, -1) * np.array(walk.dilation)[:, None]
    taps = graph.op("Add", graph.op("Mul", graph.constant(vertical), wide), graph.constant(horizontal))
    index = graph.op("Add", graph.op("Unsqueeze", first, graph.integers(1)), taps)
    return graph.reshape(graph.op("Gather", table, index, axis=0), -1, kernel * across * source.channels)


def gather_deformed(graph: Graph, source: Map, walk: Walk, offsets: Value, at: Listed) -> Value:
    """Return what a deformable convolution reads at listed positions: rows ``(n, taps * C)``, bilinear samples.

    As torchvision's operator does at borders: a corner outside of the map is zero, and so is a sample that lies a whole
    position or more outside.

    Parameters
    ----------
    offsets
        ``(n, 2 * taps)``, rows and columns in turn, in positions.
    """
    kernel, across = walk.kernel
    taps = kernel * across
    _, width = out_size(graph, source, walk)
    steps = np.indices((kernel, across)).reshape(2, -1) * np.array(walk.dilation)[:, None]
    pairs = graph.reshape(offsets, -1, taps, 2)
    coordinates = []
    for axis, kind in enumerate(("Div", "Mod")):
        start = graph.op("Mul", graph.op(kind, at.index, width), graph.integers(walk.stride[axis]))
        places = graph.op(
            "Add", graph.op("Unsqueeze", start, graph.integers(1)), graph.constant(steps[axis] - walk.padding[axis])
        )
        own = graph.op("Squeeze", graph.slice(pairs, 2, axis, axis + 1), graph.integers(2))
        coordinates.append(graph.op("Add", graph.op("Cast", places, to=1), own))
    result = ""
    lows = [graph.op("Floor", each) for each in coordinates]
    shares = [graph.op("Sub", each, low) for each, low in zip(coordinates, lows, strict=True)]
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        index, weight, inside = "", "", ""
        for axis, size in enumerate((source.height, source.width)):
            whole = graph.op("Cast", lows[axis], to=7)
            place = graph.op("Add", whole, graph.integers(1)) if corner[axis] else whole
            last = graph.op("Sub", size, graph.integers(1))
            within = graph.op(
                "And", graph.op("GreaterOrEqual", place, graph.integers(0)), graph.op("LessOrEqual", place, last)
            )
            inside = graph.op("And", inside, within) if inside else within
            place = graph.op("Min", graph.op("Max", place, graph.integers(0)), last)
            index = graph.op("Add", graph.op("Mul", index, source.width), place) if index else place
            share = shares[axis] if corner[axis] else graph.op("Sub", graph.constant(1.0), shares[axis])
            weight = graph.op("Mul", weight, share) if weight else share
        weight = graph.op("Mul", weight, graph.op("Cast", inside, to=1))
        sample = graph.op("Gather", source.rows, index, axis=0)
        sample = graph.op("Mul", sample, graph.op("Unsqueeze", weight, graph.integers(2)))
        result = graph.op("Add", result, sample) if result else sample
    return graph.reshape(result, -1, taps * source.channels)


def scatter(graph: Graph, rows: Value, at: Listed, like: Map, channels: int) -> Map:
    """Return a map of the extent of another with rows at listed positions, and zeros elsewhere."""
    zeros = graph.op("ConstantOfShape", graph.shape(like.positions, channels))
    index = graph.op("Unsqueeze", at.index, graph.integers(1))
    return like.like(graph.op("ScatterND", zeros, index, rows), channels)


def widen(graph: Graph, given: Map, norm: nn.Module) -> Map:
    """Put the channels of a pruned convolution in their places among all (`benchmark.nn.pruning`)."""
    index = getattr(norm, "index", None)
    if index is None:
        return given
    width = int(norm.width)  # type: ignore[arg-type]
    places = np.full(width, given.channels)
    places[index.cpu().numpy()] = np.arange(given.channels)
    padded = graph.op("Pad", given.planes, graph.integers(0, 0, 0, 0, 0, 1, 0, 0))
    planes = graph.op("Gather", padded, graph.constant(places), axis=1)
    return Map(graph, width, given.height, given.width, planes=planes)


def everywhere(graph: Graph, extent: Map) -> Listed:
    """List all positions of a map."""
    zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
    return Listed(graph.op("Range", zero, graph.op("Squeeze", extent.positions), one))


def blank(graph: Graph, source: Map, walk: Walk, channels: int) -> Map:
    """Return the extent of a convolution's output, as a map without values."""
    height, width = out_size(graph, source, walk)
    return Map(graph, channels, height, width)


def listed(graph: Graph, mask: Value) -> Listed:
    """List the positions of a boolean mask ``(1, 1, H, W)``."""
    flat = graph.reshape(mask, -1)
    found: Any = graph.op("NonZero", flat)
    return Listed(graph.op("Squeeze", found, graph.integers(0)))
