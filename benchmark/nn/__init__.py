"""Building blocks: masks, interpolation, residual blocks, backbones, detector.

Methods choose among these; tasks assemble models from them.
"""

from benchmark.nn import interpolation
from benchmark.nn.blocks import BasicBlock, Bottleneck, Placement, ResidualBlock
from benchmark.nn.masks import (
    FixedMask,
    GumbelMask,
    Mask,
    Masks,
    ReLUMask,
    Site,
    identify_images,
    set_temperature,
    sparse_loss,
)
from benchmark.nn.resnet import BACKBONES, ResNet, build_backbone, load_weights, residual_blocks

__all__ = [
    "BACKBONES",
    "BasicBlock",
    "Bottleneck",
    "FixedMask",
    "GumbelMask",
    "Mask",
    "Masks",
    "Placement",
    "ReLUMask",
    "ResNet",
    "ResidualBlock",
    "Site",
    "build_backbone",
    "identify_images",
    "interpolation",
    "load_weights",
    "residual_blocks",
    "set_temperature",
    "sparse_loss",
]
