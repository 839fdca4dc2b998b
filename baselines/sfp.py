"""SFP: filters with a small L2 norm are zeroed now and then, may recover, and are removed at the end."""

import torch
from pydantic import Field

from benchmark import Method
from benchmark.nn import pruning


class SFP(Method):
    """Zero a share of every layer's filters `rounds` times in a run (the paper: after each epoch), remove them last."""

    name = "sfp"
    references = ("He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018",)
    pruning_rate: float = Field(0.3, ge=0, lt=1)
    rounds: int = Field(90, ge=1)
    curve = {"pruning_rate": (0.3,)}

    def prepare(self, model):
        """Count the rounds in the model, so that an interrupted run goes on with the right one."""
        model.register_buffer("soft_rounds", torch.zeros((), dtype=torch.int64))

    def on_step(self, model, progress):
        """Zero the weakest filters whenever a round is over.

        In the second half of the run, their shifts are zeroed too: those cannot be removed with a filter, and the
        network has to learn to do without them.
        """
        due = int(progress * self.rounds)
        for backbone in [module for module in model.modules() if "soft_rounds" in module._buffers]:
            if due > int(backbone.soft_rounds):
                backbone.soft_rounds.fill_(due)
                for layer in pruning.prunables(backbone):
                    layer.zero(self._weakest(layer), shift=progress > 0.5)

    def finish(self, model):
        """Zero and remove the filters that are the weakest in the end."""
        del model.soft_rounds
        chosen = [(layer, self._weakest(layer)) for layer in pruning.prunables(model)]
        for layer, filters in chosen:
            layer.zero(filters)
            layer.remove(filters)

    def skip(self, task):
        """Run where the paper compares pruning."""
        return pruning.not_compared(task)

    def _weakest(self, layer):
        return layer.weakest(pruning.norm_of_filters(2), self.pruning_rate)
