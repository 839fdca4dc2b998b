"""ReLU gating: sampling confidence trimmed below zero (paper §4.3, similar to LCCL)."""

from benchmark import SampledMethod
from benchmark.nn import Masks


class ReLUGating(SampledMethod):
    """Sample the positions with positive confidence, weighted by it (eq. 5)."""

    name = "relu_gating"
    label = "ReLU gating"
    references = (
        "Xie et al., Spatially Adaptive Inference with Stochastic Feature Sampling and Interpolation, ECCV 2020",
        "Dong et al., More is Less: A More Complicated Network with Less Inference Complexity, CVPR 2017",
    )

    def mask(self, block):
        """Choose ReLU masks."""
        return Masks.relu(self.grid, self.bias(1.0))
