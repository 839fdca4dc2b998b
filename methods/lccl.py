"""LCCL: a low-cost collaborative layer whose ReLU output gates a convolution's; what it zeroes is not computed."""

import torch
from pydantic import Field
from torch import nn

from benchmark import Method
from benchmark.nn import interpolation
from benchmark.nn.masks import LearnedMask


class CollaborativeMask(LearnedMask):
    """Convolution to one channel, batch norm and ReLU: the real-valued gate of a position, for all channels alike.

    The published layer is "a 1x1 convolution or only a single filter shared by all channels". This is the single
    filter, 3x3: only there does a zero spare a whole position, and not single channels of it. It stands in parallel to
    its convolution and reads the same map. The gate multiplies what batch norm (and, in the block, ReLU) made of the
    convolution, so that a zero stays a zero.
    """

    own_input = True

    def __init__(self, site, shift):
        site = site.at_own_input()
        super().__init__(site, grid_stride=None, initial_bias=0.0)
        self.conv = nn.Conv2d(site.in_channels, 1, 3, stride=site.stride, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm = nn.BatchNorm2d(1)
        nn.init.constant_(self.norm.bias, shift)

    def values(self, logits):
        """Return the gate, ``max(norm(logits), 0)``."""
        return torch.relu(self.norm(logits))


class LCCL(Method):
    """Gate each 3x3 convolution, none in a stage's first block; no sparse loss: batch norm and ReLU make the zeros."""

    name = "lccl"
    label = "LCCL"
    references = ("Dong et al., More is Less: A More Complicated Network with Less Inference Complexity, CVPR 2017",)
    shift: float = Field(0.0, ge=-3, le=3, description="Starting shift of the gate's batch norm; higher is denser.")

    def mask(self, block):
        """Choose the collaborative layer."""
        return lambda site: CollaborativeMask(site, self.shift)

    def interpolation(self, block):
        """Leave zeros where the gate is zero."""
        return interpolation.zeros()

    def skip(self, task):
        """Run where the paper compares LCCL."""
        return None if task == "imagenet" else "the paper compares LCCL on ImageNet only (Table 4)"
