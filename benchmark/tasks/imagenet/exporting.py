"""The classifier around its backbone in standard operators."""

from __future__ import annotations

from benchmark.export import Backbone, Graph, Output, Value
from benchmark.tasks.imagenet.classifier import Classifier


def write_classifier(graph: Graph, model: Classifier, image: Value, backbone: Backbone) -> list[Output]:
    """Write a classifier; return its output ``logits``, ``(1, classes)``."""
    *_, last = backbone(image).values()
    average = graph.op("ReduceMean", last.planes, graph.integers(2, 3), keepdims=0)
    weight, bias = (graph.constant(each.detach().cpu().numpy()) for each in (model.fc.weight, model.fc.bias))
    return [Output("logits", graph.op("Gemm", average, weight, bias, transB=1), (1, model.fc.out_features))]
