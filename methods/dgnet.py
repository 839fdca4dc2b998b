"""DGNet: each block chooses tiles of positions and channels at once, by two gates that share the budget."""

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from benchmark import Method
from benchmark.nn import (
    ChannelGate,
    Mask,
    interpolation,
    logistic_noise,
    network_share,
    residual_blocks,
    straight_through,
    upsample_tiles,
)

TEMPERATURE = 2 / 3
SIDES = {"layer1": 8, "layer2": 4, "layer3": 2, "layer4": 1}  # of a tile, in positions of the block's output
REDUCTION = 4  # of the channels between the channel gate's two layers
DECAY = 5.0  # of the bounds over a run: published as 0.05 an epoch, 100 epochs


def decide(module, logits):
    """Return 1 where a logit is positive, else 0; in training a hard Gumbel-softmax with the soft one's gradient."""
    if not module.training:
        return (logits > 0).to(logits.dtype)
    soft = torch.sigmoid((logits + logistic_noise(logits)) / TEMPERATURE)
    return straight_through(soft, (soft > 0.5).to(soft.dtype))


class SpatialGate(Mask):
    """Average pooling to tiles of the block's output, a 3x3 convolution to one logit, one decision a tile.

    The first convolution has the resolution of the block's input: there, a tile is wider by the block's stride. Bias
    starts at 2: a new gate is open.
    """

    def __init__(self, site, block):
        super().__init__(site)
        self.side = SIDES[block.stage.name]
        self.whole = self.side * block.stride  # in positions of the block's input
        self.tile = self.whole // site.stride  # in positions of the governed map
        self.conv = nn.Conv2d(site.in_channels, 1, 3, padding=1)
        nn.init.constant_(self.conv.bias, 2.0)

    def forward(self, x):
        """Return 0 or 1, ``(N, 1, H', W')``."""
        tiles = [-(-side // self.whole) for side in x.shape[-2:]]
        decision = decide(self, self.conv(F.adaptive_avg_pool2d(x, tiles)))
        return upsample_tiles(decision, self.tile, self.size(x))


class SameTiles(Mask):
    """The tiles that the block's first mask decided, on the map of a later convolution: decided once a block."""

    def __init__(self, site, owner):
        super().__init__(site)
        self._owner = (owner,)

    def forward(self, x):
        """Return the owner's values at this map's resolution, ``(N, 1, H', W')``."""
        stride = self.stride // self._owner[0].stride
        return self._owner[0].decided[..., ::stride, ::stride]


class DynamicChannels(ChannelGate):
    """Global average, two linear layers, one decision a channel; bias starts at 2."""

    def __init__(self, site):
        super().__init__(site)
        hidden = max(1, site.in_channels // REDUCTION)
        self.squeeze = nn.Linear(site.in_channels, hidden)
        self.excite = nn.Linear(hidden, site.channels)
        nn.init.constant_(self.excite.bias, 2.0)

    def forward(self, x):
        """Return 0 or 1, ``(N, channels)``."""
        return decide(self, self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))


class DGNet(Method):
    """Spend a share `target` of the network's computation; positions and channels may each keep its square root.

    Read in the released code, but for two things. Both channel gates of a bottleneck read the block's input. The cost
    of the gates themselves is counted, and is no part of the share that the loss holds at the target.
    """

    name = "dgnet"
    label = "DGNet"
    references = ("Li et al., Dynamic Dual Gating Neural Networks, ICCV 2021",)
    target: float = Field(0.5, gt=0, le=1, description="Share of the network's computation to spend.")
    weight: float = Field(5.0, ge=0, description="Weight of the loss on computation.")
    curve = {"target": (0.7, 0.5, 0.3)}
    only_named = ("coco",)

    def adapt(self, backbone):
        """Put one decision on the tiles of each block's maps, also of a stage's first block, and gates on channels."""
        for block in residual_blocks(backbone):
            owners = []

            def build(site, block=block, owners=owners):
                if owners:
                    return SameTiles(site, owners[0])
                owners.append(SpatialGate(site, block))
                return owners[0]

            placement = "three" if hasattr(block, "conv3") else "two"
            block.adapt(build, interpolation.zeros(), placement, DynamicChannels)

    def loss(self, backbone, step):
        """Return the squared distance of the network's share from the target, plus the bounds on both densities."""
        bounds = 0.0
        for block in residual_blocks(backbone):
            spatial = next(iter(block.decided.masks.values())).mean()
            channels = torch.stack([values.mean() for values in block.decided.gates.values()])
            bounds = bounds + self.bounds(spatial, step.progress) + self.bounds(channels, step.progress).mean()
        return self.weight * (network_share(backbone) - self.target) ** 2 + bounds

    def bounds(self, density, progress):
        """Return how far a density is from the square root of the target, and from all: less and less early and late.

        ``relu(p sqrt(t) - d)^2 + relu(d - 1 + p - p sqrt(t))^2`` with ``p = exp(-5 progress)``.
        """
        held = math.exp(-DECAY * progress)
        root = held * self.target**0.5
        return torch.relu(root - density) ** 2 + torch.relu(density - 1 + held - root) ** 2

    def skip(self, task):
        """Run where it was published, and on detection."""
        return "published for classification; compared on imagenet and coco" if task == "cityscapes" else None
