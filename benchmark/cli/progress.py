"""Progress on standard error: bars on a terminal, a line a minute elsewhere, nothing beside JSON."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmark.cli.output import errors, print_note, visible

SECONDS_A_LINE = 60.0


class Display:
    """Shows how far named pieces of work are; this one shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show nothing more."""

    def update(self, key: str, text: str, done: int, total: int | None) -> None:
        """Say how far a piece of work is; a key that is new begins one."""

    def end(self, key: str) -> None:
        """Take a piece of work off."""


class Bars(Display):
    """One bar a piece of work, redrawn in place."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=errors,
        )  # fmt: skip
        self.lines: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the bars as they are."""
        self.bar.stop()

    def update(self, key: str, text: str, done: int, total: int | None) -> None:
        """Move a bar."""
        if key not in self.lines:
            self.lines[key] = self.bar.add_task("", total=None)
        self.bar.update(self.lines[key], description=visible(text), completed=done, total=total)

    def end(self, key: str) -> None:
        """Remove a bar."""
        line = self.lines.pop(key, None)
        if line is not None:
            self.bar.remove_task(line)


class Lines(Display):
    """One line a minute that says how far everything is: for log files, which keep what is printed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.printed = clock()
        self.states: dict[str, str] = {}

    def update(self, key: str, text: str, done: int, total: int | None) -> None:
        """Note where a piece of work is, and print all of them once a minute has passed."""
        self.states[key] = f"{text} {done}" if total is None else f"{text} {done}/{total}"
        if self.clock() - self.printed >= SECONDS_A_LINE:
            self.printed = self.clock()
            print_note("; ".join(self.states.values()))

    def end(self, key: str) -> None:
        """Say nothing more of a piece of work."""
        self.states.pop(key, None)


def display(quiet: bool) -> Display:
    """Return what shows progress here; ``quiet`` is for JSON."""
    if quiet:
        return Display()
    return Bars() if errors.is_terminal else Lines()


class SweepDisplay:
    """Progress of a sweep: the whole and each running cell; rewrites reports as cells finish."""

    def __init__(self, shown: Display, sweep: Any, pending: int, refresh: Callable[[], None]) -> None:
        self.shown, self.pending, self.refresh = shown, pending, refresh
        self.names = {each.cell.id: describe(each) for each in sweep.plans}
        self.done, self.waits = 0, False
        self._count()

    def report(self, cell_id: str, phase: str, done: int, total: int) -> None:
        """Say how far a cell is."""
        self.shown.update(cell_id, f"{self.names.get(cell_id, cell_id)}: {phase}", done, total)

    def finished(self, outcome: Any) -> None:
        """Count a cell, say how it ended, and rewrite the reports."""
        self.shown.end(outcome.plan.cell.id)
        print_note(f"{outcome.status}{' elsewhere' * outcome.elsewhere}: {describe(outcome.plan)}")
        self.done += 1
        self._count()
        self.refresh()

    def waiting(self, count: int) -> None:
        """Say, once, that all cells that are left are other processes'."""
        if not self.waits:
            self.waits = True
            print_note(f"waiting for cells that other processes run: {count}")

    def _count(self) -> None:
        self.shown.update("", "cells", self.done, self.pending)


def describe(planned: Any) -> str:
    """Return a cell's method, parameters and seed in a few words."""
    point = " ".join(f"{name}={value}" for name, value in planned.request.parameters.items())
    return f"{planned.method.name} {point} seed={planned.request.seed}".replace("  ", " ")
