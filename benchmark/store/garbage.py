"""Collecting garbage: what killed runs and merges left in a store, and no later run needs.

Records are never removed, broken ones neither: that is for people to decide.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.errors import StoreError
from benchmark.files import TEMPORARY
from benchmark.store.errors import explain
from benchmark.store.locks import locked
from benchmark.store.record import Record
from benchmark.store.replacing import incoming_path, lock_path, old_path, partial_path, recover
from benchmark.store.store import TIMINGS, Store

__all__ = ["Garbage", "collect_garbage"]

_CELL_ID = re.compile("[0-9a-f]{12}")
_DAY = 24 * 3600  # seconds; a temporary file that is younger may be one that is being written


@dataclass
class Garbage:
    """What was collected.

    Attributes
    ----------
    removed
        What is gone, or would be.
    size
        Its size in bytes.
    unfinished
        Cells in progress that are kept, because a later run resumes them.
    busy
        One line for each cell that is in use and was left alone.
    """

    removed: list[Path] = field(default_factory=list)
    size: int = 0
    unfinished: list[Path] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)


def collect_garbage(store: Store, unfinished: bool = False, dry_run: bool = False) -> Garbage:
    """Remove what no later run needs.

    That is: replaced records and copies that a kill left, cells in progress whose record is finished, and temporary
    files older than a day. Cells that are in use are left alone, so runs may go on meanwhile.

    Parameters
    ----------
    unfinished
        Remove also what interrupted runs left to be resumed: of cells that nobody will run again, because the code or
        the recipe changed.
    dry_run
        Remove nothing, and return what would be.

    Raises
    ------
    StoreError
        If the store is not a folder, or something in it cannot be removed.
    """
    if not store.root.is_dir():
        raise StoreError(f"{store.root}: there is no such store")
    found = Garbage()
    try:
        for final in _left_behind(store):
            try:
                with locked(lock_path(final), final.name):
                    _collect(final, found, unfinished, dry_run)
            except StoreError as error:
                found.busy.append(str(error))
        for path in (store.root / TIMINGS).glob(TEMPORARY):
            if time.time() - path.stat().st_mtime > _DAY:
                _remove(path, found, dry_run)
    except OSError as error:
        raise explain(error, store.root) or StoreError(f"{store.root}: {error}") from error
    return found


def _left_behind(store: Store) -> Iterator[Path]:
    """Give the places of the cells that left something beside their records."""
    for folder in sorted(store.root.glob("[!.]*/[!.]*/[!.]*")):
        names = {path.name[1:].rpartition(".")[0] for path in folder.glob(".*.*")}
        yield from (folder / name for name in sorted(names) if _CELL_ID.fullmatch(name))


def _collect(final: Path, found: Garbage, unfinished: bool, dry_run: bool) -> None:
    partial, old = partial_path(final), old_path(final)
    if final.exists():  # otherwise the older record is the only one, and `recover` puts it back
        _remove(old, found, dry_run)
    if not dry_run:
        recover(final)
    elif (partial / "record.json").exists():
        return  # a whole record, which the next reader puts in its place
    # Earlier versions kept their locks beside the records.
    for path in (incoming_path(final), final.with_name(f".{final.name}.lock")):
        _remove(path, found, dry_run)
    if unfinished or _is_finished(final):
        _remove(partial, found, dry_run)
    elif partial.exists():
        found.unfinished.append(partial)


def _is_finished(final: Path) -> bool:
    try:
        return Record.load(final).finished
    except StoreError:
        return False


def _remove(path: Path, found: Garbage, dry_run: bool) -> None:
    if not path.exists():
        return
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    found.size += sum(each.lstat().st_size for each in files)
    found.removed.append(path)
    if dry_run:
        return
    if path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)
