"""Packing a store's records into a few tables, and unpacking them again.

`benchmark.store.pack` says what lies where, and reads it. A packing is written under another name, read back and
compared with what it was made from, and then put in place by renames: a kill at any moment loses neither folders nor
the older pack, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import StoreError
from benchmark.files import sync, write_atomic
from benchmark.store import columns
from benchmark.store.checksums import read_checksums, sha256, write_checksums
from benchmark.store.errors import CellBusy, explain
from benchmark.store.locks import locked
from benchmark.store.merging import merge
from benchmark.store.pack import PACKED, RECORD, TEXTS, Pack, Packed, read_arrow
from benchmark.store.record import Record
from benchmark.store.replacing import incoming_path, lock_path, promote
from benchmark.store.store import DOCUMENTS, Store, write_out

__all__ = ["Packing", "pack", "unpack"]

_PART = 1 << 24  # bytes of contents that are compressed and read together


@dataclass
class Packing:
    """What a packing or an unpacking did.

    Attributes
    ----------
    records
        How many records are packed, or were unpacked.
    folded
        How many of them came from folders.
    size
        Bytes of the packed files.
    warnings
        One line for each folder that was left as it is: broken, in use, or changed meanwhile.
    """

    records: int = 0
    folded: int = 0
    size: int = 0
    warnings: list[str] = field(default_factory=list)


def pack(store: str | os.PathLike[str], into: str | os.PathLike[str] | None = None) -> Packing:
    """Pack the records of a store, and the timings and other documents beside them.

    Records in folders are folded into the pack that is there. It may be stopped at any moment and started again.

    Parameters
    ----------
    store
        The store.
    into
        Another store to write the pack to, which keeps what it has; `store` then stays as it is. In place, if not
        given: folders are removed once they are packed.

    Raises
    ------
    StoreError
        If the store is not there, is being packed, holds a broken pack, or cannot be written.

    Examples
    --------
    >>> pack("results/runs", into="packed-results").records
    775
    """
    source = Store(store)
    target = source if into is None else Store(into)
    if not source.root.is_dir():
        raise StoreError(f"{source.root}: there is no such store to pack")
    target.check_writable()
    with _alone(target), _explained(target):
        _recover(target)
        _check_pack(target)
        return _pack(source, target)


def _pack(source: Store, target: Store) -> Packing:
    records, warnings = target.scan()
    documents = _documents(target)
    if source is not target:
        chosen = {record.folder.parts[-4:]: record for record in records}
        others, more = source.scan()
        for record in others:
            known = chosen.get(record.folder.parts[-4:])
            if known is None or (record.finished and not known.finished):
                chosen[record.folder.parts[-4:]] = record
        records, warnings = list(chosen.values()), warnings + more
        documents = _documents(source) | documents
    done = Packing(len(records), sum(not record.packed for record in records), 0, warnings)
    before = Pack.of(target.root)
    new = [record for record in records if _is_new(record, before)]
    if new or before is None or before.documents != documents:
        partial = _partial(target)
        _write(records, documents, partial, before)
        _check(Pack(partial), new, documents)
        _sync(partial)
        promote(partial, target.root / PACKED)
    _remove_folders(target, done)
    done.size = sum(path.stat().st_size for path in (target.root / PACKED).rglob("*") if path.is_file())
    return done


def _is_new(record: Record, before: Pack | None) -> bool:
    """Whether a record is not in the pack yet, as it is."""
    found = None if before is None else before.records.get(record.folder.parts[-4:])
    return found is None or _changed(record.folder, found)


def _changed(folder: Path, found: Packed) -> bool:
    """Whether a record's folder, where there is one, is not what was packed of it: by its text and checksums."""
    return (folder / RECORD).exists() and any(
        not (folder / name).is_file() or (folder / name).read_bytes() != text.encode()
        for name, text in found.texts.items()
    )


def _partial(target: Store) -> Path:
    return target.root / f".{PACKED}.partial"


def _recover(target: Store) -> None:
    """Undo a packing that was killed: what was half written goes, and the older pack comes back."""
    shutil.rmtree(_partial(target), ignore_errors=True)
    final, old = target.root / PACKED, target.root / f".{PACKED}.old"
    if old.exists() and not final.exists():
        os.rename(old, final)
    shutil.rmtree(old, ignore_errors=True)


def _check_pack(target: Store) -> None:
    """Refuse to build on a pack that is not as it was packed."""
    folder = target.root / PACKED
    if not folder.exists():
        return
    try:
        broken = next((name for name, digest in read_checksums(folder).items() if sha256(folder / name) != digest), "")
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder}: cannot be read ({error}); fetch the folder again") from error
    if broken:
        raise StoreError(f"{folder}: {broken} is not as it was packed; fetch the folder again")


def _documents(store: Store) -> dict[str, bytes]:
    return {
        path.relative_to(store.root).as_posix(): content
        for folder in DOCUMENTS
        for path, content in store.documents(folder).items()
    }


def _group(record: Record) -> Path:
    """Return the folder of a record's tables, within the pack."""
    fingerprint = hashlib.sha256(str(record["dataset_fingerprint"]).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9_.+-]", "-", str(record["dataset"]))[:80].lstrip(".")
    return Path(record["task"], record["scale"], f"{name}-{fingerprint}")


def _order(record: Record) -> tuple[str, ...]:
    """Put records that are alike side by side, which compresses best."""
    parameters = json.dumps(record.parameters, sort_keys=True)
    return str(record["method"]), parameters, f"{record['seed']:020}", record.cell_id


def _write(records: Sequence[Record], documents: Mapping[str, bytes], folder: Path, before: Pack | None) -> None:
    groups: dict[Path, list[Record]] = {}
    for record in sorted(records, key=_order):
        groups.setdefault(_group(record), []).append(record)
    folder.mkdir(parents=True)
    with _Contents(folder / "files.parquet") as contents:
        for place, group in sorted(groups.items()):
            _write_group(group, folder / place, contents, before)
    if documents:
        names = sorted(documents)
        table = pa.table({"name": names, "content": pa.array([documents[name] for name in names], pa.large_binary())})
        _write_texts(table, folder / "documents.parquet")
    write_checksums(folder)


def _write_group(records: Sequence[Record], folder: Path, contents: _Contents, before: Pack | None) -> None:
    folder.mkdir(parents=True)
    schemas: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    tables: dict[str, dict[str, pa.Table]] = {}
    for record in records:
        row: dict[str, Any] = {"files": {}, "tables": {}}
        for name in record.names:
            table = _table(record, name)
            if table is not None:
                text = columns.described(table) or ""
                tables.setdefault(name, {})[record.cell_id] = table
                about = {"rows": len(table), "digest": columns.digest(table)}
                row["tables"][name] = {**about, "columns": schemas.setdefault(text, len(schemas))}
            elif name not in TEXTS.values():
                row["files"][name] = contents.add(record.read(name))
        rows.append(row)
    for name, parts in tables.items():
        _write_table(records, name, parts, folder, before)
    texts = {
        column: [record.read(name).decode() if record.has(name) else None for record in records]
        for column, name in TEXTS.items()
    }
    known = {
        name: [str(record[name]) for record in records]
        for name in ("cell_id", "task", "scale", "dataset", "method", "status")
    }
    described = {name: [json.dumps(row[name], sort_keys=True) for row in rows] for name in ("tables", "files")}
    # The same for all, and in the first row alone: metadata of a Parquet file is not compressed.
    kinds = [json.dumps(list(schemas)), *[None] * (len(records) - 1)]
    table = {**known, "seed": [record["seed"] for record in records], **texts, **described, "columns": kinds}
    _write_texts(pa.table(table), folder / "records.parquet")


def _table(record: Record, name: str) -> pa.Table | None:
    """Return one of a record's files as a table that can be packed; None for any other file."""
    if not name.endswith(".parquet") or "/" in name:
        return None
    with contextlib.suppress(OSError, ValueError, pa.ArrowException):  # a broken one is packed as it is
        table = read_arrow(record.folder, name)
        if table is None:
            table = pq.ParquetFile(record.folder / name).read()
        return None if columns.described(table) is None else table
    return None


def _write_table(
    records: Sequence[Record], name: str, parts: Mapping[str, pa.Table], folder: Path, before: Pack | None
) -> None:
    """Write the rows of one table of all records; what is packed already, of the same records, is copied."""
    found = [Pack.find(record.folder) for record in records if record.cell_id in parts and record.packed]
    older = {each.group for pack, each in filter(None, found) if pack is before}
    if before is not None and len(found) == len(parts) and len(older) == 1:
        (place,) = older
        if sum(each.group == place and name in each.tables for each in before.records.values()) == len(parts):
            shutil.copyfile(place / name, folder / name)
            return
    columns.write(columns.joined(parts), folder / name)


def _write_texts(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=False, write_statistics=False,
                   data_page_size=1 << 30)  # fmt: skip


class _Contents:
    """The file of contents by their hash, each once, written part by part."""

    _SCHEMA = pa.schema([("sha256", pa.string()), ("content", pa.large_binary())])

    def __init__(self, path: Path) -> None:
        self._known: set[str] = set()
        self._waiting: list[tuple[str, bytes]] = []
        self._writer = pq.ParquetWriter(
            path, self._SCHEMA, compression="zstd", compression_level=19, use_dictionary=False, write_statistics=False,
            data_page_size=1 << 30,
        )  # fmt: skip

    def __enter__(self) -> _Contents:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, content: bytes) -> str:
        """Keep a content; return its hash."""
        name = hashlib.sha256(content).hexdigest()
        if name not in self._known:
            self._known.add(name)
            self._waiting.append((name, content))
            if sum(len(each) for _, each in self._waiting) > _PART:
                self._flush()
        return name

    def _flush(self) -> None:
        if self._waiting:
            names, contents = zip(*self._waiting, strict=True)
            self._writer.write_table(pa.table([list(names), pa.array(contents, pa.large_binary())], self._SCHEMA))
            self._waiting = []


def _check(written: Pack, records: Iterable[Record], documents: Mapping[str, bytes]) -> None:
    """Read a new pack, and compare it with what it was made from.

    Raises
    ------
    StoreError
        Naming the first record that is not the same, file by file; the folders and the older pack are still there.
    """
    for record in records:
        found = written.records.get(record.folder.parts[-4:])
        for name in record.names:
            table = _table(record, name)
            if found is None or name not in found.names:
                same = False
            elif table is not None:
                same = written.table(found, name).equals(table, check_metadata=True)
            else:
                same = written.read(found, name) == record.read(name)
            if not same:
                raise StoreError(f"{record.folder}: {name} changed while it was packed; pack again")
    if written.documents != dict(documents):
        raise StoreError(f"{written.root}: documents changed while they were packed; pack again")


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        sync(path)


def _remove_folders(target: Store, done: Packing) -> None:
    """Remove what is in the pack: folders of records, what an earlier packing left of them, and documents."""
    packed = Pack.of(target.root)
    if packed is None:
        return
    for place, record in packed.records.items():
        folder = target.root.joinpath(*place)
        if not folder.exists():
            continue
        try:
            with locked(lock_path(folder), record.place[-1]):
                if (folder / RECORD).exists():
                    if _changed(folder, record):
                        done.warnings.append(f"{folder}: was replaced meanwhile, and stays; pack again")
                        continue
                    # First what makes the folder a record: from then on the packed one counts, and a kill leaves
                    # what the next packing removes.
                    (folder / RECORD).unlink()
                shutil.rmtree(folder)
        except CellBusy as error:
            done.warnings.append(f"{folder}: stays; {error}")
        for parent in folder.parents[:3]:
            with contextlib.suppress(OSError):  # other records are in it
                parent.rmdir()
    for name, content in packed.documents.items():
        path = target.root / name
        if path.is_file() and path.read_bytes() == content:
            path.unlink()
            with contextlib.suppress(OSError):
                path.parent.rmdir()


def unpack(store: str | os.PathLike[str], into: str | os.PathLike[str] | None = None) -> Packing:
    """Write packed records as folders again, and the documents beside them.

    Tables have the same values, types and notes. Where their bytes are others, because another version of the library
    writes them, so are their checksums.

    Parameters
    ----------
    store
        The store.
    into
        Another store to write them to, which keeps the records that it has; in place, if not given: the pack is removed
        once all records are written.

    Raises
    ------
    StoreError
        If the store has no pack, or a broken one, or cannot be written.
    """
    source = Store(store)
    target = source if into is None else Store(into)
    if not source.root.is_dir() or Pack.of(source.root) is None:
        raise StoreError(f"{source.root}: there is no pack in it")
    target.check_writable()
    with _alone(target), _explained(target):
        _check_pack(source)
        if source is target:
            return _unpack_here(source)
        merged = merge([source.root], target.root)
        for name, content in _documents(source).items():
            _write_document(target.root / name, content)
        return Packing(len(merged.copied), warnings=[*merged.warnings, *merged.conflicts])


def _unpack_here(store: Store) -> Packing:
    aside = store.root / f".{PACKED}.unpacking"
    shutil.rmtree(aside, ignore_errors=True)
    done = Packing()
    packed = Pack.of(store.root)
    assert packed is not None
    for place, record in packed.records.items():
        folder = store.root.joinpath(*place)
        with locked(lock_path(folder), record.place[-1]):
            if (folder / RECORD).exists():  # a newer one
                continue
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_out(folder, incoming_path(folder))
            promote(incoming_path(folder), folder)
            done.records += 1
    for name, content in packed.documents.items():
        _write_document(store.root / name, content)
    os.rename(store.root / PACKED, aside)
    shutil.rmtree(aside)
    return done


def _write_document(path: Path, content: bytes) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)


@contextlib.contextmanager
def _alone(target: Store) -> Iterator[None]:
    """Hold the lock of a store's pack."""
    place = target.root / ".locks"
    place.mkdir(parents=True, exist_ok=True)
    with locked(place / PACKED, f"{target.root / PACKED}"):
        yield


@contextlib.contextmanager
def _explained(target: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain(error, target.root) or StoreError(f"{target.root}: {error}") from error
