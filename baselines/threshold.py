"""Training-free sampling: a threshold on what the dense network computes, calibrated on training images.

Liu et al. (Training-Free Activation Sparsity in Large Language Models, 2024: TEAL) leave out activations of a trained
network whose magnitude is below a threshold, which they read from their distribution on a calibration set. Here whole
positions of a map are left out, judged by the norm of the block's input.
"""

import torch
import torch.nn.functional as F
from pydantic import Field

from benchmark import Method
from benchmark.nn import Mask, at_hand

LEVELS = 101  # quantiles that are kept: a percent of the positions between two
FIRST = 0.5  # progress from which the network counts as trained, and is observed


class ThresholdMask(Mask):
    """The positions where the block's input has an L1 norm above a threshold; all of them in training.

    A position of the governed map is judged by the input in its middle. Padding is neither observed nor computed.

    Attributes
    ----------
    quantiles : Tensor
        ``(LEVELS,)``: sum of the norm's quantiles over the training batches that were observed.
    observed : Tensor
        Their number, a scalar.
    density : float
        Share of the positions of training images whose norm is above the threshold.
    """

    def __init__(self, site):
        super().__init__(site)
        self.density = 1.0
        self.register_buffer("sum", torch.ones(1, site.in_channels, 1, 1), persistent=False)
        self.register_buffer("quantiles", torch.zeros(LEVELS))
        self.register_buffer("observed", torch.zeros(()))

    def forward(self, x):
        """Return 0 or 1, ``(N, 1, H', W')``."""
        valid = self.valid(x)
        norm = F.conv2d(x.abs(), self.sum, stride=self.stride)
        if self.training:
            if at_hand().progress >= FIRST:
                self.observe(norm[valid])
            return torch.ones_like(norm)
        return ((norm >= self.threshold()) & valid).to(x.dtype)

    @torch.no_grad()
    def observe(self, norms):
        """Add a batch's quantiles of its norms, ``(positions,)``."""
        ranks = torch.linspace(0, 1, LEVELS, device=norms.device) * (len(norms) - 1)
        self.quantiles += norms.float().sort().values[ranks.round().long()]
        self.observed += 1

    def threshold(self):
        """Return the quantile at one minus the density, a scalar: between two that are kept, linearly."""
        place = (1 - self.density) * (LEVELS - 1)
        low = min(int(place), LEVELS - 2)
        below, above = self.quantiles[low : low + 2] / self.observed.clamp(min=1)
        return torch.lerp(below, above, place - low)


class Threshold(Method):
    """Train the dense network; then compute the positions above its norm's quantile, `density` of them on average."""

    name = "threshold"
    label = "Threshold, training-free"
    references = ("Liu et al., Training-Free Activation Sparsity in Large Language Models, 2024",)
    density: float = Field(0.5, gt=0, le=1)
    curve = {"density": (0.75, 0.5, 0.25)}
    at_inference = ("density",)
    only_named = ("coco",)

    def mask(self, block):
        """Choose by the norm of the block's input."""
        return ThresholdMask

    def configure(self, backbone):
        """Set the share of positions."""
        for mask in backbone.modules():
            if isinstance(mask, ThresholdMask):
                mask.density = self.density
