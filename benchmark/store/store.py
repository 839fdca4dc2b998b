"""The results store: records, one folder a cell or packed together, written whole or not at all.

It finds, lists and locks. It knows no method, task or metric by name, and computes nothing from the results.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import StoreError
from benchmark.files import sync, write_atomic
from benchmark.store.cell import Cell
from benchmark.store.checksums import CHECKSUMS, read_checksums, sha256, update_checksum
from benchmark.store.errors import CellFinished, explain
from benchmark.store.locks import held_by, locked
from benchmark.store.pack import PACKED, RECORD, Pack, file_names, read_file
from benchmark.store.record import Record
from benchmark.store.replacing import incoming_path, lock_path, old_path, partial_path, promote, recover
from benchmark.store.tables import table
from benchmark.store.work import PROGRESS, Work

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DOCUMENTS", "TIMINGS", "Store", "is_there", "write_out"]

#: The folder of timings, in the store's root: one JSON file each.
TIMINGS = "timing"
#: The folders of JSON files in the store's root that are packed with its records: timings, the ``record.json`` of cells
#: that were run again, and the records of starting weights that were made again.
DOCUMENTS = (TIMINGS, "reproduced", "weights")

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
        return Record.load(final) if is_there(final) else None

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
        """Return the record whose cell id begins with `cell_id`, or did so before the store was migrated.

        Raises
        ------
        StoreError
            If there is none, or more than one.
        """
        scanned, broken = self.scan()
        records = [record for record in scanned if cell_id and record.cell_id.startswith(cell_id)] or [
            record for record in scanned if cell_id and any(old.startswith(cell_id) for old in record.former_ids)
        ]
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
                if not force and is_there(final) and Record.load(final).finished:
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
                if record.packed:
                    write_out(final, incoming_path(final))
                    promote(incoming_path(final), final)
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
        pack = self._pack(warnings)
        if pack is not None:
            there = {record.folder.parts[-4:] for record in records}
            for place in pack.records.keys() - there:
                # A folder that is there is newer; one that is broken was told of.
                if not self.root.joinpath(*place, RECORD).exists():
                    self._load(self.root.joinpath(*place), records, warnings)
            records.sort(key=lambda record: record.folder.parts[-4:])
        return records, warnings

    def _pack(self, warnings: list[str]) -> Pack | None:
        try:
            return Pack.of(self.root)
        except StoreError as error:
            warnings.append(f"{error}; its records are not shown")
            return None

    def documents(self, folder: str) -> dict[Path, bytes]:
        """Return the JSON files of one of the folders `DOCUMENTS`, by their path, in its order; packed ones too.

        A file that is there counts before a packed one of its name.

        Raises
        ------
        StoreError
            If a file, or the pack, cannot be read.
        """
        pack = Pack.of(self.root)
        packed = {} if pack is None else pack.documents
        found = {self.root / name: content for name, content in packed.items() if name.startswith(f"{folder}/")}
        for path in (self.root / folder).rglob("*.json"):
            try:
                found[path] = path.read_bytes()
            except OSError as error:
                raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
        return dict(sorted(found.items()))

    def timings(self) -> dict[Path, bytes]:
        """Return the timings in the store: the content of each file, by its path."""
        return self.documents(TIMINGS)

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
            # What packing left of a folder that it took in is no record and no error.
            if (folder / RECORD).exists() or not self._is_packed(folder):
                self._load(folder, records, warnings)
            return
        try:
            self._walk_into(folder, depth, records, warnings)
        except OSError as error:
            warnings.append(f"{folder}: cannot be read ({error.strerror}); its records are not shown")

    @staticmethod
    def _is_packed(folder: Path) -> bool:
        with contextlib.suppress(StoreError):
            return Pack.find(folder) is not None
        return False

    @staticmethod
    def _load(folder: Path, records: list[Record], warnings: list[str]) -> None:
        try:
            records.append(Record.load(folder))
        except StoreError as error:
            warnings.append(str(error))

    def _walk_into(self, folder: Path, depth: int, records: list[Record], warnings: list[str]) -> None:
        entries = sorted(folder.iterdir())
        if depth == 3:
            hidden = {entry.name for entry in entries if entry.name.startswith(".")}
            for name in hidden:
                self._recover_left(folder / name[1:].rpartition(".")[0])
            if hidden:
                entries = sorted(folder.iterdir())
        for entry in entries:
            if entry.name.startswith(".") or (depth == 0 and entry.name == PACKED):
                continue
            if (entry / "record.json").exists() and depth < 3:
                warnings.append(f"{entry}: a record outside <task>/<scale>/<method>/; move it to its place")
            elif entry.is_dir():
                self._walk(entry, depth + 1, records, warnings)
            elif depth == 3:
                warnings.append(f"{entry}: not a record; move it out of the store")


def is_there(final: Path) -> bool:
    """Whether a cell has something that counts as its record, whole or broken: a folder, or a packed record."""
    return final.exists() or Pack.find(final) is not None


def write_out(folder: Path, copy: Path, names: Iterable[str] | None = None) -> None:
    """Write the files of a packed record into a new folder, with checksums of what is written.

    Parameters
    ----------
    folder
        The record's, where it would lie.
    names
        Which files; all, if not given.
    """
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in file_names(folder) if names is None else names:
        place = copy / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(read_file(folder, name))
        sync(place)
    # Tables are the same to the last value; their bytes are those of the library that writes them now.
    if (copy / CHECKSUMS).exists():
        committed = read_checksums(copy)
        for name in committed:
            if name.endswith(".parquet") and (copy / name).exists() and sha256(copy / name) != committed[name]:
                update_checksum(copy, name)
    sync(copy)
