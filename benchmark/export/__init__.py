"""Trained networks outside of Saibench: files of standard ONNX operators, and programs of PyTorch.

One more reader of what each block computes (`benchmark.nn.work`). `write_network` makes a file for any ONNX runtime,
`record_program` a ``.pt2`` for PyTorch. A task writes its own head (`benchmark.tasks.Task.write_head`).
"""

from benchmark.export.backbone import block_inputs
from benchmark.export.graph import OPSET, Graph, Value
from benchmark.export.maps import Map, convolve
from benchmark.export.masks import ExportRefusal, is_plain
from benchmark.export.network import Backbone, Head, Options, Output, write_network
from benchmark.export.program import record_program
from benchmark.export.weights import folded

__all__ = [
    "OPSET",
    "Backbone",
    "ExportRefusal",
    "Graph",
    "Head",
    "Map",
    "Options",
    "Output",
    "Value",
    "block_inputs",
    "convolve",
    "folded",
    "is_plain",
    "record_program",
    "write_network",
]
