"""PerforatedCNN: fixed masks with nearest-neighbour fill."""

from typing import Literal

from pydantic import Field

from benchmark import Method
from benchmark.nn import ImpactMask, Masks, interpolation, residual_blocks

MEASURED = 0.1  # share of the run, computed densely, that measures the impact of positions


class Perforated(Method):
    """Leave out a share `rate` of the positions, the same for every image, and copy the nearest computed one."""

    name = "perforated"
    references = ("Figurnov et al., PerforatedCNNs: Acceleration through Elimination of Redundant Convolutions, 2016",)
    structure: Literal["uniform", "grid", "pooling", "impact"] = "grid"
    rate: float = Field(0.5, ge=0, lt=1)
    mask_seed: int = Field(0, ge=0)
    curve = {"structure": ("uniform", "grid", "pooling"), "rate": (0.25, 0.5, 0.75)}
    follows = ("structure", "rate")

    def mask(self, block):
        """Choose the mask named by `structure`."""
        if self.structure == "impact":
            return Masks.impact(self.rate)
        return Masks.perforated(self.structure, self.rate, self.mask_seed)

    def prepare(self, backbone):
        """Let impact masks see what they govern."""
        for block in residual_blocks(backbone):
            for index in block.work.masks:
                mask = getattr(block, f"mask{index}")
                if isinstance(mask, ImpactMask) and not mask.settled:
                    mask.watch(getattr(block, f"conv{index}"))

    def on_step(self, backbone, progress):
        """Choose the positions once their impact is measured."""
        if progress >= MEASURED:
            self._settle(backbone)

    def finish(self, backbone):
        """Have chosen them, however short the run was."""
        self._settle(backbone)

    def _settle(self, backbone):
        for module in backbone.modules():
            if isinstance(module, ImpactMask) and not module.settled:
                module.settle()

    def interpolation(self, block):
        """Choose the nearest computed position."""
        return interpolation.nearest()
