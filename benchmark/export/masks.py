"""Masks decided in the graph, from the maps that they read: values ``(1, 1, H, W)``.

The project's own kinds are written down here; any other mask is traced from its own forward (`traced`). A mask that is
drawn by numbers of its own reads them from an input or from a seeded operator (`Noise`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from torch import nn

from benchmark.errors import SaibenchError
from benchmark.export.graph import Graph, Value
from benchmark.export.maps import Map, out_size
from benchmark.export.traced import trace_into
from benchmark.export.weights import array
from benchmark.nn.masks import (
    FINAL_TEMPERATURE,
    CarriedMask,
    FixedMask,
    GridMask,
    GumbelMask,
    LearnedMask,
    Mask,
    RandomMask,
    ReLUMask,
)
from benchmark.nn.work import Size, Walk

Noise = Literal["seeded", "input"]


class ExportRefusal(SaibenchError):
    """A part of a network has no form in standard operators; PyTorch and the engine still run it.

    Attributes
    ----------
    layer
        The part's qualified name within the backbone, such as ``layer1.0.mask1``.
    reason
        Why.
    """

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"{layer}: {reason}")
        self.layer, self.reason = layer, reason


@dataclass(frozen=True)
class Decision:
    """A mask's values in the graph.

    Attributes
    ----------
    values : Value
        ``(1, 1, H, W)`` float32.
    hard : bool
        Whether they are all 0 or 1.
    """

    values: Value
    hard: bool


@dataclass
class MaskWriter:
    """Writes masks into a graph.

    Attributes
    ----------
    graph : Graph
        Where to.
    noise : str
        ``seeded``, numbers of a seeded operator in the graph, or ``input``, one input of uniform numbers a mask.
    given : bool
        Whether the masks are inputs; they are decided all the same, and their decision is what `decisions` has.
    decisions : dict
        What was decided, by place (``layer1.0.mask1``).
    sizes : dict
        Symbolic height and width of each mask that is an input or output.
    """

    graph: Graph
    noise: Noise = "seeded"
    given: bool = False
    decisions: dict[str, Decision] = field(default_factory=dict)
    _by_module: dict[int, Decision] = field(default_factory=dict)

    def products(self, masks: Sequence[tuple[str, Mask]], source: Map) -> dict[str, Value]:
        """Return the logits of those masks that are a plain 3x3 convolution, from one pass over the map.

        A convolution to a single channel reads nine times what it writes. Here a position's products with all taps of
        all masks come from one matrix product, and only these few are shifted and summed.
        """
        plain = [(place, cast(LearnedMask, mask).conv) for place, mask in masks if is_plain(mask)]
        if not plain:
            return {}
        graph = self.graph
        kernels = [array(conv.weight)[0].reshape(conv.in_channels, -1) for _, conv in plain]
        taps = [kernel.shape[1] for kernel in kernels]
        rows = graph.op("MatMul", source.rows, graph.constant(np.concatenate(kernels, axis=1)))
        found, begin = {}, 0
        for (place, conv), count in zip(plain, taps, strict=True):
            own = source.like(graph.slice(rows, 1, begin, begin + count), count)
            begin += count
            shift = np.eye(count, dtype=np.float32).reshape(1, count, *conv.kernel_size)
            bias = array(conv.bias) if conv.bias is not None else np.zeros(1)
            found[place] = graph.op(
                "Conv",
                own.planes,
                graph.constant(shift),
                graph.constant(bias),
                kernel_shape=list(conv.kernel_size),
                strides=list(conv.stride),
                pads=[*cast(Any, conv.padding), *cast(Any, conv.padding)],
                dilations=list(conv.dilation),
            )
        return found

    def decide(self, place: str, mask: Mask, source: Map, governed: Map, size: Size | None, logits: Value) -> Decision:
        """Write one mask.

        Parameters
        ----------
        place
            Such as ``layer1.0.mask1``.
        source, governed
            The map that it reads; the extent of the map that it governs.
        size
            Height and width of the latter, where the graph is for images of one size.
        logits
            What `products` has of it, or "".
        """
        decision = self._by_kind(place, mask, source, governed, size, logits)
        self._by_module[id(mask)] = self.decisions[place] = decision
        if not self.given:
            return decision
        values = self.graph.input(f"mask.{place}", [1, 1, f"{place}.height", f"{place}.width"])
        return Decision(values, decision.hard)

    def _by_kind(
        self, place: str, mask: Mask, source: Map, governed: Map, size: Size | None, logits: Value
    ) -> Decision:
        if isinstance(mask, CarriedMask):
            return self._by_module[id(mask.owner)]
        if type(mask) is GridMask:
            return Decision(self._grid(governed, mask.grid_stride), True)
        if isinstance(mask, FixedMask) and type(mask).forward is FixedMask.forward:
            if size is None:
                raise ExportRefusal(place, "its pattern is made for one size of map: give --size HxW")
            return Decision(self.graph.constant(mask.pattern(size)[None, None].astype(np.float32)), True)
        if type(mask) is RandomMask:
            return Decision(self._random(place, mask, governed), True)
        if type(mask) in (GumbelMask, ReLUMask) and logits:
            return self._learned(place, cast(LearnedMask, mask), governed, logits)
        try:
            return Decision(trace_into(self.graph, mask, source), False)
        except NotImplementedError as error:
            raise ExportRefusal(place, str(error)) from error

    def _learned(self, place: str, mask: LearnedMask, governed: Map, logits: Value) -> Decision:
        graph, hard = self.graph, False
        if isinstance(mask, GumbelMask):
            excess = logits
            if mask.stochastic:
                uniform = self._uniform(place, governed)
                odds = graph.op("Sub", graph.constant(1.0), uniform)
                threshold = graph.op("Sub", graph.op("Log", uniform), graph.op("Log", odds))
                excess = graph.op("Sub", logits, threshold)
            values = graph.op("Cast", graph.op("Greater", excess, graph.constant(0.0)), to=1)
            hard = not mask.soft_inference
            if mask.soft_inference:
                steep = graph.op("Mul", excess, graph.constant(1 / FINAL_TEMPERATURE))
                values = graph.op("Mul", values, graph.op("Sigmoid", steep))
        else:
            values = graph.op("Relu", logits)
        if mask.grid_stride is not None:
            values = graph.op("Max", values, self._grid(governed, mask.grid_stride))
        return Decision(values, hard)

    def _grid(self, governed: Map, stride: int) -> Value:
        """Return ``(1, 1, H, W)``: 1 at one position in ``stride x stride``."""
        graph, sides = self.graph, []
        for axis, size in enumerate((governed.height, governed.width)):
            zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
            places = graph.op("Range", zero, graph.op("Squeeze", size), one)
            chosen = graph.op("Equal", graph.op("Mod", places, graph.integers(stride)), graph.integers(0))
            chosen = graph.op("Cast", chosen, to=1)
            sides.append(graph.reshape(chosen, 1, 1, -1, 1) if axis == 0 else graph.reshape(chosen, 1, 1, 1, -1))
        return str(graph.op("Mul", *sides))

    def _random(self, place: str, mask: RandomMask, governed: Map) -> Value:
        """Return a mask with the positions of the lowest numbers, as many as its density says."""
        graph = self.graph
        draws = graph.reshape(self._uniform(place, governed), -1)
        count = graph.op("Cast", governed.positions, to=11)
        kept = graph.op("Round", graph.op("Mul", count, graph.constant(np.array([mask.density]), np.float64)))
        kept = graph.op("Max", graph.op("Cast", kept, to=7), graph.integers(1))
        _, chosen = graph.op("TopK", draws, kept, outputs=2, axis=0, largest=0)
        zeros = graph.op("ConstantOfShape", governed.positions)
        ones = graph.op("Expand", graph.constant(1.0), kept)
        flat = graph.op("ScatterElements", zeros, chosen, ones, axis=0)
        return graph.reshape(flat, 1, 1, governed.height, governed.width)

    def _uniform(self, place: str, governed: Map) -> Value:
        """Return uniform numbers in [0, 1), ``(1, 1, H, W)``."""
        if self.noise == "input":
            return self.graph.input(f"noise.{place}", [1, 1, f"{place}.height", f"{place}.width"])
        shape = self.graph.shape(1, 1, governed.height, governed.width)
        like = self.graph.op("ConstantOfShape", shape)
        # A seed for each mask: operators of one seed draw the same numbers.
        return str(self.graph.op("RandomUniformLike", like, seed=float(len(self.decisions) + 1), low=0.0, high=1.0))


def is_plain(mask: Mask) -> bool:
    """Whether a mask's logits are those of one plain convolution, and its values one of the project's own kinds."""
    if type(mask) not in (GumbelMask, ReLUMask):
        return False
    conv = cast(LearnedMask, mask).conv
    return type(conv) is nn.Conv2d and conv.groups == 1 and conv.out_channels == 1 and conv.padding_mode == "zeros"


def mask_extent(graph: Graph, mask: Mask, source: Map) -> Map:
    """Return the extent of the map that a mask governs, from the map that it reads."""
    stride = (mask.stride, mask.stride)
    height, width = out_size(graph, source, Walk((1, 1), stride, (0, 0), (1, 1)))
    return Map(graph, 1, height, width)
