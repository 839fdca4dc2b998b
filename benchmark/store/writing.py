"""What writing to a store needs: files whole or not at all, on the disk, and errors in one line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

from benchmark.errors import StoreError

__all__ = ["explain", "sync", "write_json"]

_ALMOST_NO_SPACE = 1 << 20  # bytes: a failed write with less free space than this is a full disk


def explain(error: BaseException, path: Path) -> StoreError | None:
    """One line with the remedy, if `error` says that the store cannot be written; None otherwise."""
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


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Write whole or not at all: a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
