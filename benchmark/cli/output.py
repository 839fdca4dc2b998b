"""Printing: results on standard output (tables, or JSON with ``--json``), everything else on standard error.

Text of the user's (names, paths, messages) goes through these functions: Rich would read brackets in it as markup.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()
errors = Console(stderr=True)


def emit(value: Any) -> None:
    """Print JSON; NaN becomes null."""
    sys.stdout.write(json.dumps(plain(value), indent=1, ensure_ascii=False, default=str) + "\n")


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
    table = Table(title=title and escape(title))
    for name in rows[0]:
        table.add_column(escape(name), overflow="fold")  # a name or path cut short could not be copied
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_line(text: str) -> None:
    """Print text to standard output as it is: no wrapping, markup or colour."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def print_error(text: str, what: str = "error", colour: str = "red") -> None:
    """Print one line to standard error: what kind of line it is, and the text as it is."""
    errors.print(f"[{colour}]{what}:[/{colour}] {escape(text)}", soft_wrap=True, highlight=False)


def print_warning(text: str) -> None:
    """Print to standard error what the user should know and nothing stops at."""
    print_error(text, "warning", "yellow")


def print_note(text: str) -> None:
    """Print a line about what is going on to standard error."""
    errors.print(text, soft_wrap=True, highlight=False, markup=False)
