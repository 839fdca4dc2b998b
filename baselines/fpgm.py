"""FPGM: the filters nearest to their layer's geometric median, which the others can stand for, are removed."""

from pydantic import Field

from benchmark import Method
from benchmark.nn import pruning


class FPGM(Method):
    """Remove a share of every layer's filters by geometric median from the starting weights, and train on."""

    name = "fpgm"
    label = "FPGM"
    references = ("He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks, CVPR 2019",)
    pruning_rate: float = Field(0.3, ge=0, lt=1)
    curve = {"pruning_rate": (0.3,)}

    def prepare(self, backbone):
        """Remove filters from the starting weights."""
        chosen = [
            (layer, layer.weakest(pruning.GeometricMedian(), self.pruning_rate))
            for layer in pruning.prunables(backbone)
        ]
        for layer, filters in chosen:
            layer.remove(filters)

    def skip(self, task):
        """Run where the paper compares pruning."""
        return pruning.not_compared(task)
