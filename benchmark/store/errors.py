"""What goes wrong with a store, each in one line that names the place and the remedy."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from benchmark.errors import StoreError

__all__ = ["CellBusy", "CellFinished", "explain"]

_ALMOST_NO_SPACE = 1 << 20  # bytes: a failed write with less free space than this is a full disk


class CellBusy(StoreError):
    """Somebody else is working on the cell."""


class CellFinished(StoreError):
    """The cell has a finished record and was not to be replaced."""


def explain(error: BaseException, path: Path) -> StoreError | None:
    """Return one line with the remedy, if `error` says that the store cannot be written; None otherwise."""
    code = error.errno if isinstance(error, OSError) else None
    full = code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
    if not full and isinstance(error, OSError | RuntimeError):
        # torch and safetensors report a full disk without its error number
        with contextlib.suppress(OSError):
            full = shutil.disk_usage(path if path.exists() else path.parent).free < _ALMOST_NO_SPACE
    if full:
        return StoreError(f"{path}: no space left on the disk; free some or use another --store")
    name = error.filename if isinstance(error, OSError) else None
    if code not in (errno.EACCES, errno.EPERM, errno.EROFS) or not str(name).startswith(str(path)):
        return None  # an error of the work itself, not of the store
    reason = os.strerror(code)
    return StoreError(f"{path}: cannot be written ({reason}); make it writable or use another --store")
