"""Uniform sampling by image resolution (paper §4.3)."""

from pydantic import Field

from benchmark import Method


class Uniform(Method):
    """Resize the images' shorter side and leave the network dense."""

    name = "uniform"
    label = "Uniform (resolution)"
    references = (
        "Xie et al., Spatially Adaptive Inference with Stochastic Feature Sampling and Interpolation, ECCV 2020",
    )
    shorter_side: int = Field(1000, ge=32)
    curve = {"shorter_side": (1000, 800, 600, 500)}
    follows = ("shorter_side",)

    def image_size(self, size):
        """Choose the resolution."""
        return self.shorter_side
