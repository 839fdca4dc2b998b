"""DynConv: a residual block's branch is computed where a gate says so, and is zero elsewhere."""

import torch
from pydantic import Field
from torch import nn

from benchmark import Method
from benchmark.nn import Mask, at_hand, bounds_loss, computations, interpolation, logistic_noise, straight_through


class MaskUnit(Mask):
    """A 3x3 convolution plus a linear layer of the global average; Gumbel noise in training, ``x >= 0`` at inference.

    Published schedule: temperature 5, 2.5 and 1 for 30, 30 and 40 % of the run; no noise in its last 20 %.
    """

    def __init__(self, site):
        super().__init__(site)
        self.conv = nn.Conv2d(site.in_channels, 1, 3, stride=site.stride, padding=1)
        self.linear = nn.Linear(site.in_channels, 1)

    def forward(self, x):
        """Return 0 or 1, with the gradient of the soft decision in training."""
        logits = self.conv(x) + self.linear(x.mean((2, 3)))[:, :, None, None]
        if not self.training:
            return (logits >= 0).to(x.dtype)
        progress = at_hand().progress
        temperature = 5.0 if progress < 0.3 else 2.5 if progress < 0.6 else 1.0
        noise = logistic_noise(logits) if progress <= 0.8 else 0.0
        soft = torch.sigmoid((logits + noise) / temperature)
        return straight_through(soft, (soft >= 0.5).to(x.dtype))


class DynConv(Method):
    """Spend a share `budget` of the blocks' computation: conv1 where conv2 reads, conv2 and conv3 at the mask."""

    name = "dynconv"
    label = "DynConv"
    references = (
        "Verelst and Tuytelaars, Dynamic Convolutions: Exploiting Spatial Sparsity for Faster Inference, CVPR 2020",
    )
    budget: float = Field(0.5, gt=0, le=1, description="Share of the masked blocks' computation to spend.")
    weight: float = Field(10.0, ge=0, description="Weight of the sparsity loss.")
    curve = {"budget": (0.75, 0.5, 0.3, 0.15)}

    def mask(self, block):
        """Choose the published mask unit, in every block."""
        return MaskUnit

    def interpolation(self, block):
        """Leave the branch zero: the shortcut passes alone."""
        return interpolation.zeros()

    def placement(self, block):
        """Govern the block's output."""
        return "output"

    def loss(self, backbone, step):
        """Return the squared distance of the network's share from the budget, plus the bounds on each block's."""
        found = computations(backbone)
        share = sum(each.macs for each in found) / sum(each.dense for each in found)
        bounds = bounds_loss([each.share for each in found], self.budget, step.progress)
        return self.weight * ((share - self.budget) ** 2 + bounds)

    def skip(self, task):
        """Run where it was published, and on detection."""
        return "published for classification; compared on imagenet and coco" if task == "cityscapes" else None
