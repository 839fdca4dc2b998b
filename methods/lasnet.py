"""LASNet: a residual block's branch is computed tile by tile, in tiles whose size the hardware's latency chose."""

import copy

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from benchmark import Method
from benchmark.nn import (
    Mask,
    at_hand,
    bounds_loss,
    computations,
    interpolation,
    logistic_noise,
    network_share,
    residual_blocks,
    straight_through,
    upsample_tiles,
)

FIRST_TEMPERATURE, LAST_TEMPERATURE = 5.0, 0.1


class Masker(Mask):
    """Average pooling to tiles of ``side x side`` positions, 1x1 convolution to two logits, one decision a tile."""

    def __init__(self, site, side):
        super().__init__(site)
        self.side = side
        self.conv = nn.Conv2d(site.in_channels, 2, 1)
        nn.init.constant_(self.conv.bias[:1], 5.0)  # published: the class "compute" starts far ahead

    def forward(self, x):
        """Return 0 or 1; in training a hard Gumbel-softmax with the gradient of the soft one."""
        height, width = self.size(x)
        tiles = -(-height // self.side), -(-width // self.side)
        logits = self.conv(F.adaptive_avg_pool2d(x, tiles))
        margin = logits[:, :1] - logits[:, 1:]
        decision = (margin >= 0).to(x.dtype)
        if self.training:
            temperature = FIRST_TEMPERATURE * (LAST_TEMPERATURE / FIRST_TEMPERATURE) ** at_hand().progress
            soft = torch.sigmoid((margin + logistic_noise(margin)) / temperature)
            decision = straight_through(soft, (soft >= 0.5).to(x.dtype))
        return upsample_tiles(decision, self.side, (height, width))


class Distillation:
    """The dense network with the starting weights, and what the network in training saw last."""

    def __init__(self, backbone):
        self.teacher = copy.deepcopy(backbone).eval().requires_grad_(False)
        for block in residual_blocks(self.teacher):
            for index in (1, 2, 3):
                setattr(block, f"mask{index}", None)
                setattr(block, f"interpolation{index}", None)
        self.seen = None
        self.hook = backbone.register_forward_hook(self._keep)

    def _keep(self, backbone, inputs, output):
        self.seen = inputs[0].detach() if backbone.training else None

    def divergence(self, logits, temperature):
        """Return ``T^2 KL(teacher || student)`` of the softened predictions ``(N, classes)``, a scalar."""
        with torch.no_grad():
            taught = self.teacher.to(self.seen.device)(self.seen)
        student = F.log_softmax(logits / temperature, dim=1)
        return temperature**2 * F.kl_div(student, F.softmax(taught / temperature, dim=1), reduction="batchmean")


class LASNet(Method):
    """Spend a share `target` of the network's computation, decided in tiles of 4, 4, 2 and 1 positions by stage."""

    name = "lasnet"
    label = "LASNet"
    references = ("Han et al., Latency-aware Spatial-wise Dynamic Networks, NeurIPS 2022",)
    target: float = Field(0.5, gt=0, le=1, description="Share of the network's computation to spend.")
    weight: float = Field(10.0, ge=0, description="Weight of the loss on computation.")
    distillation: float = Field(0.5, ge=0, description="Weight of the distillation loss, where there is a classifier.")
    teacher_temperature: float = Field(4.0, gt=0)
    curve = {"target": (0.7, 0.6, 0.5, 0.4)}

    def mask(self, block):
        """Choose one decision a tile; tiles shrink with the maps."""
        side = {"layer1": 4, "layer2": 4, "layer3": 2, "layer4": 1}[block.name.partition(".")[0]]
        return lambda site: Masker(site, side)

    def interpolation(self, block):
        """Leave the branch zero: the shortcut passes alone."""
        return interpolation.zeros()

    def placement(self, block):
        """Govern the block's output."""
        return "output"

    def prepare(self, backbone):
        """Keep the dense network as the teacher; a backbone below detection heads has no predictions to match."""
        if isinstance(getattr(backbone, "fc", None), nn.Linear) and self.distillation:
            backbone.distillation = Distillation(backbone)

    def loss(self, backbone, step):
        """Return the squared distance of the network's share from the target, the bounds, and the distillation."""
        bounds = bounds_loss([each.share for each in computations(backbone)], self.target, step.progress)
        loss = self.weight * ((network_share(backbone) - self.target) ** 2 + bounds)
        distillation = getattr(backbone, "distillation", None)
        if distillation is not None:
            loss = loss + self.distillation * distillation.divergence(step.outputs, self.teacher_temperature)
        return loss

    def finish(self, backbone):
        """Let the teacher go."""
        if hasattr(backbone, "distillation"):
            backbone.distillation.hook.remove()
            del backbone.distillation

    def skip(self, task):
        """Run where it was published: classification and detection."""
        return "published for classification and detection" if task == "cityscapes" else None
