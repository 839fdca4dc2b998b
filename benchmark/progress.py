"""How far a cell is: told to whoever shows it, in this process or another; not how it is shown (`benchmark.cli`)."""

import multiprocessing
import threading
from collections.abc import Callable
from typing import Any, Self

#: Called as ``report(phase, done, total)`` while a cell trains (steps) and is evaluated (images).
Report = Callable[[str, int, int], None]

#: Prints a line for the user.
Note = Callable[[str], object]

EVERY = {"train": 5, "evaluate": 10}  # steps and images between two reports: a few a second at most


class StepReporter:
    """Passes on some reports, a few a second, and the last one of each phase."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Pass a report on, or not."""
        if done % EVERY[phase] == 0 or done == total:
            self.report(phase, done, total)


class Relay:
    """Passes on reports from processes that are started meanwhile: they put ``(phase, done, total)`` into `queue`."""

    def __init__(self, report: Report | None) -> None:
        self.report = report
        self.queue: Any = multiprocessing.get_context("spawn").SimpleQueue()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Pass on what is left."""
        self.queue.put(None)
        self._thread.join()

    def _pass_on(self) -> None:
        while (step := self.queue.get()) is not None:
            if self.report is not None:
                self.report(*step)
