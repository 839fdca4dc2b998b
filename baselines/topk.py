"""The positions where the features are largest: what choosing without learning to choose is worth."""

from functools import partial

import torch
import torch.nn.functional as F
from pydantic import Field

from benchmark import Method
from benchmark.nn import Mask


class LargestMask(Mask):
    """The share of each image's positions where the block's input has the largest L1 norm; nothing is learned.

    A position of the governed map is judged by the input in its middle. Padding is neither chosen nor counted.
    """

    def __init__(self, site, density):
        super().__init__(site)
        self.density = density
        self.register_buffer("sum", torch.ones(1, site.in_channels, 1, 1), persistent=False)

    def forward(self, x):
        """Return 0 or 1, ``(N, 1, H', W')``; of equal norms, the first position in reading order is chosen first."""
        valid = self.valid(x)
        norm = F.conv2d(x.abs(), self.sum, stride=self.stride).masked_fill(~valid, -1.0).flatten(1)
        kept = (self.density * valid.flatten(1).sum(1, keepdim=True)).round().clamp(min=1)
        order = norm.argsort(dim=1, descending=True, stable=True)
        chosen = (torch.arange(norm.shape[1], device=x.device) < kept).to(x.dtype)
        return torch.zeros_like(norm, dtype=x.dtype).scatter(1, order, chosen).view(valid.shape)


class TopK(Method):
    """Compute the share `density` of the positions with the largest input; interpolate the rest."""

    name = "topk"
    label = "Largest norm"
    density: float = Field(0.5, gt=0, le=1)
    curve = {"density": (0.75, 0.5, 0.25)}
    only_named = ("coco",)

    def mask(self, block):
        """Choose by the norm of the block's input."""
        return partial(LargestMask, density=self.density)
