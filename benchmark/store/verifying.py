"""Verifying a store: that every record is what was committed, file by file.

Reading a store checks the fields of each record. This reads everything else too, and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import StoreError
from benchmark.store.checksums import CHECKSUMS, parse_checksums, read_checksums, sha256
from benchmark.store.pack import PACKED, RECORD, Pack
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
    problems += _packed_problems(store)
    for path, content in store.timings().items():
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            problems.append(f"{path}: is no JSON; delete it, and time again")
    return Verified(len(records), problems)


def _problems(record: Record) -> Iterator[str]:
    try:
        _check_identity(record)
        if record.packed:
            _check_packed(record)
        elif (record.folder / CHECKSUMS).exists():
            _check_checksums(record)
        else:
            _check_readable(record)
    except (OSError, ValueError) as error:
        remedy = "unpack the store and delete" if record.packed else "delete"
        yield f"{record.folder}: {error}; {remedy} the folder to run the cell again"
    except StoreError as error:
        yield str(error)


def _check_identity(record: Record) -> None:
    text = record.read("cell.json").decode()
    if hashlib.sha256(text.strip().encode()).hexdigest()[: len(record.cell_id)] != record.cell_id:
        raise ValueError("cell.json is not the identity of this cell")
    identity: Mapping[str, Any] = json.loads(text)
    stated = {**record.fields, "parameters": record.parameters}
    for name in ("task", "scale", "dataset_fingerprint", "method", "seed", "parameters"):
        if stated[name] != identity[name]:
            raise ValueError(f"record.json says {name} {stated[name]!r}, cell.json {identity[name]!r}")


def _needed(record: Record) -> Sequence[str]:
    """Return which files a record has at least; a cell that failed has no tables."""
    return _NEEDED if record.finished else _NEEDED[:1]


def _check_checksums(record: Record) -> None:
    committed = read_checksums(record.folder)
    there = {path.relative_to(record.folder).as_posix() for path in record.folder.rglob("*") if path.is_file()}
    for name in sorted({*there, *_needed(record)} - {*committed, CHECKSUMS, RECORD}):
        raise ValueError(f"{name} is not among the files that were committed")
    for name, digest in committed.items():
        path = record.folder / name
        if path.is_file():
            if sha256(path) != digest:
                raise ValueError(f"{name} is not as it was committed")
        elif name in _needed(record):
            raise ValueError(f"{name} is missing")


def _packed_problems(store: Store) -> list[str]:
    """Say which files of a store's pack are not as they were packed."""
    folder = store.root / PACKED
    if not folder.exists():
        return []
    try:
        committed = read_checksums(folder)
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {CHECKSUMS}
        found = [f"{name} is not among the packed files" for name in sorted(there - committed.keys())]
        for name, digest in committed.items():
            if name not in there:
                found.append(f"{name} is missing")
            elif sha256(folder / name) != digest:
                found.append(f"{name} is not as it was packed")
    except (OSError, ValueError) as error:
        found = [str(error)]
    return [f"{folder}: {each}; fetch the folder again" for each in found]


def _check_packed(record: Record) -> None:
    """Check a packed record: its files by their checksums, its tables by their values.

    A table's bytes are those of the library that wrote it; what is packed are its values, types and notes, and their
    digest.
    """
    found = Pack.find(record.folder)
    if found is None:  # it was unpacked meanwhile
        return
    from benchmark.store.columns import digest

    pack, packed = found
    committed = parse_checksums(packed.texts.get(CHECKSUMS, ""))
    for name in sorted({*packed.names, *_needed(record)} - {*committed, CHECKSUMS, RECORD}) if committed else ():
        raise ValueError(f"{name} is not among the files that were committed")
    for name in packed.names:
        if name in packed.tables:
            if digest(pack.table(packed, name)) != packed.tables[name]["digest"]:
                raise ValueError(f"{name} is not as it was packed")
        elif name in committed and hashlib.sha256(pack.read(packed, name)).hexdigest() != committed[name]:
            raise ValueError(f"{name} is not as it was committed")
    for name in _needed(record):
        if name in committed and name not in packed.names:
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
