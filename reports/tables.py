"""Tables that are printed as Markdown, LaTeX, CSV and HTML; their forms are the templates beside this file."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from benchmark.files import write_atomic
from reports.values import plain

__all__ = ["Column", "Table", "environment"]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    key
        The rows' key.
    head
        What stands above it.
    show
        Turns a value into text.
    right
        Whether it is aligned to the right, as numbers are.
    """

    key: str
    head: str
    show: Callable[[Any], str] = plain
    right: bool = False


@dataclass(frozen=True)
class Table:
    """Rows that are printed as Markdown, LaTeX and CSV.

    Attributes
    ----------
    title
        Its caption.
    columns
        What Markdown and LaTeX show; the CSV has all keys of the rows, as they are.
    rows
        Values by key; keys that begin with ``_`` are texts for the columns and not in the CSV.
    notes
        Lines under the table.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()

    def cells(self) -> list[list[str]]:
        """Return the texts of the rows; columns that would be empty throughout are shown all the same."""
        return [[column.show(row.get(column.key)) for column in self.columns] for row in self.rows]

    def markdown(self) -> str:
        """Return a Markdown table that is aligned as plain text too."""
        heads = [column.head for column in self.columns]
        body = [[_markdown(text) for text in row] for row in self.cells()]
        widths = [max(3, *(len(row[index]) for row in [heads, *body])) for index in range(len(heads))]

        def pad(texts: Sequence[str]) -> list[str]:
            return [
                text.rjust(width) if column.right else text.ljust(width)
                for text, width, column in zip(texts, widths, self.columns, strict=True)
            ]

        rules = [
            f"{'-' * (width - 1)}:" if column.right else "-" * width
            for width, column in zip(widths, self.columns, strict=True)
        ]
        return (
            environment()
            .get_template("table.md.j2")
            .render(
                title=_markdown(self.title),
                heads=pad(heads),
                rules=rules,
                rows=[pad(row) for row in body],
                notes=[_markdown(note) for note in self.notes],
            )
        )

    def latex(self) -> str:
        """Return a LaTeX table for the package booktabs."""
        return (
            environment()
            .get_template("table.tex.j2")
            .render(
                title=self.title,
                alignment="".join("r" if column.right else "l" for column in self.columns),
                heads=[column.head for column in self.columns],
                rows=self.cells(),
                notes=self.notes,
            )
        )

    def csv(self) -> str:
        """Return all keys of the rows as CSV, numbers with all their digits."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row if not key.startswith("_")))
        buffer = io.StringIO()
        frame = pd.DataFrame(list(self.rows), columns=columns, dtype=object)
        frame.to_csv(buffer, index=False, lineterminator="\n")
        return buffer.getvalue()

    def write(self, out: Path, stem: str) -> list[Path]:
        """Write ``<stem>.md``, ``.csv`` and ``.tex`` and return their paths."""
        forms = {"md": self.markdown(), "csv": self.csv(), "tex": self.latex()}
        return [write_atomic(out / f"{stem}.{extension}", content) for extension, content in forms.items()]


@functools.cache
def environment() -> jinja2.Environment:
    """Return the templates; what goes into HTML is escaped, and a name that is not there is an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: name is not None and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters["tex"] = _tex
    return found


def _markdown(text: str) -> str:
    """Escape what ends a cell, and what a viewer would take for HTML."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text.replace("|", "\\|").replace("\n", " "))


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "γ": r"$\gamma$", "λ": r"$\lambda$",
    "×": r"$\times$", "−": r"$-$", "–": "--", "…": r"\ldots{}", "⁹": r"$^9$", "“": "``", "”": "''",
    "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
