"""Merging stores: the records of several machines or sweeps in one store.

Sources are only read. Nothing is averaged or compared here: of a cell that several stores finished, one record stays.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import StoreError
from benchmark.files import sync, write_atomic
from benchmark.store.checksums import forget_missing, update_checksum
from benchmark.store.errors import explain
from benchmark.store.locks import locked
from benchmark.store.record import Record, read_table, write_table
from benchmark.store.replacing import incoming_path, lock_path, promote, recover
from benchmark.store.store import TIMINGS, Store, is_there, write_out

__all__ = ["Merged", "merge"]

#: Results of one cell that differ by more than this share are worth a warning; machines differ by less.
TOLERANCE = 1e-6
#: What a compact copy leaves out: weights, predictions in the task's format, maps of densities. Reports read none.
LARGE = ("model.safetensors", "predictions", "predictions.*", "density_maps.safetensors")
#: What it keeps of the first seed of a setting alone: the masks of single images. Reports draw one seed's.
PICTURES = ("sampling.npz",)


@dataclass
class Merged:
    """What a merge did.

    Attributes
    ----------
    copied
        What is new in the store that was merged into: folders of records, files of timings.
    kept
        How many cells or timings were there already.
    conflicts
        One line for each cell that both stores finished, with other results.
    warnings
        One line for each folder that was not copied: broken, in use, changed meanwhile.
    """

    copied: list[Path] = field(default_factory=list)
    kept: int = 0
    conflicts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def merge(stores: Iterable[str | os.PathLike[str]], into: str | os.PathLike[str], *, compact: bool = False) -> Merged:
    """Copy the records and timings of stores into another one.

    A record is copied where the cell has none, or where only the copied one is finished. Else the one in `into` stays.
    It may be stopped at any moment and started again.

    Parameters
    ----------
    stores
        The stores to read, the preferred one first.
    into
        The store to write; made if need be.
    compact
        Copy what a repository keeps of its records: no weights, predictions and maps of densities, the masks of single
        images of each setting's first seed alone, and tables compressed anew. What was copied before stays as it is.

    Raises
    ------
    StoreError
        If a source is not a store, or is `into` itself; if `into` cannot be written.

    Examples
    --------
    >>> merge(["from-node1", "from-node2"], into="results/runs").copied
    [PosixPath('results/runs/coco/mini/dense/0a1b2c3d4e5f')]
    """
    target, sources = Store(into), [Store(store) for store in stores]
    for source in sources:
        if not source.root.is_dir():
            raise StoreError(f"{source.root}: there is no such store to merge")
        if target.root.exists() and source.root.samefile(target.root):
            raise StoreError(f"{source.root}: is the store to merge into; name another one")
    target.check_writable()
    merged = Merged()
    scans = [source.scan() for source in sources]
    left_out = _left_out([record for records, _ in scans for record in records]) if compact else None
    for source, (records, warnings) in zip(sources, scans, strict=True):
        merged.warnings += warnings
        for record in records:
            with _warned(record.folder, target, merged):
                _merge_record(record, target, merged, None if left_out is None else left_out[record.cell_id])
        known = target.timings()
        for path, content in source.timings().items():
            with _warned(path, target, merged):
                _merge_timing(path, content, target.root / TIMINGS / path.name in known, target, merged)
    return merged


def _left_out(records: Iterable[Record]) -> dict[str, tuple[str, ...]]:
    """Return, for each cell, which files a compact copy of its record leaves out."""
    settings: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        place = (record[name] for name in ("task", "scale", "dataset", "method"))
        settings.setdefault((*place, *sorted(record.parameters.items())), []).append(record)
    left_out: dict[str, tuple[str, ...]] = {}
    for group in settings.values():
        first = min(record["seed"] for record in group)
        left_out |= {record.cell_id: LARGE if record["seed"] == first else LARGE + PICTURES for record in group}
    return left_out


@contextlib.contextmanager
def _warned(source: Path, target: Store, merged: Merged) -> Iterator[None]:
    """Turn what stops one copy into a warning; a target that cannot be written stops the merge."""
    try:
        yield
    except StoreError as error:  # in use, or broken in the target
        merged.warnings.append(f"{source}: not copied: {error}")
    except OSError as error:
        explained = explain(error, target.root)
        if explained:
            raise explained from error
        merged.warnings.append(f"{source}: not copied ({error.strerror or error}); merge again")


def _merge_record(record: Record, target: Store, merged: Merged, left_out: tuple[str, ...] | None) -> None:
    """Copy a record unless its cell has one; a compact copy where it is said what that leaves out."""
    if not record.folder.resolve().is_relative_to(record.folder.parents[3].resolve()):
        raise StoreError(f"{record.folder} is reached through a link; replace it by the folder")
    final = target.root.joinpath(*record.folder.parts[-4:])
    final.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_path(final), record.cell_id):
        recover(final)
        if is_there(final):
            known = Record.load(final)
            if known.finished or not record.finished:
                merged.kept += 1
                differences = _differences(record, known) if known.finished and record.finished else ""
                if differences:
                    merged.conflicts.append(
                        f"{record.folder}: other results than {final}, which stays: {differences} there"
                    )
                return
        incoming = incoming_path(final)
        try:
            if record.packed:
                write_out(record.folder, incoming, [name for name in record.names if not _is_left_out(name, left_out)])
            else:
                _copy(record.folder, incoming, left_out or ())
            # A forced run may have replaced the source meanwhile: then half of the copy is of another record.
            if dict(Record.load(record.folder).fields) != dict(record.fields):
                raise StoreError(f"{record.folder} was replaced while it was copied; merge again")
            if left_out is not None:
                _compress(incoming)
                forget_missing(incoming)
            promote(incoming, final)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        merged.copied.append(final)


def _merge_timing(path: Path, content: bytes, known: bool, target: Store, merged: Merged) -> None:
    if path.is_symlink():
        raise StoreError(f"{path} is a link; replace it by the file")
    if known:  # its name says machine, network and time
        merged.kept += 1
        return
    final = target.root / TIMINGS / path.name
    final.parent.mkdir(parents=True, exist_ok=True)
    merged.copied.append(write_atomic(final, content))


def _differences(record: Record, known: Record) -> str:
    """Say which results of a cell differ: ``metric_AP 0.31 here, 0.32``; nothing if they agree."""
    found = []
    for name, value in record.fields.items():
        other = known.fields.get(name)
        if not name.startswith(("metric_", "gmacs_")) or value == other:
            continue
        if value is None or other is None or not math.isclose(value, other, rel_tol=TOLERANCE):
            found.append(f"{name} {value} here, {other}")
    return "; ".join(found)


def _is_left_out(name: str, patterns: Iterable[str] | None) -> bool:
    return any(fnmatch.fnmatchcase(name.partition("/")[0], pattern) for pattern in patterns or ())


def _copy(source: Path, copy: Path, without: Iterable[str] = ()) -> None:
    """Copy a record's folder to the disk, without the entries of these patterns.

    A link is refused: it could bring a file from outside the store in, and later make that public.
    """
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    left_out = {path for pattern in without for path in source.glob(pattern)}
    for path in sorted(source.rglob("*")):
        if left_out & {path, *path.parents}:
            continue
        if path.is_symlink():
            raise StoreError(f"{path} is a link; replace it by the file")
        place = copy / path.relative_to(source)
        if path.is_dir():
            place.mkdir()
        else:
            shutil.copyfile(path, place)
        sync(place)
    sync(copy)


def _compress(folder: Path) -> None:
    """Write a record's tables as they are written today; earlier versions compressed them less."""
    for path in sorted(folder.glob("*.parquet")):
        write_table(read_table(path), path)
        sync(path)
        update_checksum(folder, path.name)
    sync(folder)
