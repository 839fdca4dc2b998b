"""Digests of files' contents, kept from one command to the next: what a data set's fingerprint is made of.

A digest is read again from the cache only while size, times and inode of its file are as they were. So one pass over a
set reads every byte, and the next one asks the file system alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmark.cores import usable_cores
from benchmark.errors import DataError
from benchmark.files import cache_folder, write_atomic

__all__ = ["State", "digest_files", "kept_digests", "state_of"]

#: The folder of kept digests, in the cache: one file for each folder or archive of a data set.
_KEPT = "digests"
_BYTES = 16
#: A file changed this short a time ago may be changed again without a trace in its times; seconds.
_SETTLED = 2.0
#: More than this takes long enough for somebody to ask what is going on; bytes.
_MUCH = 2e9

_log = logging.getLogger(__name__)

#: Size in bytes, times of change of content and of inode in nanoseconds, and number of the inode.
State: TypeAlias = tuple[int, int, int, int]


def digest_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Return a digest of the content of each named file below a folder, from the cache where the file is unchanged.

    Parameters
    ----------
    folder
        Under its path, digests are kept in the cache.
    names
        Paths below it, with ``/``.

    Returns
    -------
    list of str
        32 hexadecimal digits each.

    Raises
    ------
    DataError
        Naming a file that is missing or cannot be read.

    Examples
    --------
    >>> digest_files(Path("my-set/train2017"), ["000009.jpg", "000025.jpg"])
    ['3f0a…', '99b1…']
    """
    paths = [os.path.join(folder, name) for name in names]
    return kept_digests(folder, names, [state_of(path) for path in paths], lambda index: _digest(paths[index]))


def kept_digests(
    place: Path, names: Sequence[str], states: Sequence[State], digest: Callable[[int], bytes], threads: bool = True
) -> list[str]:
    """Return digests by index, from the cache where the state is the kept one, and keep what had to be computed.

    Parameters
    ----------
    place
        What the names lie in: digests are kept under its resolved path.
    digest
        Called with an index; 16 bytes.
    threads
        Whether it may be called by several threads at once.
    """
    path = cache_folder() / _KEPT / f"{hashlib.blake2b(os.fsencode(place.resolve()), digest_size=12).hexdigest()}.npz"
    kept, now = _read(path), dict(zip(names, states, strict=True))
    found = {name: kept[name][1] for name, state in now.items() if name in kept and kept[name][0] == state}
    wanted = [index for index, name in enumerate(names) if name not in found]
    if not wanted:
        return [found[name].hex() for name in names]
    size = sum(states[index][0] for index in wanted)
    if size > _MUCH:
        _log.warning("read %d files of %s once, to know them again: %.0f GB", len(wanted), place, size / 1e9)
    began = time.time()
    try:
        # Hashing and reading release the interpreter.
        with ThreadPoolExecutor(usable_cores() if threads else 1) as pool:
            for index, content in zip(wanted, pool.map(digest, wanted), strict=True):
                found[names[index]] = content
    finally:  # also of a pass that is interrupted: on ImageNet it takes minutes
        settled = {name for name, (_, *times, _) in now.items() if began - max(times) / 1e9 > _SETTLED}
        _write(path, {**kept, **{name: (now[name], found[name]) for name in settled & found.keys()}})
    return [found[name].hex() for name in names]


def state_of(path: str | Path) -> State:
    """Return what changes with a file's content.

    Raises
    ------
    DataError
        For a file that is not there.
    """
    try:
        here = os.stat(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; make it readable or fetch it again") from error
    return here.st_size, here.st_mtime_ns, here.st_ctime_ns, here.st_ino


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=_BYTES)).digest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; make it readable or fetch it again") from error


def _read(path: Path) -> dict[str, tuple[State, bytes]]:
    """Return the kept digests with the state of their files, by name; none where the file is missing or broken."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            names = bytes(stored["names"]).decode("utf-8", "surrogateescape").split("\n")
            states, digests = stored["states"], stored["digests"]
        if states.shape != (len(names), 4) or digests.shape != (len(names), _BYTES) or states.dtype != np.int64:
            return {}
        return {
            name: (tuple(state), digest.tobytes())
            for name, state, digest in zip(names, states.tolist(), digests, strict=True)
        }
    except Exception:  # of bytes that nobody has foreseen: what is kept can be made again
        return {}


def _write(path: Path, kept: dict[str, tuple[State, bytes]]) -> None:
    """Keep digests; names that hold a line's end are left out, and so is everything where nothing can be written."""
    kept = {name: known for name, known in kept.items() if "\n" not in name}
    if not kept:
        return
    stored = io.BytesIO()
    states: NDArray[np.int64] = np.array([state for state, _ in kept.values()], np.int64)
    np.savez(
        stored,
        names=np.frombuffer("\n".join(kept).encode("utf-8", "surrogateescape"), np.uint8),
        states=states,
        digests=np.frombuffer(b"".join(content for _, content in kept.values()), np.uint8).reshape(-1, _BYTES),
    )
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, stored.getvalue())
