"""Locks that keep two processes, or two threads, off the same cell.

A lock says who holds it, and nothing about what is done under it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.errors import StoreError
from benchmark.store.errors import CellBusy
from benchmark.store.provenance import timestamp

__all__ = ["held_by", "locked"]

_NO_LOCKS_HERE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


# Why FileLock, which is flock, and not SoftFileLock, which is a marker file: the kernel gives a flock up when its
# process dies, so no lock is ever stale. A marker outlives a killed process, and nobody can tell from another machine
# whether its process still runs: each killed job of a cluster would need a person to remove its marker. On NFS, Linux
# turns flock into a lock on the server (since 2.6.12), which holds between machines and ends with the client's lease.
# Where a file system has no flock at all, we refuse; filelock would fall back to markers.
#
# filelock also closes the lock's descriptor in forked children. A flock belongs to the open file, which children
# share: a data loader's worker that outlives a killed run would otherwise hold the run's lock on.
@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, made if need be; it stays, empty, when the lock is released.

    Parameters
    ----------
    path
        The lock file. Its folder must be there.
    what
        What the lock protects, for the message.

    Raises
    ------
    CellBusy
        If somebody else holds it, this thread included: nobody waits. The message names the holder.
    StoreError
        If the file system cannot lock files.
    OSError
        If the lock file cannot be made.
    """
    # The file is never removed: whoever opened it before the removal would lock a file without a name while the next
    # one locks a new file. (filelock notices that on a local disk. NFS hides it, by renaming files that are open.)
    lock = FileLock(
        path,
        blocking=False,
        fallback_to_soft=False,
        preserve_lock_file=True,
        on_acquired=_sign,
        thread_local=False,
    )
    # With the mode of any other file: filelock's own would keep a group out of a store that it shares.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        lock.acquire()
    except Timeout:
        holder = _signature(path) or "unknown"
        raise CellBusy(
            f"{what}: another process is working on it ({holder}); wait for it or end it, then start again"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        raise StoreError(
            f"{path}: this file system does not lock files ({error.strerror}); use another --store"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # only for the next reader's sake
            os.truncate(path, 0)
        lock.release()


def held_by(path: Path) -> str | None:
    """Return who holds the lock file `path`, as the holder signed it; None where nobody does.

    It may answer None for a lock that is being taken at this moment.
    """
    signed = _signature(path)
    if not signed:
        return None
    # Only a lock with a signature is tried: of a holder, who is not disturbed, or of one that was killed.
    lock = FileLock(path, blocking=False, fallback_to_soft=False, preserve_lock_file=True, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, OSError):  # held, or in a store that is read-only: then the signature is all that is known
        return signed
    lock.release()
    return None


def _sign(descriptor: int) -> None:
    # Through the lock's own descriptor: where flock is emulated by record locks, closing any other descriptor of the
    # file would release the lock.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()} since {timestamp()}".encode(), 0)


def _signature(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")[:200].strip()
    return ""
