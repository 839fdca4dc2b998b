"""Budget-aware spatially adaptive inference: DynConv whose gates are told the budget, so that one network serves all.

Zampokas et al. train ResNets for a list of target budgets and give the target to the network as an input. How it enters
the gates we chose: as log-odds, it is one more input of each gate's linear layer, with a weight of its own that starts
at 1: a gate whose other inputs say nothing is open where the budget is above a half. (The budget itself, with a weight
like the others, moved no gate within a fine-tuning of 300 steps.) Left out are their distillation from a pretrained
teacher and their weights by the accuracy of single-budget networks (README of the released code).
"""

import math

import torch
from pydantic import Field
from torch import nn

from benchmark import Method
from benchmark.nn import Mask, at_hand, bounds_loss, computations, interpolation, logistic_noise, straight_through

TARGETS = (0.75, 0.5, 0.3, 0.15)  # DynConv's curve, so that the two compare point by point

HIGHEST = 0.999  # of a budget's log-odds, which have no end


class BudgetUnit(Mask):
    """DynConv's mask unit, with the budget beside the global average: noise in training, ``x >= 0`` at inference.

    Temperature and noise are those of DynConv's schedule: temperature 5, 2.5 and 1 for 30, 30 and 40 % of the run; no
    noise in its last 20 %.

    Attributes
    ----------
    budget : float
        Share of the blocks' computation that it is told to keep.
    """

    def __init__(self, site):
        super().__init__(site)
        self.conv = nn.Conv2d(site.in_channels, 1, 3, stride=site.stride, padding=1)
        self.linear = nn.Linear(site.in_channels + 1, 1)
        nn.init.ones_(self.linear.weight[:, -1:])
        self.budget = max(TARGETS)

    def forward(self, x):
        """Return 0 or 1, with the gradient of the soft decision in training."""
        budget = min(self.budget, HIGHEST)
        told = torch.cat((x.mean((2, 3)), x.new_full((len(x), 1), math.log(budget / (1 - budget)))), 1)
        logits = self.conv(x) + self.linear(told)[:, :, None, None]
        if not self.training:
            return (logits >= 0).to(x.dtype)
        progress = at_hand().progress
        temperature = 5.0 if progress < 0.3 else 2.5 if progress < 0.6 else 1.0
        noise = logistic_noise(logits) if progress <= 0.8 else 0.0
        soft = torch.sigmoid((logits + noise) / temperature)
        return straight_through(soft, (soft >= 0.5).to(x.dtype))


class Budgets(Method):
    """Spend the share `budget` of the blocks' computation that is asked for when the network is used: one training."""

    name = "budgets"
    label = "Budget-aware"
    references = (
        "Zampokas et al., Budget-aware Dynamic Spatially Adaptive Inference, BMVC 2024",
        "Verelst and Tuytelaars, Dynamic Convolutions: Exploiting Spatial Sparsity for Faster Inference, CVPR 2020",
    )
    budget: float = Field(0.5, gt=0, le=1, description="Share of the masked blocks' computation, told at inference.")
    weight: float = Field(10.0, ge=0, description="Weight of the sparsity loss.")
    curve = {"budget": TARGETS}
    at_inference = ("budget",)
    only_named = ("coco",)

    def mask(self, block):
        """Choose the mask unit that is told the budget, in every block."""
        return BudgetUnit

    def interpolation(self, block):
        """Leave the branch zero: the shortcut passes alone."""
        return interpolation.zeros()

    def placement(self, block):
        """Govern the block's output."""
        return "output"

    def on_step(self, backbone, progress):
        """Draw the step's budget from the targets."""
        self._tell(backbone, TARGETS[int(torch.randint(len(TARGETS), ()))])

    def loss(self, backbone, step):
        """Return DynConv's loss at the drawn budget: squared distance of the share, plus the bounds on each block's."""
        budget = next(module.budget for module in backbone.modules() if isinstance(module, BudgetUnit))
        found = computations(backbone)
        share = sum(each.macs for each in found) / sum(each.dense for each in found)
        bounds = bounds_loss([each.share for each in found], budget, step.progress)
        return self.weight * ((share - budget) ** 2 + bounds)

    def configure(self, backbone):
        """Tell the gates the budget that is asked for."""
        self._tell(backbone, self.budget)

    def skip(self, task):
        """Run where DynConv does."""
        return "DynConv, on which it builds, is compared on imagenet and coco" if task == "cityscapes" else None

    def _tell(self, backbone, budget):
        for module in backbone.modules():
            if isinstance(module, BudgetUnit):
                module.budget = budget
