"""How a cell's new folder takes the place of its older one: by renames that a kill may cut in two.

The names of what lies beside a record are decided here; what lies in its folder is not.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmark.files import sync

__all__ = ["LOCKS", "incoming_path", "lock_path", "old_path", "partial_path", "promote", "recover"]

#: The folder of all lock files, in the store's root: they outlive their locks and would clutter the records' folders.
LOCKS = ".locks"


def old_path(final: Path) -> Path:
    """Where the older record of a cell waits while the new one takes its place."""
    return final.with_name(f".{final.name}.old")


def partial_path(final: Path) -> Path:
    """Where a cell in progress is written."""
    return final.with_name(f".{final.name}.partial")


def incoming_path(final: Path) -> Path:
    """Where a record from another store is copied to; a copy cut off is not continued, unlike a cell in progress."""
    return final.with_name(f".{final.name}.incoming")


def lock_path(final: Path, make: bool = True) -> Path:
    """The lock file of whoever works on the cell; its folder is made here, unless it is only to be read."""
    folder = final.parents[3] / LOCKS
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    return folder / final.name


def promote(complete: Path, final: Path) -> None:
    """Put a complete folder in its place; the caller holds the lock.

    No call of the system exchanges two folders everywhere, so an older record steps aside first. A kill can leave:
    nothing renamed (the older record stands, `complete` waits); the older one aside and no record (`recover` puts the
    new one in place, or the older one back); or both renamed, with the older one to be removed. Never is there no
    whole record of a cell that had one.
    """
    old = old_path(final)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)  # of an earlier kill, after its second rename
        os.rename(final, old)
    os.rename(complete, final)
    # The new name must be on the disk before the older record is removed from it. The folders above may be new too.
    for folder in final.parents[:4]:
        sync(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover(final: Path) -> None:
    """Finish or undo a replacement that a kill cut in two; the caller holds the lock."""
    partial, old = partial_path(final), old_path(final)
    if (partial / "record.json").exists():
        # `Work.commit` writes record.json last, so the folder is complete: the kill came between that and the rename.
        promote(partial, final)
    elif old.exists() and not final.exists():
        os.rename(old, final)
    shutil.rmtree(old, ignore_errors=True)
