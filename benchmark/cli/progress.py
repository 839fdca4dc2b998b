"""Progress on standard error: a bar for one piece of work, a display for a sweep."""

from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmark.cli.output import errors


def progress_bar(quiet: bool) -> Progress:
    """Return a progress display, silent for JSON."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=errors, disable=quiet,
    )  # fmt: skip


class SweepDisplay:
    """Progress of a sweep: a bar for the whole, a bar for each running cell; rewrites reports as cells finish."""

    def __init__(self, bar: Progress, sweep: Any, pending: int, refresh: Callable[[], None]) -> None:
        self.bar, self.refresh = bar, refresh
        self.names = {each.cell.id: describe(each) for each in sweep.plans}
        self.whole = bar.add_task("cells", total=pending)
        self.lines: dict[str, TaskID] = {}

    def report(self, cell_id: str, phase: str, done: int, total: int) -> None:
        """Move a cell's bar."""
        if cell_id not in self.lines:
            self.lines[cell_id] = self.bar.add_task("")
        text = f"{self.names.get(cell_id, cell_id)}: {phase}"
        self.bar.update(self.lines[cell_id], description=escape(text), completed=done, total=total)

    def finished(self, outcome: Any) -> None:
        """Count a cell and redraw."""
        line = self.lines.pop(outcome.plan.cell.id, None)
        if line is not None:
            self.bar.remove_task(line)
        self.bar.advance(self.whole)
        self.bar.console.print(f"{outcome.status}: {escape(describe(outcome.plan))}", highlight=False)
        self.refresh()


def describe(planned: Any) -> str:
    """Return a cell's method, parameters and seed in a few words."""
    point = " ".join(f"{name}={value}" for name, value in planned.request.parameters.items())
    return f"{planned.method.name} {point} seed={planned.request.seed}".replace("  ", " ")
