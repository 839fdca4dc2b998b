"""Progress: a line a minute where there is no terminal, nothing beside JSON."""

import io

import pytest
from rich.console import Console

from benchmark.cli import progress
from benchmark.cli.progress import SECONDS_A_LINE, Bars, Display, Lines, display


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_without_a_terminal_there_is_one_line_a_minute(capsys, clock):
    lines = Lines(clock)
    for second in range(1, 181):
        clock.now = float(second)
        lines.update("cell", "dense: train", second, 180)
    assert capsys.readouterr().err.splitlines() == [
        "dense: train 60/180", "dense: train 120/180", "dense: train 180/180",
    ]  # fmt: skip


def test_a_line_says_how_far_everything_that_runs_is(capsys, clock):
    lines = Lines(clock)
    lines.update("", "cells", 1, 3)
    lines.update("a", "ended: train", 5, 9)
    lines.update("b", "[red]x[/red]: evaluate", 2, 4)
    lines.end("a")
    clock.now = SECONDS_A_LINE
    lines.update("", "cells", 2, 3)
    assert capsys.readouterr().err == "cells 2/3; [red]x[/red]: evaluate 2/4\n"


def test_what_shows_progress_depends_on_where_it_goes(monkeypatch):
    assert type(display(quiet=True)) is Display
    assert isinstance(display(quiet=False), Lines)
    monkeypatch.setattr(progress, "errors", Console(file=io.StringIO(), force_terminal=True))
    assert isinstance(display(quiet=False), Bars)


def test_on_a_terminal_each_piece_of_work_has_a_bar_until_it_ends(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(progress, "errors", console)
    with display(quiet=False) as shown:
        shown.update("a", "[red]a[/red]", 1, 2)
        shown.update("b", "b", 1, None)
        shown.end("b")
        shown.end("unknown")
        assert [(task.description, task.completed, task.total) for task in shown.bar.tasks] == [("[red]a[/red]", 1, 2)]
    assert "[red]a[/red]" in console.file.getvalue()
