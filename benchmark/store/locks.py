"""Locks that keep two processes off the same cell."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from benchmark.errors import StoreError
from benchmark.store.provenance import timestamp

__all__ = ["CellBusy", "locked"]


class CellBusy(StoreError):
    """Another process is working on the cell."""


_held: set[int] = set()


def _close_inherited() -> None:
    # A data loader's worker that outlives a killed run must not go on holding the run's locks.
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; the kernel gives it up when the process dies, so no lock is ever stale."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise CellBusy(
                    f"{what}: another process is working on it ({holder}); wait for it or end it, then start again"
                ) from None
            raise StoreError(
                f"{path}: this file system does not lock files ({error.strerror}); use another --store"
            ) from error
        # The last holder removes the file; who then locked the removed one holds nothing and tries again.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)
    _held.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()} since {timestamp()}".encode(), 0)
        yield
    finally:
        _held.discard(descriptor)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
