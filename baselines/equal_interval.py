"""Uniform sampling by an equal-interval mask (paper §4.3 and its footnote 6)."""

from pydantic import Field

from benchmark import Method
from benchmark.nn import Masks


class EqualInterval(Method):
    """Compute one position in stride x stride of every masked map; interpolate the rest."""

    name = "equal_interval"
    references = (
        "Xie et al., Spatially Adaptive Inference with Stochastic Feature Sampling and Interpolation, ECCV 2020",
    )
    stride: int = Field(2, ge=2)
    curve = {"stride": (2,)}

    def mask(self, block):
        """Choose the equal-interval mask."""
        return Masks.grid(self.stride)
