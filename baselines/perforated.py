"""PerforatedCNN: fixed masks with nearest-neighbour fill."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from benchmark import Method
from benchmark.nn import ImpactMask, Masks, interpolation, residual_blocks

MEASURED = 0.1  # share of the run, computed densely, that measures the impact of positions


class Perforated(Method):
    """Leave out a share `rate` of the positions, the same for every image, and copy the nearest computed one.

    With ``rates="chosen"``, layers have rates of their own, which together leave out `rate` of the layers'
    multiply-accumulates (`layer_rates`): the publication's greedy choice, on impacts that a tenth of the run measures
    instead of losses measured again for each try.
    """

    name = "perforated"
    references = ("Figurnov et al., PerforatedCNNs: Acceleration through Elimination of Redundant Convolutions, 2016",)
    structure: Literal["uniform", "grid", "pooling", "impact"] = "grid"
    rate: float = Field(0.5, ge=0, lt=1)
    rates: Literal["equal", "chosen"] = "equal"
    mask_seed: int = Field(0, ge=0)
    curve = {"structure": ("uniform", "grid", "pooling"), "rate": (0.25, 0.5, 0.75)}
    follows = ("structure", "rate")

    @model_validator(mode="after")
    def _chosen_from_impacts(self):
        if self.rates == "chosen" and self.structure != "impact":
            raise ValueError("rates=chosen needs structure=impact, which measures what to choose from")
        return self

    def mask(self, block):
        """Choose the mask named by `structure`."""
        if self.structure == "impact":
            return Masks.impact(self.rate)
        return Masks.perforated(self.structure, self.rate, self.mask_seed)

    def prepare(self, backbone):
        """Let impact masks see what they govern."""
        for mask, convolution in self._unsettled(backbone):
            mask.watch(convolution)

    def on_step(self, backbone, progress):
        """Choose the positions once their impact is measured."""
        if progress >= MEASURED:
            self._settle(backbone)

    def finish(self, backbone):
        """Have chosen them, however short the run was."""
        self._settle(backbone)

    def interpolation(self, block):
        """Choose the nearest computed position."""
        return interpolation.nearest()

    def _settle(self, backbone):
        governed = list(self._unsettled(backbone))
        impacts = [mask.impact.cpu().numpy() for mask, _ in governed]
        rates = [self.rate] * len(governed)
        if self.rates == "chosen" and any(impact.any() for impact in impacts):  # none where it is only counted
            rates = layer_rates(impacts, [convolution.weight.numel() for _, convolution in governed], self.rate)
        for (mask, _), rate in zip(governed, rates, strict=True):
            mask.settle(rate)

    def _unsettled(self, backbone):
        for block in residual_blocks(backbone):
            for index in block.work.masks:
                mask = getattr(block, f"mask{index}")
                if isinstance(mask, ImpactMask) and not mask.settled:
                    yield mask, getattr(block, f"conv{index}")


def layer_rates(impacts, costs, rate):
    """Return the share of its positions that each layer leaves out.

    Positions go in the order of their impact for each multiply-accumulate that they save, the least first, until `rate`
    of all multiply-accumulates is saved. Each layer keeps the position of its highest impact.

    Parameters
    ----------
    impacts : list of numpy.ndarray
        Each layer's impacts by position, ``(H, W)``.
    costs : list of int
        Multiply-accumulates of each layer at one position.
    rate : float
        Share of all multiply-accumulates to be left out.
    """
    layers = np.repeat(np.arange(len(impacts)), [impact.size for impact in impacts])
    worth = np.concatenate([impact.ravel() / cost for impact, cost in zip(impacts, costs, strict=True)])
    saved = np.asarray(costs, dtype=np.float64)[layers]
    last = np.cumsum([0, *(impact.size for impact in impacts[:-1])]) + [impact.argmax() for impact in impacts]
    order = np.argsort(worth, kind="stable")
    order = order[~np.isin(order, last)]
    gone = order[np.cumsum(saved[order]) <= rate * saved.sum() * (1 + 1e-12)]
    return [float(np.sum(layers[gone] == layer)) / impact.size for layer, impact in enumerate(impacts)]
