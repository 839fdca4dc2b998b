"""Printing: results on standard output (tables, or JSON with ``--json``), everything else on standard error.

Text of the user's (names, paths, messages) goes through these functions: Rich would read brackets in it as markup, and
a terminal would obey control characters. JSON is for programs and is printed as it is.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Without emoji: ":M:" in a message is no picture.
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)

#: What a terminal obeys, or turns a line around with, and halves of characters, which cannot be written at all.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return a text in which control characters, line ends and tabs aside, are shown as Python writes them."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


_answers: list[Callable[[str], Any]] = []  # where JSON is written, while nothing else may be


@contextmanager
def answers_apart() -> Iterator[None]:
    """Let `emit` alone write to standard output inside of the block.

    What plug-ins, libraries and worker processes print goes to standard error meanwhile: JSON stays JSON.
    """
    stream = sys.stdout
    stream.flush()
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # no file: who runs the command in a process of their own collects its text
        number = -1
    kept = os.dup(number) if number >= 0 else -1
    if number >= 0:
        os.dup2(sys.stderr.fileno(), number)
    _answers.append(stream.write if number < 0 else partial(_write, kept))
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        _answers.clear()
        sys.stdout = stream
        if number >= 0:
            os.dup2(kept, number)
            os.close(kept)


def _write(number: int, text: str) -> None:
    """Write to a file's number, unbuffered: what a full disk does not take is not tried again at the end."""
    written = text.encode("utf-8", "replace")
    while written:
        written = written[os.write(number, written) :]


def emit(value: Any) -> None:
    """Print JSON; NaN becomes null."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, default=str) + "\n"
    text = text.encode("utf-8", "replace").decode()  # halves of characters cannot be written
    (_answers[0] if _answers else sys.stdout.write)(text)


def plain(value: Any) -> Any:
    """Return a value with None for every NaN in it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def print_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> None:
    """Print rows, the first one's keys as the heading; nothing for no rows."""
    if not rows:
        return
    table = Table(title=title and escape(visible(title)))
    texts = [[visible(_cell(value)) for value in row.values()] for row in rows]
    # What a row begins with names it: it stays on one line where that leaves the others half of the width.
    whole = max(len(text[0]) for text in texts) <= console.width // 2
    for place, name in enumerate(rows[0]):
        # A name or path cut short could not be copied.
        table.add_column(escape(visible(name)), overflow="fold", no_wrap=whole and place == 0)
    for text in texts:
        table.add_row(*map(escape, text))
    console.print(table)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_line(text: str) -> None:
    """Print text to standard output as it is: no wrapping, markup or colour."""
    console.print(visible(text), soft_wrap=True, highlight=False, markup=False)


def print_error(text: str, what: str = "error", colour: str = "red") -> None:
    """Print one line to standard error: what kind of line it is, and the text as it is."""
    line = re.sub(r"\s*[\r\n]+\s*", " ", text.strip())
    errors.print(f"[{colour}]{what}:[/{colour}] {escape(visible(line))}", soft_wrap=True, highlight=False)


def print_warning(text: str) -> None:
    """Print to standard error what the user should know and nothing stops at."""
    print_error(text, "warning", "yellow")


def print_note(text: str) -> None:
    """Print a line about what is going on to standard error."""
    errors.print(visible(text), soft_wrap=True, highlight=False, markup=False)
