"""Deterministic Gumbel-softmax: the paper's method without the noise (paper §4.3)."""

from benchmark import SampledMethod
from benchmark.nn import Masks


class DeterministicGumbel(SampledMethod):
    """Sample the positions whose confidence exceeds one half."""

    name = "deterministic_gumbel"
    label = "Deterministic Gumbel"
    references = (
        "Xie et al., Spatially Adaptive Inference with Stochastic Feature Sampling and Interpolation, ECCV 2020",
    )

    def mask(self, block):
        """Choose Gumbel-softmax masks without noise."""
        return Masks.gumbel(False, self.grid, self.bias(3.0))
