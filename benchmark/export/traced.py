"""A mask's own forward as standard operators, from the graph that `torch.export` makes of it.

`torch.export` records a forward with free height and width and refuses what depends on data. Of the operators that it
records, those below are known: masks are small. torch's own exporter to ONNX takes minutes for some of them, which
would have to be joined to this graph.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from benchmark.export.graph import Graph, Value
from benchmark.export.maps import Map
from benchmark.export.weights import array

TRACED = (26, 38)
"""Height and width of the map that a forward is traced with, where they are free: neither 0 nor 1, and not equal."""


def trace_into(graph: Graph, module: nn.Module, source: Map) -> Value:
    """Write a module's inference forward of a map into a graph; return its output.

    Raises
    ------
    NotImplementedError
        Where it cannot be traced, or has an operator that is not known here; the message is one line.
    """
    key = _key(module, source.channels)
    if key not in graph.traced:
        graph.traced[key] = _trace(module, source.channels)
    return _Writer(graph, graph.traced[key], module, source).run()


def _key(module: nn.Module, channels: int) -> tuple[Any, ...]:
    """Return what modules share whose forwards are traced alike: all but the values of their tensors."""
    plain = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str)}
    plain.pop("layer", None)  # where a mask stands
    shapes = [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
    return type(module), channels, repr(module), repr(sorted(plain.items())), repr(shapes)


def _trace(module: nn.Module, channels: int) -> Any:
    example = torch.zeros(1, channels, *TRACED)
    free = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    training = module.training
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(module.eval(), (example,), dynamic_shapes=(free,))
    except Exception as error:  # whatever a foreign forward raises while it is traced
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NotImplementedError(f"its forward cannot be traced for all sizes: {lines[0]}") from error
    finally:
        module.train(training)


class _Writer:
    """Walks through a traced program and writes its nodes."""

    def __init__(self, graph: Graph, program: Any, module: nn.Module, source: Map) -> None:
        self.graph, self.program, self.module, self.source = graph, program, module, source
        self.values: dict[str, Any] = {}

    def run(self) -> Value:
        """Write all nodes and return the output."""
        signature = self.program.graph_signature
        tensors = {**self.program.constants, **self.module.state_dict()}
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        held |= getattr(signature, "inputs_to_lifted_tensor_constants", {})
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                name = held.get(node.name)
                value = self.source.planes if name is None else self.graph.constant(array(tensors[name]))
                self.values[node.name] = value
            elif node.op == "output":
                return str(self.values[node.args[0][0].name])
            else:
                self.values[node.name] = self._call(node)
        raise NotImplementedError("its forward has no output")

    def _call(self, node: fx.Node) -> Any:
        name = str(node.target) if not callable(node.target) or hasattr(node.target, "_schema") else ""
        if node.target in _INTEGERS:
            return self._integer(node)
        write = _OPERATORS.get(name)
        if write is None:
            raise NotImplementedError(f"its forward uses {name or node.target}, which the exporter does not know")
        arguments = [self._argument(each) for each in node.args]
        return write(self.graph, *arguments)

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self.values[argument.name]
        if isinstance(argument, list | tuple):
            return [self._argument(each) for each in argument]
        return argument

    def _integer(self, node: fx.Node) -> Value:
        parts = [
            self.graph.integers(part) if isinstance(part, int) else part for part in map(self._argument, node.args)
        ]
        if node.target is operator.floordiv:  # rounds down; ONNX's division of integers rounds to zero
            remainder = self.graph.op("Mod", *parts)
            return str(self.graph.op("Div", self.graph.op("Sub", parts[0], remainder), parts[1]))
        return str(self.graph.op(_INTEGERS[node.target], *parts))


_INTEGERS: dict[Any, str] = {
    operator.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    operator.neg: "Neg",
    operator.floordiv: "Div",
}


def _value(graph: Graph, value: Any) -> Value:
    return value if isinstance(value, str) else graph.constant(float(value))


def _two(kind: str) -> Callable[..., Value]:
    return lambda graph, one, other, *rest: graph.op(kind, _value(graph, one), _value(graph, other))


def _one(kind: str) -> Callable[..., Value]:
    return lambda graph, value, *rest: graph.op(kind, value)


def _convolution(graph: Graph, x: Value, weight: Value, bias: Value | None = None, *walk: Any) -> Value:
    given_walk: list[Any] = [*walk, *([1, 1], [0, 0], [1, 1], 1)[len(walk) :]]
    stride, padding, dilation, groups = given_walk
    if isinstance(padding, str):
        raise NotImplementedError(f"its forward pads a convolution by {padding!r}, which the exporter does not know")
    given = [x, weight] if bias is None else [x, weight, bias]
    return str(graph.op("Conv", *given, strides=stride, pads=[*padding, *padding], dilations=dilation, group=groups))


def _mean(graph: Graph, x: Value, axes: list[int], keep: bool = False, *rest: Any) -> Value:
    return str(graph.op("ReduceMean", x, graph.integers(*axes), keepdims=int(keep)))


def _linear(graph: Graph, x: Value, weight: Value, bias: Value | None = None) -> Value:
    result = graph.op("MatMul", x, graph.op("Transpose", weight, perm=[1, 0]))
    return str(result if bias is None else graph.op("Add", result, bias))


def _batch_norm(graph: Graph, x: Value, *rest: Any) -> Value:
    scale, shift, mean, variance, _, _, epsilon, *_ = rest
    return str(graph.op("BatchNormalization", x, scale, shift, mean, variance, epsilon=float(epsilon)))


def _pool(graph: Graph, x: Value, sizes: list[Any]) -> Value:
    """Average over cells, cell i of T from ``floor(i H / T)`` to ``ceil((i + 1) H / T)``: a product for each axis."""
    result = x
    for axis, cells in ((2, sizes[0]), (3, sizes[1])):
        count = graph.integers(cells) if isinstance(cells, int) else cells
        length = graph.size(x, axis)
        zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
        cell = graph.op("Unsqueeze", graph.op("Range", zero, graph.op("Squeeze", count), one), graph.integers(1))
        place = graph.op("Range", zero, graph.op("Squeeze", length), one)
        start = graph.op("Div", graph.op("Mul", cell, length), count)
        after = graph.op("Mul", graph.op("Add", cell, graph.integers(1)), length)
        stop = graph.op("Div", graph.op("Sub", graph.op("Add", after, count), graph.integers(1)), count)
        inside = graph.op("And", graph.op("GreaterOrEqual", place, start), graph.op("Less", place, stop))
        share = graph.op("Div", graph.op("Cast", inside, to=1), graph.op("Cast", graph.op("Sub", stop, start), to=1))
        if axis == 2:
            result = graph.op("MatMul", share, result)
        else:
            result = graph.op("MatMul", result, graph.op("Transpose", share, perm=[1, 0]))
    return str(result)


def _slice(graph: Graph, x: Value, axis: int = 0, start: Any = None, stop: Any = None, step: int = 1) -> Value:
    return graph.slice(x, axis, 0 if start is None else start, np.iinfo(np.int64).max if stop is None else stop, step)


def _upsample(graph: Graph, x: Value, sizes: Any, scales: list[float]) -> Value:
    if sizes is not None:
        raise NotImplementedError("its forward upsamples to a size, which the exporter does not know")
    scale = graph.constant(np.array([1, 1, *scales], dtype=np.float32))
    return str(graph.op("Resize", x, "", scale, mode="nearest", coordinate_transformation_mode="asymmetric",
                        nearest_mode="floor"))  # fmt: skip


def _unsqueeze(graph: Graph, x: Value, axis: int) -> Value:
    return str(graph.op("Unsqueeze", x, graph.integers(axis)))


def _float(graph: Graph, x: Value, *rest: Any) -> Value:
    return str(graph.op("Cast", x, to=1))


_OPERATORS: dict[str, Callable[..., Any]] = {
    "aten.sym_size.int": lambda graph, x, axis: graph.size(x, axis),
    "aten.conv2d.default": _convolution,
    "aten.mean.dim": _mean,
    "aten.linear.default": _linear,
    "aten.permute.default": lambda graph, x, axes: graph.op("Transpose", x, perm=list(axes)),
    "aten.t.default": lambda graph, x: graph.op("Transpose", x, perm=[1, 0]),
    "aten.unsqueeze.default": _unsqueeze,
    "aten.slice.Tensor": _slice,
    "aten.add.Tensor": _two("Add"),
    "aten.sub.Tensor": _two("Sub"),
    "aten.mul.Tensor": _two("Mul"),
    "aten.div.Tensor": _two("Div"),
    "aten.maximum.default": _two("Max"),
    "aten.minimum.default": _two("Min"),
    "aten.ge.Scalar": _two("GreaterOrEqual"),
    "aten.gt.Scalar": _two("Greater"),
    "aten.le.Scalar": _two("LessOrEqual"),
    "aten.lt.Scalar": _two("Less"),
    "aten.relu.default": _one("Relu"),
    "aten.sigmoid.default": _one("Sigmoid"),
    "aten.abs.default": _one("Abs"),
    "aten.to.dtype": _float,
    # Of types alone, which here are float32 throughout.
    "aten._assert_tensor_metadata.default": lambda graph, *rest: "",
    "aten.promote_types.default": lambda graph, *rest: "",
    "aten.adaptive_avg_pool2d.default": _pool,
    "aten.upsample_nearest2d.vec": _upsample,
    "aten.batch_norm.default": _batch_norm,
}
