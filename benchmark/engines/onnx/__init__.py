"""ONNX Runtime as an engine: the exported graph, with the images' own noise and the counter's tally."""

from benchmark.engines.onnx.engine import ONNXEngine

__all__ = ["ONNXEngine"]
