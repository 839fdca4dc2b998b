"""What a method's loss is told about the training step that it is added to."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """A training forward, as `benchmark.Method.loss` sees it.

    Where a step runs as several micro-batches, or on several devices, each has its own targets and outputs; they share
    the progress.

    Attributes
    ----------
    progress : float
        Share of the training run that is done: 0 at the first step, 1 at the last. It starts at 0 again where a cell
        has two training runs.
    targets : list
        The task's own, one for each image of the forward, augmented as the images are.
    outputs : object
        What the task's `training_outputs` returned for these images, with its graph.
    """

    progress: float
    targets: list[Any]
    outputs: Any
