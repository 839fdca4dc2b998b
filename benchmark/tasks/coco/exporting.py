"""The detector around its backbone in standard operators, for one image: what torchvision's parts compute at inference.

The graph takes an image of any size, pads it to multiples of 32 itself, and gives boxes in that image's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from torch import nn

from benchmark.export import Backbone, Graph, Map, Output, Value, convolve, folded
from benchmark.nn.work import Walk
from benchmark.tasks.coco.heads import FINEST_STRIDE, CentredAnchors

SMALLEST_DETECTION = 1e-2  # pixels; fixed in torchvision's postprocess_detections
EVERY = np.iinfo(np.int64).max


def write_detector(graph: Graph, model: Any, image: Value, backbone: Backbone) -> list[Output]:
    """Write a detector; return its outputs ``boxes``, ``scores`` and ``labels``.

    Parameters
    ----------
    model
        torchvision's `GeneralizedRCNN` around one of our backbones.
    image
        ``(1, 3, H, W)``, normalised, not padded.
    backbone
        Writes the backbone for a value.
    """
    writer = _Detector(graph, model, graph.size(image, 2), graph.size(image, 3))
    padded = writer.pad(image)
    levels = writer.pyramid(backbone(padded))
    proposals = writer.propose(levels, padded)
    return writer.detect(levels, proposals)


class _Detector:
    """Writes the parts of one detector for an image of height and width."""

    def __init__(self, graph: Graph, model: Any, height: Value, width: Value) -> None:
        self.graph, self.model, self.height, self.width = graph, model, height, width

    def pad(self, image: Value) -> Value:
        """Pad an image with zeros, below and to the right, to multiples of what the detector's transform says."""
        graph, divisor = self.graph, self.graph.integers(int(self.model.transform.size_divisible))
        missing = [
            graph.op("Mod", graph.op("Sub", divisor, graph.op("Mod", size, divisor)), divisor)
            for size in (self.height, self.width)
        ]
        return str(graph.op("Pad", image, graph.shape(0, 0, 0, 0, 0, 0, *missing)))

    def pyramid(self, maps: dict[str, Map]) -> list[Map]:
        """Return the pyramid's levels, finest first."""
        graph, fpn = self.graph, self.model.backbone.fpn
        found: list[Map] = []
        above: Map | None = None
        for place in reversed(range(len(maps))):
            source = list(maps.values())[place]
            lateral = self._convolution(source, fpn.inner_blocks[place][0])
            if above is not None:
                sizes = graph.shape(1, lateral.channels, lateral.height, lateral.width)
                larger = graph.op(
                    "Resize", above.planes, "", "", sizes, mode="nearest",
                    coordinate_transformation_mode="asymmetric", nearest_mode="floor",
                )  # fmt: skip
                planes = graph.op("Add", lateral.planes, larger)
                lateral = Map(graph, lateral.channels, lateral.height, lateral.width, planes=planes)
            above = lateral
            found.insert(0, self._convolution(lateral, fpn.layer_blocks[place][0]))
        coarsest = graph.op("MaxPool", found[-1].planes, kernel_shape=[1, 1], strides=[2, 2])
        return [*found, Map.of_planes(graph, coarsest, found[-1].channels)]

    def propose(self, levels: Sequence[Map], padded: Value) -> Value:
        """Return the proposals, ``(K, 4)`` corners in pixels."""
        graph, rpn = self.graph, self.model.rpn
        boxes, scores, shifts = [], [], []
        for number, level in enumerate(levels):
            hidden = level
            for part in rpn.head.conv:
                hidden = self._convolution(hidden, part[0], relu=True)
            logits = self._convolution(hidden, rpn.head.cls_logits)
            codes = self._convolution(hidden, rpn.head.bbox_pred)
            scored = graph.reshape(logits.rows, -1)
            count = graph.op("Min", graph.size(scored, 0), graph.integers(int(rpn._pre_nms_top_n["testing"])))
            best, index = graph.op("TopK", scored, count, outputs=2)
            anchors = graph.op("Gather", self._anchors(number, level, padded), index, axis=0)
            chosen = graph.op("Gather", graph.reshape(codes.rows, -1, 4), index, axis=0)
            boxes.append(self._decode(anchors, chosen, rpn.box_coder))
            scores.append(graph.op("Sigmoid", best))
            shifts.append(graph.op("Expand", graph.constant(float(number)), count))
        joined = self._clip(graph.op("Concat", *boxes, axis=0))
        probability, shift = graph.op("Concat", *scores, axis=0), graph.op("Concat", *shifts, axis=0)
        valid = self._large_enough(joined, float(rpn.min_size))
        if rpn.score_thresh > 0:
            sure = graph.op("GreaterOrEqual", probability, graph.constant(float(rpn.score_thresh)))
            valid = graph.op("And", valid, sure)
        joined, probability, shift = self._keep(valid, joined, probability, shift)
        kept = self._suppress(joined, probability, shift, rpn.nms_thresh, int(rpn._post_nms_top_n["testing"]))
        return str(graph.op("Gather", joined, kept, axis=0))

    def detect(self, levels: Sequence[Map], proposals: Value) -> list[Output]:
        """Return boxes, scores and labels, the best first."""
        graph, heads = self.graph, self.model.roi_heads
        pooled = graph.op("Flatten", self._pool(levels, proposals), axis=1)
        hidden = graph.op("Relu", self._linear(pooled, heads.box_head.fc6))
        hidden = graph.op("Relu", self._linear(hidden, heads.box_head.fc7))
        shares = graph.op("Softmax", self._linear(hidden, heads.box_predictor.cls_score), axis=1)
        codes = graph.reshape(self._linear(hidden, heads.box_predictor.bbox_pred), -1, 4)
        classes = heads.box_predictor.cls_score.out_features
        repeated = graph.op("Unsqueeze", proposals, graph.integers(1))
        repeated = graph.reshape(graph.op("Expand", repeated, graph.integers(1, classes, 1)), -1, 4)
        boxes = self._clip(self._decode(repeated, codes, heads.box_coder))
        boxes = graph.reshape(graph.slice(graph.reshape(boxes, -1, classes, 4), 1, 1, EVERY), -1, 4)
        scores = graph.reshape(graph.slice(shares, 1, 1, EVERY), -1)
        count = graph.size(proposals, 0)
        labels = graph.op("Expand", graph.constant(np.arange(1, classes)[None]), graph.shape(count, 1))
        labels = graph.reshape(labels, -1)
        sure = graph.op("Greater", scores, graph.constant(float(heads.score_thresh)))
        valid = graph.op("And", sure, self._large_enough(boxes, SMALLEST_DETECTION))
        boxes, scores, labels = self._keep(valid, boxes, scores, labels)
        shift = graph.op("Cast", labels, to=1)
        kept = self._suppress(boxes, scores, shift, heads.nms_thresh, heads.detections_per_img)
        boxes, scores, labels = (graph.op("Gather", each, kept, axis=0) for each in (boxes, scores, labels))
        return [
            Output("boxes", boxes, ("detections", 4)),
            Output("scores", scores, ("detections",)),
            Output("labels", labels, ("detections",), integer=True),
        ]

    def _convolution(self, source: Map, convolution: nn.Module, relu: bool = False) -> Map:
        planes = Map(self.graph, source.channels, source.height, source.width, planes=source.planes)
        return convolve(self.graph, planes, folded(convolution), Walk.of(convolution), relu)

    def _linear(self, rows: Value, layer: nn.Linear) -> Value:
        weight, bias = layer.weight.detach().cpu().numpy(), cast(Any, layer.bias).detach().cpu().numpy()
        graph = self.graph
        return str(graph.op("Gemm", rows, graph.constant(weight), graph.constant(bias), transB=1))

    def _anchors(self, number: int, level: Map, padded: Value) -> Value:
        """Return the anchors of a level, ``(H * W * A, 4)``."""
        graph, generator = self.graph, self.model.rpn.anchor_generator
        cells = generator.cell_anchors[number].numpy()
        centred = isinstance(generator, CentredAnchors)
        own = FINEST_STRIDE * 2**number
        if centred:
            cells = cells + np.float32((own - 1) / 2)
        places = []
        for axis, size in ((2, level.height), (3, level.width)):
            zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
            steps = graph.op("Range", zero, graph.op("Squeeze", size), one)
            stride = graph.integers(own) if centred else graph.op("Div", graph.size(padded, axis), size)
            places.append(graph.op("Cast", graph.op("Mul", steps, stride), to=1))
        shape = graph.shape(level.height, level.width)
        rows = graph.op("Expand", graph.reshape(places[0], -1, 1), shape)
        columns = graph.op("Expand", graph.reshape(places[1], 1, -1), shape)
        flat = [graph.reshape(each, -1, 1, 1) for each in (columns, rows, columns, rows)]
        shifts = graph.op("Concat", *flat, axis=2)
        return graph.reshape(graph.op("Add", shifts, graph.constant(cells[None])), -1, 4)

    def _decode(self, anchors: Value, codes: Value, coder: Any) -> Value:
        """Return the boxes ``(K, 4)`` that codes mean relative to anchors."""
        graph = self.graph
        parts = graph.op("Div", codes, graph.constant(np.array([coder.weights], dtype=np.float32)))
        low, high = graph.slice(anchors, 1, 0, 2), graph.slice(anchors, 1, 2, 4)
        extent = graph.op("Sub", high, low)
        half = graph.constant(0.5)
        centre = graph.op("Add", low, graph.op("Mul", half, extent))
        moved = graph.op("Add", graph.op("Mul", graph.slice(parts, 1, 0, 2), extent), centre)
        limit = graph.constant(float(coder.bbox_xform_clip))
        grown = graph.op("Exp", graph.op("Min", graph.slice(parts, 1, 2, 4), limit))
        reach = graph.op("Mul", half, graph.op("Mul", grown, extent))
        return str(graph.op("Concat", graph.op("Sub", moved, reach), graph.op("Add", moved, reach), axis=1))

    def _clip(self, boxes: Value) -> Value:
        graph = self.graph
        sizes = graph.op("Cast", graph.shape(self.width, self.height, self.width, self.height), to=1)
        return str(graph.op("Min", graph.op("Max", boxes, graph.constant(0.0)), sizes))

    def _large_enough(self, boxes: Value, smallest: float) -> Value:
        graph = self.graph
        extent = graph.op("Sub", graph.slice(boxes, 1, 2, 4), graph.slice(boxes, 1, 0, 2))
        shorter = graph.op("ReduceMin", extent, graph.integers(1), keepdims=0)
        return str(graph.op("GreaterOrEqual", shorter, graph.constant(smallest)))

    def _keep(self, chosen: Value, *values: Value) -> list[Value]:
        """Return the rows of values that are chosen."""
        index = self.graph.op("Squeeze", self.graph.op("NonZero", chosen), self.graph.integers(0))
        return [self.graph.op("Gather", value, index, axis=0) for value in values]

    def _suppress(self, boxes: Value, scores: Value, group: Value, overlap: float, most: int) -> Value:
        """Return the boxes left by non-maximum suppression within groups, the best first."""
        graph = self.graph
        # Boxes of different groups are moved apart, as torchvision does, so that one pass ranks all of them.
        side = graph.op("Cast", graph.op("Add", graph.op("Max", self.height, self.width), graph.integers(1)), to=1)
        apart = graph.op("Add", boxes, graph.reshape(graph.op("Mul", group, side), -1, 1))
        kept = graph.op(
            "NonMaxSuppression", graph.op("Unsqueeze", apart, graph.integers(0)), graph.reshape(scores, 1, 1, -1),
            graph.integers(most), graph.constant(np.array([overlap], dtype=np.float32)),
        )  # fmt: skip
        return graph.reshape(graph.slice(kept, 1, 2, 3), -1)

    def _pool(self, levels: Sequence[Map], boxes: Value) -> Value:
        """Return what the box head reads of each box, ``(K, C, side, side)``, from the level of its size."""
        graph, pool = self.graph, self.model.roi_heads.box_roi_pool
        side, pyramid = int(pool.output_size[0]), len(pool.featmap_names)
        extent = graph.op("Sub", graph.slice(boxes, 1, 2, 4), graph.slice(boxes, 1, 0, 2))
        area = graph.op("ReduceProd", extent, graph.integers(1), keepdims=0)
        relative = graph.op("Div", graph.op("Sqrt", area), graph.constant(float(pool.canonical_scale)))
        octaves = graph.op("Div", graph.op("Log", relative), graph.constant(float(np.log(2.0))))
        finest = int(np.log2(FINEST_STRIDE))
        level = graph.op("Floor", graph.op("Add", octaves, graph.constant(pool.canonical_level + 1e-6)))
        level = graph.op("Max", level, graph.constant(float(finest)))
        level = graph.op("Min", level, graph.constant(float(finest + pyramid - 1)))
        channels = levels[0].channels
        result = graph.op("ConstantOfShape", graph.shape(graph.size(boxes, 0), channels, side, side))
        for number in range(pyramid):
            here = graph.op("Equal", level, graph.constant(float(finest + number)))
            index = graph.op("Squeeze", graph.op("NonZero", here), graph.integers(0))
            own = graph.op("Gather", boxes, index, axis=0)
            images = graph.op("Mul", index, graph.integers(0))
            pooled = graph.op(
                "RoiAlign", levels[number].planes, own, images, output_height=side, output_width=side,
                sampling_ratio=int(pool.sampling_ratio), spatial_scale=1 / (FINEST_STRIDE * 2**number),
                coordinate_transformation_mode="output_half_pixel",
            )  # fmt: skip
            result = graph.op("ScatterND", result, graph.op("Unsqueeze", index, graph.integers(1)), pooled)
        return str(result)
