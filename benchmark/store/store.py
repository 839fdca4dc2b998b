"""The results store: a folder of records, one folder a cell, written whole or not at all.

It finds, lists and locks. It knows no method, task or metric by name, and computes nothing from the results.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import StoreError
from benchmark.files import write_atomic
from benchmark.store.cell import Cell
from benchmark.store.checksums import update_checksum
from benchmark.store.errors import CellFinished, explain
from benchmark.store.locks import held_by, locked
from benchmark.store.record import Record
from benchmark.store.replacing import lock_path, old_path, partial_path, recover
from benchmark.store.tables import table
from benchmark.store.work import PROGRESS, Work

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TIMINGS", "Store"]

#: The folder of timings, in the store's root: one JSON file each.
TIMINGS = "timing"

_log = logging.getLogger(__name__)


class Store:
    """A folder of records.

    Parameters
    ----------
    root
        The folder; made by the first write.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        """Return how to make this store."""
        return f"Store({str(self.root)!r})"

    def folder(self, cell: Cell) -> Path:
        """Where the cell's record lies, or will."""
        return self.root / cell.task / cell.scale / cell.method / cell.id

    def check_writable(self) -> None:
        """Write and remove a probe: call it before anything expensive.

        Raises
        ------
        StoreError
            If the folder cannot be made or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as probe:  # without a name where the system can: no leftovers
                probe.write(b"probe")
                probe.flush()
                os.fsync(probe.fileno())
        except (FileExistsError, NotADirectoryError):
            raise StoreError(f"{self.root}: is not a folder; use another --store") from None
        except OSError as error:
            raise explain(error, self.root) or StoreError(
                f"{self.root}: cannot be written ({error.strerror}); use another --store"
            ) from error

    def find(self, cell: Cell) -> Record | None:
        """Return the cell's record, whatever its status; None if it never came to an end.

        Raises
        ------
        StoreError
            If its folder is there but broken.
        """
        final = self.folder(cell)
        self._recover_left(final)
        return Record.load(final) if final.exists() else None

    def holder(self, cell: Cell) -> str | None:
        """Return which process works on a cell, and since when; None where none does."""
        return held_by(lock_path(self.folder(cell), make=False))

    def progress(self, cell: Cell) -> tuple[str, int, int] | None:
        """Return how far a cell's run is, or was when it was interrupted: the phase, what of it is done, and all."""
        try:
            phase, done, total = json.loads((partial_path(self.folder(cell)) / PROGRESS).read_text(encoding="utf-8"))
            return str(phase), int(done), int(total)
        except (OSError, ValueError, TypeError):  # none yet, or one that is being written
            return None

    def get(self, cell_id: str) -> Record:
        """Return the record whose cell id begins with `cell_id`.

        Raises
        ------
        StoreError
            If there is none, or more than one.
        """
        scanned, broken = self.scan()
        records = [record for record in scanned if cell_id and record.cell_id.startswith(cell_id)]
        if len(records) != 1:
            found = ", ".join(record.cell_id for record in records[:5]) or "none"
            unread = f"; not read: {broken[0]}" if broken and not records else ""
            raise StoreError(f"{self.root}: one cell id must begin with {cell_id!r}, found: {found}{unread}")
        return records[0]

    @contextlib.contextmanager
    def begin(self, cell: Cell, force: bool = False) -> Iterator[Work]:
        """Work on a cell, alone. Leaving without `Work.commit` keeps the partial folder for the next run.

        Parameters
        ----------
        cell
            What to work on.
        force
            Replace a finished record; it stays in place until the new one is committed.

        Raises
        ------
        CellBusy
            If another process works on it.
        CellFinished
            If it is finished and `force` is not set. Failed and diverged cells run again.
        StoreError
            If the store cannot be written; also in place of an error of a full disk from within the block.
        """
        self.check_writable()
        final = self.folder(cell)
        partial = partial_path(final)
        with contextlib.ExitStack() as stack:
            try:
                final.parent.mkdir(parents=True, exist_ok=True)
                # Nothing of the cell is looked at before the lock is held: another process may just be putting its
                # record in place.
                stack.enter_context(locked(lock_path(final), str(cell)))
                recover(final)
                if not force and final.exists() and Record.load(final).finished:
                    raise CellFinished(f"{cell}: is finished already; use --force to replace it")
                work = Work(cell, partial, final)
            except OSError as error:
                raise explain(error, self.root) or StoreError(f"{final.parent}: {error}") from error
            try:
                yield work
            except StoreError:
                raise
            except Exception as error:
                explained = explain(error, partial)
                if explained:
                    raise explained from error
                raise

    def attach(self, record: Record, name: str, content: bytes) -> Path:
        """Add a file to a committed record, or replace it there, with its checksum; the record's fields stay.

        Raises
        ------
        CellBusy
            If another process works on the cell.
        StoreError
            If the record is not there any more, or cannot be written.
        """
        final = record.folder
        try:
            with locked(lock_path(final), record.cell_id):
                recover(final)
                if Record.load(final).fields != record.fields:
                    raise StoreError(f"{final} was replaced meanwhile; do it again")
                path = write_atomic(final / name, content)
                update_checksum(final, name)
        except OSError as error:
            raise explain(error, final) or StoreError(f"{final}: {error}") from error
        return path

    def scan(self) -> tuple[list[Record], list[str]]:
        """Return all records, by path, and one line for each folder that is not one."""
        records: list[Record] = []
        warnings: list[str] = []
        if not self.root.exists():
            return records, warnings
        if not self.root.is_dir():
            raise StoreError(f"{self.root}: is not a folder; use another --store")
        self._walk(self.root, 0, records, warnings)
        return records, warnings

    def timings(self) -> list[Path]:
        """Return the files of the timings in the store, by name."""
        return sorted((self.root / TIMINGS).glob("*.json"))

    def records(self, task: str | None = None, scale: str | None = None, **where: object) -> pd.DataFrame:
        """Return all records as a table, one row a cell, with the record's folder in the column ``folder``.

        Parameters
        ----------
        task, scale, where
            Keep the records whose fields have these values: ``records("coco", status="finished")``.

        Returns
        -------
        pandas.DataFrame
            Records of different methods have different ``p_*`` columns: what a record lacks is missing.
            Folders that are no record are logged and listed in ``.attrs["warnings"]``.
        """
        records, warnings = self.scan()
        for line in warnings:
            _log.warning("%s", line)
        return table(records, warnings, task=task, scale=scale, **where)

    def _recover_left(self, final: Path) -> None:
        """Recover if a replacement was cut in two; leave a store alone that is read-only or in use.

        Readers recover, too: a store that nobody writes to any more still shows its newest records.
        """
        if not ((partial_path(final) / "record.json").exists() or (old_path(final).exists() and not final.exists())):
            return
        with contextlib.suppress(OSError, StoreError), locked(lock_path(final), final.name):
            recover(final)

    # depth: 0 the store, 1 a task, 2 a scale, 3 a method, 4 a cell
    def _walk(self, folder: Path, depth: int, records: list[Record], warnings: list[str]) -> None:
        if depth == 4:
            try:
                records.append(Record.load(folder))
            except StoreError as error:
                warnings.append(str(error))
            return
        try:
            self._walk_into(folder, depth, records, warnings)
        except OSError as error:
            warnings.append(f"{folder}: cannot be read ({error.strerror}); its records are not shown")

    def _walk_into(self, folder: Path, depth: int, records: list[Record], warnings: list[str]) -> None:
        entries = sorted(folder.iterdir())
        if depth == 3:
            hidden = {entry.name for entry in entries if entry.name.startswith(".")}
            for name in hidden:
                self._recover_left(folder / name[1:].rpartition(".")[0])
            if hidden:
                entries = sorted(folder.iterdir())
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if (entry / "record.json").exists() and depth < 3:
                warnings.append(f"{entry}: a record outside <task>/<scale>/<method>/; move it to its place")
            elif entry.is_dir():
                self._walk(entry, depth + 1, records, warnings)
            elif depth == 3:
                warnings.append(f"{entry}: not a record; move it out of the store")
