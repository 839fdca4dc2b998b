"""How a cell's new folder takes the place of its older one: by renames that a kill may cut in two.

The names of the folders beside a record are decided here; what lies in a folder is not.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmark.store.writing import sync

__all__ = ["lock_path", "old_path", "partial_path", "promote", "recover"]


def old_path(final: Path) -> Path:
    """Where the older record of a cell waits while the new one takes its place."""
    return final.with_name(f".{final.name}.old")


def partial_path(final: Path) -> Path:
    """Where a cell in progress is written."""
    return final.with_name(f".{final.name}.partial")


def lock_path(final: Path) -> Path:
    """The lock file of whoever works on the cell."""
    return final.with_name(f".{final.name}.lock")


def promote(partial: Path, final: Path) -> None:
    """Put a complete partial folder in its place. A kill between the two renames is mended by `recover`."""
    old = old_path(final)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
    os.rename(partial, final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(final: Path) -> None:
    """Finish or undo a replacement that a kill cut in two; the caller holds the lock."""
    partial, old = partial_path(final), old_path(final)
    if (partial / "record.json").exists():
        promote(partial, final)
    elif old.exists() and not final.exists():
        os.rename(old, final)
    shutil.rmtree(old, ignore_errors=True)
