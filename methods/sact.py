"""SACT: each position stops in a stage once its halting scores add up, and its states are summed by those scores."""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from benchmark import Method
from benchmark.nn import Mask, interpolation

HALT = 0.99  # Graves' epsilon of 0.01: computation can end after the first unit


class Norm(nn.BatchNorm2d):
    """Batch norm that also trains on a single value a channel, by its running statistics: the average of one image."""

    def forward(self, x):
        """Normalise ``(N, C, H, W)``."""
        training = self.training and x.numel() > x.shape[1]
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training, self.momentum, self.eps
        )


class HaltingMask(Mask):
    """The positions that have not stopped before this unit; carried from unit to unit of a stage.

    The score of the state that reaches the unit is ``sigmoid(conv3x3(BN x) + conv1x1(BN average(x)))``.

    Attributes
    ----------
    previous : tuple
        The mask of the unit before, if it has one: what it carried goes on here.
    weight : Tensor
        ``(N, 1, H, W)``, of the state that reaches the unit in the stage's sum.
    total, remainder, units : Tensor
        Sum of the scores so far; what is left to a position that stops now; units computed, this one included.
    """

    def __init__(self, site):
        super().__init__(site)
        self.previous = tuple(mask for _, mask in site.stage.masks[-1:])
        self.local_norm, self.global_norm = Norm(site.in_channels), Norm(site.in_channels)
        self.local = nn.Conv2d(site.in_channels, 1, 3, padding=1)
        self.whole = nn.Conv2d(site.in_channels, 1, 1, bias=False)
        nn.init.constant_(self.local.bias, -3.0)

    def forward(self, x):
        """Return 1 where the unit is computed, else 0."""
        average = x.mean((2, 3), keepdim=True)
        score = torch.sigmoid(self.local(self.local_norm(x)) + self.whole(self.global_norm(average)))
        if self.previous:
            before = self.previous[0]
            active, total, remainder, units = before.decided, before.total, before.remainder, before.units
        else:
            active, total, remainder = torch.ones_like(score), torch.zeros_like(score), torch.ones_like(score)
            units = torch.ones_like(score)  # a stage's first unit is dense
        self.total = total + score
        going = active * (self.total < HALT).to(score.dtype)
        stops = active - going
        self.weight = going * score + stops * remainder
        self.remainder = remainder - going * score
        self.units = units + going
        return going

    def train(self, mode=True):
        """Switch the mode; what was carried would keep the autograd graph alive, and is forgotten."""
        self.weight = self.total = self.remainder = self.units = None
        return super().train(mode)


class HaltingStage(nn.Sequential):
    """A stage whose output is the sum of its units' states, each position's weighted by its halting scores."""

    def forward(self, x):
        """Map the stage's input to the weighted sum of its states, ``(N, C, H, W)``."""
        state = self[0](x)
        output = torch.zeros_like(state)
        last = None
        for unit in list(self)[1:]:
            following = unit(state)
            last = self._mask(unit)
            output = output + last.weight * state
            state = following
        if last is None:
            return state
        return output + last.decided * last.remainder * state  # who comes to the end stops there

    @staticmethod
    def _mask(unit):
        return unit.mask3 if unit.mask3 is not None else unit.mask2

    def ponder(self):
        """Return the mean over positions of units plus remainder in the last forward, a scalar."""
        last = self._mask(self[-1])
        # The remainder of a position that stopped is what its last weight was, and stays.
        return (last.units + last.remainder).mean()


class SACT(Method):
    """Stop each position of a stage early; the longer it thinks, the more it pays: `ponder_weight`."""

    name = "sact"
    label = "SACT"
    references = (
        "Figurnov et al., Spatially Adaptive Computation Time for Residual Networks, CVPR 2017",
        "Graves, Adaptive Computation Time for Recurrent Neural Networks, 2016",
    )
    ponder_weight: float = Field(0.005, ge=0, description="Weight of the ponder cost (ImageNet: 0.005).")
    curve = {"ponder_weight": (0.001, 0.005, 0.01)}
    follows = ("ponder_weight",)

    def adapt(self, backbone):
        """Put halting masks in the units behind a stage's first, and sum each stage's states."""
        super().adapt(backbone)
        for name, stage in list(backbone.named_children()):
            if name.startswith("layer") and len(stage) > 1:
                backbone.add_module(name, HaltingStage(*stage))

    def mask(self, block):
        """Choose the halting mask; a stage's first unit is dense."""
        return None if block.is_first else HaltingMask

    def interpolation(self, block):
        """Leave the branch zero: a position that stopped keeps its state."""
        return interpolation.zeros()

    def placement(self, block):
        """Govern the block's output."""
        return "output"

    def loss(self, backbone, step):
        """Return the ponder cost of all stages by its weight."""
        stages = [stage for stage in backbone.children() if isinstance(stage, HaltingStage)]
        return self.ponder_weight * sum(stage.ponder() for stage in stages)

    def skip(self, task):
        """Run where it was published, and on detection."""
        return "published for classification; compared on imagenet and coco" if task == "cityscapes" else None
