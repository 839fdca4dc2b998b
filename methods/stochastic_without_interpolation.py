"""The paper's method without its interpolation: what is not sampled is zero (the last row of Table 4)."""

from typing import Literal

from benchmark import SampledMethod
from benchmark.nn import Masks


class StochasticWithoutInterpolation(SampledMethod):
    """Sample each position with its confidence as probability (paper §3.2); leave zeros elsewhere (eq. 10)."""

    name = "stochastic_without_interpolation"
    label = "Stochastic, no interpolation"
    references = (
        "Xie et al., Spatially Adaptive Inference with Stochastic Feature Sampling and Interpolation, ECCV 2020",
    )
    fill: Literal["zeros"] = "zeros"

    def mask(self, block):
        """Choose Gumbel-softmax masks with noise."""
        return Masks.gumbel(True, self.grid, self.bias(3.0))

    def skip(self, task):
        """Run where the paper has it as a row of its own."""
        return (
            None
            if task == "imagenet"
            else "it is a row of the paper's Table 4 (ImageNet); else use stochastic with fill=zeros"
        )
