"""What reports share: results read from stores, what a report gives, provenance lines.

It draws nothing and knows no report by name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import pandas as pd

from benchmark.errors import SaibenchError, StoreError
from benchmark.store import Record, Store, table
from reports.methods import Methods
from reports.tables import Table
from reports.values import is_missing, plain

__all__ = ["Output", "Picture", "Results", "nothing", "provenance_line", "writable"]

Made = TypeVar("Made")


@dataclass(frozen=True)
class Picture:
    """A picture for the page.

    Attributes
    ----------
    text
        What it shows; also for those who cannot see it.
    uri
        Its address, with the picture in it (`reports.pictures.uri`).
    method, seed
        Whose it is, for the page's filters; "" where it is nobody's.
    """

    text: str
    uri: str
    method: str = ""
    seed: str = ""


@dataclass(frozen=True)
class Output:
    """What a report gives.

    Attributes
    ----------
    name, title
        The report's.
    files
        What it wrote.
    text
        Its tables in Markdown, or one line that says that there is no data.
    warnings
        One line each: folders that are no records, cells that were left out, and why.
    tables
        Its tables, for the page.
    pictures
        Its pictures, for the page; drawn figures are files alone, because the page draws its own.
    """

    name: str
    title: str
    files: list[Path] = field(default_factory=list)
    text: str = ""
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Results:
    """The records of some stores.

    Attributes
    ----------
    stores
        The folders.
    records
        One a cell; of a cell in several stores, the finished one, or else the first.
    warnings
        One line for each store or folder that could not be read.
    """

    stores: list[Path]
    records: list[Record]
    warnings: list[str]

    @classmethod
    def read(cls, stores: Iterable[str | os.PathLike[str]]) -> Results:
        """Read stores.

        Raises
        ------
        StoreError
            If a store is not there, or not a folder.
        """
        folders = [Path(store) for store in stores]
        records: dict[str, Record] = {}
        warnings: list[str] = []
        for folder in folders:
            if not folder.exists():
                raise StoreError(f"{folder}: there is no such store; give another --store, or make it with a sweep")
            found, broken = Store(folder).scan()
            warnings += broken
            for record in found:
                known = records.get(record.cell_id)
                if known is None or (record.finished and not known.finished):
                    records[record.cell_id] = record
        return cls(folders, list(records.values()), warnings)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what `make` returns; what has a name is made once, however many reports ask for it."""
        if name not in self._made:
            self._made[name] = make()
        return cast("Made", self._made[name])

    @cached_property
    def _made(self) -> dict[str, object]:
        return {}

    @cached_property
    def methods(self) -> Methods:
        """What the records say about their methods."""
        return Methods(self.records)

    def cells(self, task: str | None = None, **where: object) -> pd.DataFrame:
        """Return the records as a flat table (`benchmark.store.Store.records`), those of a task or of all."""
        return table(self.records, None, task=task, **where)


def nothing(name: str, title: str, results: Results, what: str) -> Output:
    """Return the output of a report that has no data.

    Parameters
    ----------
    what
        Which command makes the data: ``saibench sweep coco``.
    """
    where = ", ".join(map(str, results.stores)) or "no store"
    text = f"{title}: no data in {where}; make some with: {what}"
    return Output(name, title, text=text, warnings=results.warnings)


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Make a folder of outputs and turn errors of writing into one line.

    Raises
    ------
    SaibenchError
        If the folder or a file in it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except StoreError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise SaibenchError(f"{folder}: cannot be written ({reason}); use another --out") from error


def provenance_line(cells: pd.DataFrame) -> str:
    """Say in one line what the cells were made with: versions, machine, commit, dates, data.

    Parameters
    ----------
    cells
        Rows of `Results.cells`.
    """

    def values(name: str) -> str:
        return ", ".join(dict.fromkeys(plain(value) for value in cells[name] if plain(value))) or "unknown"

    pairs = zip(cells["git_sha"], cells["git_dirty"], strict=True)
    commits = dict.fromkeys(
        f"{str(sha)[:10]}{' with uncommitted changes' if dirty is True else ''}"
        for sha, dirty in pairs
        if not is_missing(sha)
    )
    data = dict.fromkeys(
        f"{dataset} (fingerprint {fingerprint})"
        for dataset, fingerprint in zip(cells["dataset"], cells["dataset_fingerprint"], strict=True)
    )
    days = sorted(str(value)[:10] for value in [*cells["started"], *cells["finished"]] if not is_missing(value))
    dates = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "unknown"
    gpus = values("gpu")
    return "; ".join(
        [
            f"Saibench {values('saibench')}, commit {', '.join(commits) or 'unknown'}",
            f"torch {values('torch')}, Python {values('python')}",
            f"CPU {values('cpu')}, threads {values('threads')}{'' if gpus == 'unknown' else f', GPU {gpus}'}",
            f"made {dates}",
            f"data {', '.join(data) or 'unknown'}",
        ]
    )
