"""Building blocks: masks, gates, interpolation, residual blocks and what they compute, backbones.

Methods choose among these; tasks assemble models from them.
"""

from benchmark.nn import interpolation
from benchmark.nn.blocks import BasicBlock, Bottleneck, Decided, Placement, ResidualBlock
from benchmark.nn.budget import Computation, bounds_loss, computations, density, network_share, sparse_loss
from benchmark.nn.context import at_hand, inference, observing, padded, training
from benchmark.nn.exits import Exit, exits
from benchmark.nn.gates import ChannelGate, GateSite
from benchmark.nn.masks import (
    CarriedMask,
    FixedMask,
    GumbelMask,
    ImpactMask,
    LearnedMask,
    Mask,
    Masks,
    RandomMask,
    ReLUMask,
    Site,
    Stage,
    logistic_noise,
    set_temperature,
    straight_through,
    upsample_tiles,
)
from benchmark.nn.noise import logistic_threshold, uniform_field
from benchmark.nn.resnet import BACKBONES, ResNet, build_backbone, load_weights, residual_blocks

__all__ = [
    "BACKBONES",
    "BasicBlock",
    "Bottleneck",
    "CarriedMask",
    "ChannelGate",
    "Computation",
    "Decided",
    "Exit",
    "FixedMask",
    "GateSite",
    "GumbelMask",
    "ImpactMask",
    "LearnedMask",
    "Mask",
    "Masks",
    "Placement",
    "RandomMask",
    "ReLUMask",
    "ResNet",
    "ResidualBlock",
    "Site",
    "Stage",
    "at_hand",
    "bounds_loss",
    "build_backbone",
    "computations",
    "density",
    "exits",
    "inference",
    "interpolation",
    "load_weights",
    "logistic_noise",
    "logistic_threshold",
    "network_share",
    "observing",
    "padded",
    "residual_blocks",
    "set_temperature",
    "sparse_loss",
    "straight_through",
    "training",
    "uniform_field",
    "upsample_tiles",
]
