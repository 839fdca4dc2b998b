"""Files that are whole or not there: the one way in which the project writes what must never be torn.

It serves records, weights, timings and reports alike, and knows none of them. A file within a folder that is itself
put in place by a rename needs none of this; see `benchmark.store.replacing`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["REFERENCE", "TEMPORARY", "atomic_path", "cache_folder", "reference_folder", "sync", "write_atomic"]

#: Pattern of the temporary files that a killed process may leave; nobody reads them.
TEMPORARY = ".*.tmp"
#: The project's own records, in a checkout.
REFERENCE = Path("results/reference")


def cache_folder() -> Path:
    """Return where embedded sets and weights are kept: ``$SAIBENCH_CACHE``, else ``~/.cache/saibench``."""
    return Path(os.environ.get("SAIBENCH_CACHE") or Path.home() / ".cache" / "saibench").expanduser()


def reference_folder(checkout: Path = Path()) -> Path:
    """Return where the project's own records are: ``$SAIBENCH_REFERENCE``, else `REFERENCE` of a checkout."""
    given = os.environ.get("SAIBENCH_REFERENCE")
    return Path(given).expanduser() if given else checkout / REFERENCE


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on leaving without an error it becomes `path`, in one step.

    Whoever reads meanwhile finds the old file, or none, or the whole new one. On an error the old file stays and the
    temporary one is removed.

    Raises
    ------
    OSError
        If the folder is missing or cannot be written.

    Examples
    --------
    >>> with atomic_path(folder / "model.safetensors") as temporary:
    ...     write_tensors(weights, temporary)
    """
    # In the same folder, because only there a rename is one step. A name of its own for each writer, because two
    # reports may be written at once; shortened, because the longest allowed name leaves no room for a suffix.
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        # The content goes to the disk before the name does: many file systems write a rename first, and after a
        # power cut the name would stand on an empty file.
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Write a text (as UTF-8) or bytes whole or not at all, and return the path; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
