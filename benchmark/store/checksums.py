"""The checksums of a record's files, in the format of ``sha256sum``: ``sha256sum -c checksums.sha256`` checks them too.

``record.json`` is not among them, because it is written last.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmark.files import write_atomic

__all__ = [
    "CHECKSUMS",
    "forget_missing",
    "parse_checksums",
    "read_checksums",
    "sha256",
    "update_checksum",
    "write_checksums",
]

CHECKSUMS = "checksums.sha256"


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a folder."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if name not in (CHECKSUMS, "record.json")]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def update_checksum(folder: Path, name: str) -> None:
    """Write the checksum of one file anew; those of the others stay. An older record without checksums gets none."""
    if (folder / CHECKSUMS).exists():
        _rewrite(folder, read_checksums(folder) | {name: sha256(folder / name)})


def forget_missing(folder: Path) -> None:
    """Drop the checksums of files that a copy of a record left out."""
    if (folder / CHECKSUMS).exists():
        _rewrite(folder, {name: digest for name, digest in read_checksums(folder).items() if (folder / name).exists()})


def _rewrite(folder: Path, checksums: dict[str, str]) -> None:
    lines = [f"{digest}  {name}\n" for name, digest in sorted(checksums.items())]
    write_atomic(folder / CHECKSUMS, "".join(lines))


def read_checksums(folder: Path) -> dict[str, str]:
    """Return each file's checksum by its name.

    Raises
    ------
    ValueError
        If the file is not as `write_checksums` writes it.
    """
    return parse_checksums((folder / CHECKSUMS).read_text(encoding="utf-8"))


def parse_checksums(text: str) -> dict[str, str]:
    """Return each file's checksum by its name, from the text of a file of checksums; see `read_checksums`."""
    found = {}
    for line in text.splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64 or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{CHECKSUMS} is broken")
        found[name] = digest
    return found


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
