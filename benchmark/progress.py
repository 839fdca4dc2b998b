"""How far a cell is: told to whoever shows it, in this process or another; not how it is shown (`benchmark.cli`)."""

from collections.abc import Callable

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
