"""The segmenter around its backbone in standard operators."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from benchmark.export import Backbone, Graph, Map, Output, Value, convolve, folded
from benchmark.nn.work import Walk
from benchmark.tasks.cityscapes.segmenter import OUTPUT_STRIDE, Segmenter


def write_segmenter(graph: Graph, model: Segmenter, image: Value, backbone: Backbone) -> list[Output]:
    """Write a segmenter; return its output ``logits``, ``(1, classes, H, W)`` at the image's size."""
    *_, last = backbone(image).values()
    source = Map(graph, last.channels, last.height, last.width, planes=last.planes)
    hidden, scores = cast(nn.Conv2d, model.head[0]), cast(nn.Conv2d, model.head[4])
    found = convolve(graph, source, folded(hidden, cast(Any, model.head[1])), Walk.of(hidden), relu=True)
    found = convolve(graph, found, folded(scores), Walk.of(scores), relu=False)
    one, stride = graph.integers(1), graph.integers(OUTPUT_STRIDE)
    sides = [
        graph.op("Add", graph.op("Mul", graph.op("Sub", side, one), stride), one)
        for side in (found.height, found.width)
    ]
    aligned = graph.op(
        "Resize", found.planes, "", "", graph.shape(1, scores.out_channels, *sides), mode="linear",
        coordinate_transformation_mode="align_corners",
    )  # fmt: skip
    rest = [graph.op("Sub", graph.size(image, axis), side) for axis, side in zip((2, 3), sides, strict=True)]
    logits = graph.op("Pad", aligned, graph.shape(0, 0, 0, 0, 0, 0, *rest), mode="edge")
    return [Output("logits", logits, (1, scores.out_channels, "height", "width"))]
