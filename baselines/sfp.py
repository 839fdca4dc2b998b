"""SFP: filters with a small L2 norm are zeroed now and then, may recover, and are removed at the end."""

import torch
from pydantic import Field

from benchmark import Method
from benchmark.nn import pruning


class SFP(Method):
    """Zero a share of every layer's filters `rounds` times in a run (the paper: after each epoch), remove them last."""

    name = "sfp"
    label = "SFP"
    references = ("He et al., Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018",)
    pruning_rate: float = Field(0.3, ge=0, lt=1)
    rounds: int = Field(100, ge=1)
    curve = {"pruning_rate": (0.3,)}

    def schedule(self, common):
        """Choose the authors' run from nothing: a round is an epoch, a tenth after each 30."""
        return common.replace(
            from_nothing=True,
            steps=0,
            epochs=self.rounds,
            learning_rate=0.1,
            decay="milestones",
            milestones=(0.3, 0.6, 0.9),
        )

    def prepare(self, backbone):
        """Count the rounds in the backbone, so that an interrupted run goes on with the right one."""
        backbone.register_buffer("soft_rounds", torch.zeros((), dtype=torch.int64))

    def on_step(self, backbone, progress):
        """Zero the weakest filters whenever a round is over.

        In the second half of the run, their shifts are zeroed too: those cannot be removed with a filter, and the
        network has to learn to do without them.
        """
        due = int(progress * self.rounds)
        if due > int(backbone.soft_rounds):
            backbone.soft_rounds.fill_(due)
            for layer in pruning.prunables(backbone):
                layer.zero(self._weakest(layer), shift=progress > 0.5)

    def finish(self, backbone):
        """Zero and remove the filters that are the weakest in the end."""
        del backbone.soft_rounds
        chosen = [(layer, self._weakest(layer)) for layer in pruning.prunables(backbone)]
        for layer, filters in chosen:
            layer.zero(filters)
            layer.remove(filters)

    def skip(self, task):
        """Run where the paper compares pruning."""
        return pruning.not_compared(task)

    def _weakest(self, layer):
        return layer.weakest(pruning.norm_of_filters(2), self.pruning_rate)
