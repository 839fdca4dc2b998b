"""Fills in the graph: what stands at the positions that a convolution left out."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from benchmark.export.graph import Graph, Value
from benchmark.export.maps import Listed, Map, scatter
from benchmark.export.masks import Decision, ExportRefusal
from benchmark.export.weights import Floats, array
from benchmark.nn.interpolation import (
    EPSILON,
    RBF,
    AveragePooling,
    LearnedKernel,
    Nearest,
    PaperRBF,
    Reuse,
    WindowedInterpolation,
    Zeros,
)
from benchmark.nn.work import Size, Walk

KNOWN = (RBF, PaperRBF, AveragePooling, LearnedKernel, Nearest, Reuse, Zeros)


def fill(
    graph: Graph, name: str, module: nn.Module, rows: Value, at: Listed, mask: Decision, extent: Map, **more: Any
) -> Map:
    """Return the filled map.

    Parameters
    ----------
    name
        Of the fill, within the backbone.
    rows
        What was computed, ``(n, C)``.
    at
        Where.
    mask
        Values that blend what was computed with what is filled.
    extent
        A map of the same height and width, with the channels of the result.
    more
        ``source``, what the convolution read, its ``walk``, and ``size``, the map's height and width if they are known.

    Raises
    ------
    ExportRefusal
        For a fill that has no form in standard operators.
    """
    if type(module) not in KNOWN:
        raise ExportRefusal(name, f"the exporter does not know fills of class {type(module).__name__}")
    channels = extent.channels
    if isinstance(module, Nearest):
        return _nearest(graph, name, module, rows, mask, extent, more["size"])
    if not mask.hard:
        weights = graph.op("Gather", graph.reshape(mask.values, -1, 1), at.index, axis=0)
        rows = graph.op("Mul", rows, weights)
    kept = scatter(graph, rows, at, extent, channels)
    if isinstance(module, Zeros):
        return kept
    left_out = graph.op("Sub", graph.constant(1.0), mask.values)
    if isinstance(module, Reuse):
        copied = _match(graph, name, more["source"], channels, more["walk"])
        filled = graph.op("Mul", left_out, copied)
    else:
        window = cast(WindowedInterpolation, module)
        share = graph.op(
            "Div", left_out, graph.op("Add", _weight_sum(graph, window, mask.values), graph.constant(EPSILON))
        )
        filled = graph.op("Mul", _window(graph, window, kept.planes, channels), share)
        if window.squared_mask and not mask.hard:
            squared = graph.op("Mul", kept.planes, mask.values)
            return Map(graph, channels, extent.height, extent.width, planes=graph.op("Add", squared, filled))
    planes = graph.op("Add", kept.planes, filled)
    return Map(graph, channels, extent.height, extent.width, planes=planes)


def _window(graph: Graph, module: WindowedInterpolation, planes: Value, channels: int) -> Value:
    """Return the window's weighted sum of ``(1, C, H, W)``: two thin passes where its weights are a product."""
    profile = _profile(module)
    if profile is None:
        return _depthwise(graph, planes, array(module.kernel()), channels)
    return _depthwise(graph, _depthwise(graph, planes, profile[:, None], channels), profile[None, :], channels)


def _weight_sum(graph: Graph, module: WindowedInterpolation, mask: Value) -> Value:
    profile = _profile(module)
    if profile is None:
        return _depthwise(graph, mask, np.abs(array(module.kernel())), 1)
    return _depthwise(graph, _depthwise(graph, mask, profile[:, None], 1), profile[None, :], 1)


def _profile(module: WindowedInterpolation) -> Floats | None:
    profile = getattr(module, "profile", None)
    return None if profile is None else array(cast(Tensor, profile()))


def _depthwise(graph: Graph, planes: Value, kernel: Floats, channels: int) -> Value:
    height, width = kernel.shape
    weights = graph.constant(np.broadcast_to(kernel, (channels, 1, height, width)))
    pads = [height // 2, width // 2, height // 2, width // 2]
    return str(graph.op("Conv", planes, weights, group=channels, kernel_shape=[height, width], pads=pads))


def _nearest(
    graph: Graph, name: str, module: Nearest, rows: Value, mask: Decision, extent: Map, size: Size | None
) -> Map:
    """Return a copy of the nearest computed row everywhere; which one it is was found when the graph was made."""
    pattern = next((each for each in graph.initializers if each.name == mask.values), None)
    if size is None or pattern is None:
        raise ExportRefusal(name, "the nearest position is found for masks of one size that no image changes")
    import torch
    from onnx import numpy_helper

    values = torch.from_numpy(numpy_helper.to_array(pattern).copy())[0, 0]
    nearest = module.index(values).numpy()
    order = np.cumsum(values.numpy().reshape(-1) > 0) - 1  # a position's place among those computed
    index = graph.constant(order[nearest])
    return extent.like(graph.op("Gather", rows, index, axis=0), extent.channels)


def _match(graph: Graph, name: str, source: Map, channels: int, walk: Walk) -> Value:
    """Bring what a convolution read to its output's shape, as `benchmark.nn.interpolation.Reuse.match` does."""
    planes, (down, across) = source.planes, walk.stride
    for axis, step in ((2, down), (3, across)):
        if step > 1:
            planes = graph.slice(planes, axis, 0, np.iinfo(np.int64).max, step)
    have = source.channels
    if have > channels and have % channels == 0:
        grouped = graph.op(
            "Reshape", planes, graph.shape(1, channels, have // channels, graph.size(planes, 2), graph.size(planes, 3))
        )
        return str(graph.op("ReduceMean", grouped, graph.integers(2), keepdims=0))
    if channels % have == 0:
        return str(graph.op("Gather", planes, graph.constant(np.repeat(np.arange(have), channels // have)), axis=1))
    raise ExportRefusal(name, f"cannot reuse {have} channels as {channels}: neither divides the other")
