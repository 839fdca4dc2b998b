"""Verifying a store: that every record is what was committed, file by file.

Reading a store checks the fields of each record. This reads everything else too, and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import StoreError
from benchmark.store.checksums import CHECKSUMS, read_checksums, sha256
from benchmark.store.record import Record
from benchmark.store.store import Store

__all__ = ["Verified", "verify"]

_NEEDED = ("cell.json", "layers.parquet", "images.parquet")  # weights and predictions may be left out, to save space


@dataclass(frozen=True)
class Verified:
    """What a check of a store found.

    Attributes
    ----------
    records
        How many records were read.
    problems
        One line each, with the path and the remedy; none if all is well.
    """

    records: int
    problems: list[str]


def verify(store: Store) -> Verified:
    """Check all records and timings of a store.

    Of each record: the fields; that the cell's id is the hash of its identity, and that both say the same; that each
    file is as it was committed. Weights and predictions may be missing. Of a record without checksums, which earlier
    versions wrote, the tables and the weights are read instead.

    Raises
    ------
    StoreError
        If the store is not a folder.
    """
    if not store.root.is_dir():
        raise StoreError(f"{store.root}: there is no such store")
    records, problems = store.scan()
    for record in records:
        problems += _problems(record)
    for path in store.timings():
        try:
            json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            problems.append(f"{path}: is no JSON; delete it, and time again")
    return Verified(len(records), problems)


def _problems(record: Record) -> Iterator[str]:
    try:
        _check_identity(record)
        if (record.folder / CHECKSUMS).exists():
            _check_checksums(record)
        else:
            _check_readable(record)
    except (OSError, ValueError) as error:
        yield f"{record.folder}: {error}; delete the folder to run the cell again"
    except StoreError as error:
        yield str(error)


def _check_identity(record: Record) -> None:
    text = (record.folder / "cell.json").read_text(encoding="utf-8")
    if hashlib.sha256(text.strip().encode()).hexdigest()[: len(record.cell_id)] != record.cell_id:
        raise ValueError("cell.json is not the identity of this cell")
    identity: Mapping[str, Any] = json.loads(text)
    stated = {**record.fields, "parameters": record.parameters}
    for name in ("task", "scale", "dataset_fingerprint", "method", "seed", "parameters"):
        if stated[name] != identity[name]:
            raise ValueError(f"record.json says {name} {stated[name]!r}, cell.json {identity[name]!r}")


def _check_checksums(record: Record) -> None:
    committed = read_checksums(record.folder)
    there = {path.relative_to(record.folder).as_posix() for path in record.folder.rglob("*") if path.is_file()}
    for name in sorted({*there, *_NEEDED} - {*committed, CHECKSUMS, "record.json"}):
        raise ValueError(f"{name} is not among the files that were committed")
    for name, digest in committed.items():
        path = record.folder / name
        if path.is_file():
            if sha256(path) != digest:
                raise ValueError(f"{name} is not as it was committed")
        elif name in _NEEDED:
            raise ValueError(f"{name} is missing")


def _check_readable(record: Record) -> None:
    if (record.folder / "layers.parquet").exists():
        record.layers()
    if (record.folder / "images.parquet").exists():
        record.images()
    for path in record.folder.glob("*.safetensors"):
        _check_weights(path)


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # reads the header, and compares it with the file's size
            pass
    except SafetensorError as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from None
