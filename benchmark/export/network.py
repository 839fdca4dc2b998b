"""A backbone, or the whole network around it, as a file of standard ONNX operators with what a reader must know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto

from benchmark.export.backbone import BackboneWriter
from benchmark.export.graph import Graph, Value
from benchmark.export.maps import Map
from benchmark.export.masks import MaskWriter, Noise
from benchmark.nn.resnet import ResNet
from benchmark.nn.work import Size

Backbone = Callable[[Value], dict[str, Map]]
"""Writes the backbone into a graph for images ``(1, 3, H, W)``; returns its stages' maps."""


@dataclass(frozen=True)
class Output:
    """A result of a network.

    Attributes
    ----------
    name : str
        In the file.
    value : Value
        In the graph.
    shape : sequence
        Numbers, and names of lengths that are not known beforehand.
    integer : bool
        Whether it holds int64, not float32.
    """

    name: str
    value: Value
    shape: Sequence[int | str]
    integer: bool = False


Head = Callable[[Graph, Value, Backbone], Sequence[Output]]
"""Writes a whole network for an image ``(1, 3, H, W)``, with the backbone where it belongs."""


@dataclass(frozen=True)
class Options:
    """How a network is written.

    Attributes
    ----------
    size : (int, int) or None
        Height and width of all images; None for any.
    noise : str
        Of stochastic masks: ``seeded`` in the graph, or an ``input``.
    masks : bool
        Whether the masks are outputs too, ``decided.<place>``.
    given : bool
        Whether masks are inputs, ``mask.<place>``; they are decided all the same.
    metadata : mapping
        What the file says about itself.
    """

    size: Size | None = None
    noise: Noise = "seeded"
    masks: bool = False
    given: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


def write_network(body: ResNet, options: Options, head: Head | None = None) -> onnx.ModelProto:
    """Write a network; without a head, its backbone, whose outputs are the stages' maps.

    Raises
    ------
    ExportRefusal
        For a part that has no form in standard operators.
    """
    graph = Graph()
    masks = MaskWriter(graph, options.noise, options.given)
    image = graph.input("image", [1, 3, *(options.size or ("height", "width"))])
    backbone = BackboneWriter(graph, masks, options.size)
    if head is None:
        outputs: Sequence[Output] = [
            Output(name, found.planes, (1, found.channels, f"{name}.height", f"{name}.width"))
            for name, found in backbone(body, image).items()
        ]
    else:
        outputs = head(graph, image, lambda images: backbone(body, images))
    for output in outputs:
        kind = TensorProto.INT64 if output.integer else TensorProto.FLOAT
        graph.output(output.name, output.value, output.shape, kind)
    if options.masks:
        for place, decision in masks.decisions.items():
            graph.output(f"decided.{place}", decision.values, [1, 1, f"{place}.height", f"{place}.width"])
    return graph.model(options.metadata)
