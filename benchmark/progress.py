"""How far a cell is: told to whoever shows it, in this process or another; not how it is shown (`benchmark.cli`)."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import Callback

STEPS, IMAGES = 5, 10  # between two reports: a few a second at most


class StepReporter(Callback):
    """Calls ``report(phase, done, total)`` while a cell trains (steps) and is evaluated (images)."""

    def __init__(self, report: Callable[[str, int, int], None]) -> None:
        self.report = report

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        """Report the training step."""
        if trainer.global_step % STEPS == 0:
            self.report("train", trainer.global_step, module.steps)

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Report the evaluated image."""
        if batch_idx % IMAGES == 0:
            self.report("evaluate", batch_idx + 1, trainer.num_test_batches[0])
