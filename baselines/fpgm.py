"""FPGM: the filters nearest to their layer's geometric median, which the others can stand for, are removed."""

import torch
from pydantic import Field

from benchmark import Method
from benchmark.nn import pruning


class FPGM(Method):
    """Hold a share of every layer's filters at zero, chosen anew `rounds` times in a run; remove them at the end.

    The authors' script chooses by geometric median before training and after each epoch, sets what it chose to zero,
    and masks its gradients until the next choice.
    """

    name = "fpgm"
    label = "FPGM"
    references = ("He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks, CVPR 2019",)
    pruning_rate: float = Field(0.3, ge=0, lt=1)
    rounds: int = Field(100, ge=1)
    curve = {"pruning_rate": (0.3,)}

    def schedule(self, common):
        """Choose the authors' run from trained weights: a round is an epoch, a tenth after each 30."""
        return common.replace(
            steps=0, epochs=self.rounds, learning_rate=0.01, decay="milestones", milestones=(0.3, 0.6, 0.9)
        )

    def prepare(self, backbone):
        """Make place for what is held, and count the rounds, so that an interrupted run resumes with the right ones."""
        backbone.register_buffer("chosen_rounds", torch.zeros((), dtype=torch.int64))
        for layer in pruning.prunables(backbone):
            layer.hold(())

    def on_step(self, backbone, progress):
        """Choose before the first step and whenever a round is over."""
        due = int(progress * self.rounds) + 1
        if due > int(backbone.chosen_rounds):
            backbone.chosen_rounds.fill_(due)
            for layer in pruning.prunables(backbone):
                filters = self._nearest(layer)
                layer.zero(filters)
                layer.hold(filters)

    def finish(self, backbone):
        """Choose once more, and remove."""
        del backbone.chosen_rounds
        chosen = [(layer, self._nearest(layer)) for layer in pruning.prunables(backbone)]
        for layer, filters in chosen:
            layer.release()
            layer.zero(filters)
            layer.remove(filters)

    def skip(self, task):
        """Run where the paper compares pruning."""
        return pruning.not_compared(task)

    def _nearest(self, layer):
        return layer.weakest(pruning.GeometricMedian(), self.pruning_rate)
