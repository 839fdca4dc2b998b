"""PerforatedCNN: fixed masks with nearest-neighbour fill."""

from typing import Literal

from pydantic import Field

from benchmark import Method
from benchmark.nn import Masks, interpolation


class Perforated(Method):
    """Leave out a share `rate` of the positions, the same for every image, and copy the nearest computed one."""

    name = "perforated"
    references = ("Figurnov et al., PerforatedCNNs: Acceleration through Elimination of Redundant Convolutions, 2016",)
    structure: Literal["uniform", "grid", "pooling"] = "grid"
    rate: float = Field(0.5, ge=0, lt=1)
    mask_seed: int = Field(0, ge=0)
    curve = {"structure": ("uniform", "grid", "pooling"), "rate": (0.25, 0.5, 0.75)}
    follows = ("structure", "rate")

    def mask(self, block):
        """Choose the mask named by `structure`."""
        return Masks.perforated(self.structure, self.rate, self.mask_seed)

    def interpolation(self, block):
        """Choose the nearest computed position."""
        return interpolation.nearest()
