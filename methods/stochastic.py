"""The paper's method: stochastic sampling by Gumbel-softmax masks, RBF interpolation."""

from benchmark import SampledMethod
from benchmark.nn import Masks


class Stochastic(SampledMethod):
    """Sample each position with its confidence as probability (paper §3.2)."""

    name = "stochastic"
    label = "Stochastic sampling"
    references = (
        "Xie et al., Spatially Adaptive Inference with Stochastic Feature Sampling and Interpolation, ECCV 2020",
    )
    soft_inference_mask: bool = False

    def mask(self, block):
        """Choose Gumbel-softmax masks with noise."""
        return Masks.gumbel(True, self.grid, self.bias(3.0), self.soft_inference_mask)
