"""A graph of standard ONNX operators in the making: values have names, constants are stored once.

Thin over `onnx.helper`. What a network computes is the business of the other modules here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
"""Of the standard domain."""

IR_VERSION = 8  # the oldest that has this opset: older runtimes refuse files of a newer one

Value = str
"""A value's name in the graph."""


class Graph:
    """Nodes, constants, inputs and outputs, in the order in which they are asked for.

    Attributes
    ----------
    nodes, initializers, inputs, outputs
        What the graph consists of so far.
    scope
        What names of further nodes begin with.
    traced
        Programs of masks that were traced (`benchmark.export.traced`), by what masks of one program share.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._done: dict[Any, Value] = {}
        self._count = 0
        self.traced: dict[Any, Any] = {}
        self.scope = ""

    def op(self, kind: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; return its output's name, or a list of names. The same node asked for twice is one.

        Parameters
        ----------
        kind
            Name of a standard operator.
        inputs
            Names of values; "" for an optional one that is left out.
        outputs
            How many there are.
        """
        key = (kind, inputs, outputs, repr(sorted(attributes.items())))
        random = kind.startswith("Random")
        if not random and key in self._done:
            return self._done[key]
        self._count += 1
        stem = f"{self.scope}{kind}_{self._count}"
        names = [stem if outputs == 1 else f"{stem}.{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=stem, **attributes))
        result: Any = names[0] if outputs == 1 else names
        self._done[key] = result
        return result

    def constant(self, value: Any, kind: Any = None) -> Value:
        """Return the name of a constant array; integers are int64, other numbers float32, unless ``kind`` says else."""
        array = np.asarray(value)
        if kind is None:
            kind = np.int64 if array.dtype.kind in "iu" else bool if array.dtype.kind == "b" else np.float32
        array = np.ascontiguousarray(array.astype(kind)).reshape(array.shape)
        key = (str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def input(self, name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> Value:
        """Add an input of the graph."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, name: str, value: Value, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> None:
        """Add an output of the graph, under a name of its own."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"output.{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, kind, list(shape)))

    def model(self, metadata: Mapping[str, str], name: str = "network") -> onnx.ModelProto:
        """Return the finished model, checked in full."""
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="saibench"
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model

    # Arithmetic on sizes: int64 vectors of one number.

    def integers(self, *numbers: int) -> Value:
        """Return a constant vector of int64."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def size(self, value: Value, axis: int) -> Value:
        """Return the length of an axis, a vector of one number."""
        return str(self.op("Shape", value, start=axis, end=axis + 1))

    def shape(self, *parts: Value | int) -> Value:
        """Join numbers, known or not, to a vector."""
        if all(isinstance(part, int) for part in parts):
            return self.integers(*(int(part) for part in parts))
        return str(
            self.op("Concat", *(self.integers(part) if isinstance(part, int) else part for part in parts), axis=0)
        )

    def reshape(self, value: Value, *parts: Value | int) -> Value:
        """Give a value another shape; -1 for what follows from the rest."""
        return str(self.op("Reshape", value, self.shape(*parts)))

    def slice(self, value: Value, axis: int, start: int | Value, stop: int | Value, step: int = 1) -> Value:
        """Cut an axis."""
        begin, end = (self.integers(at) if isinstance(at, int) else at for at in (start, stop))
        return str(self.op("Slice", value, begin, end, self.integers(axis), self.integers(step)))
