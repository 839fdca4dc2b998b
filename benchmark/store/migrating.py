"""Migrating a store: records get the ids that their cells have today, where identities are written in another form.

What changed in form, and that no result changed with it, is for the caller to know: see `benchmark.cells.migrating`.
A record is rewritten in a folder of its new id before the old one goes, so that a kill loses none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.errors import StoreError
from benchmark.files import sync, write_atomic
from benchmark.store.cell import canonical_json
from benchmark.store.checksums import CHECKSUMS, update_checksum
from benchmark.store.locks import locked
from benchmark.store.record import MIGRATED_FROM, Record
from benchmark.store.replacing import incoming_path, lock_path, promote, recover
from benchmark.store.store import Store

__all__ = ["Migrated", "migrate"]

_CELL = re.compile(r"[0-9a-f]{12}")

#: Returns a record's identity as it is written today; raises `StoreError` with the reason where that is not known.
Rewrite = Callable[[Record, Mapping[str, Any]], dict[str, Any]]


@dataclass
class Migrated:
    """What a migration did.

    Attributes
    ----------
    moved
        Today's id of each record that was rewritten, by its old one.
    unchanged
        How many records had today's id already.
    left
        One line for each record that stays as it was: which, and why.
    files
        Other files of the store that name cells, rewritten.
    """

    moved: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0
    left: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def migrate(store: Store, rewrite: Rewrite, fingerprints: Mapping[str, str]) -> Migrated:
    """Give a store's records the ids of their cells, and have the store's other files name them so.

    It may be stopped at any moment and started again.

    Parameters
    ----------
    rewrite
        Called with a record and its identity. The cell that it starts from is followed here.
    fingerprints
        Today's fingerprints of data sets by earlier ones, for files that are no records.

    Raises
    ------
    StoreError
        If the store is not there, is packed or cannot be written.
    """
    if not store.root.is_dir():
        raise StoreError(f"{store.root}: there is no such store")
    store.check_writable()
    records, warnings = store.scan()
    if any(record.packed for record in records):
        raise StoreError(
            f"{store.root}: its records are packed: run `saibench store unpack` before, and `store pack` after"
        )
    done = Migrated(left=warnings)
    plans = _Plans({record.cell_id: record for record in records}, rewrite)
    for record in records:
        try:
            new = plans.identity(record.cell_id)
            if _hash(new) == record.cell_id:
                done.unchanged += 1
            else:
                _move(record, new)
                done.moved[record.cell_id] = _hash(new)
        except StoreError as error:
            done.left.append(f"{record.folder}: left as it is: {error}")
    now = store.scan()[0]
    ids = {old: record.cell_id for record in now for old in record.former_ids}
    done.files = _rename(store.root, {**ids, **fingerprints})
    return done


@dataclass
class _Plans:
    """Identities of records as they are to be, each found once: many start from the same cell."""

    records: Mapping[str, Record]
    rewrite: Rewrite
    found: dict[str, dict[str, Any] | StoreError] = field(default_factory=dict)

    def identity(self, cell_id: str) -> dict[str, Any]:
        if cell_id not in self.found:
            self.found[cell_id] = StoreError("it starts from itself")  # unless it is found
            try:
                self.found[cell_id] = self._find(self.records[cell_id])
            except StoreError as error:
                self.found[cell_id] = error
        found = self.found[cell_id]
        if isinstance(found, StoreError):
            raise found
        return found

    def _find(self, record: Record) -> dict[str, Any]:
        try:
            text = record.path("cell.json").read_text(encoding="utf-8").strip()
            before = json.loads(text)
            start = before["determinants"].get("start")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"cell.json cannot be read ({error})") from None
        if _hash(before) != record.cell_id:
            raise StoreError("cell.json is not the identity of this cell")
        new = self.rewrite(record, before)
        if isinstance(start, str) and _CELL.fullmatch(start):
            if start not in self.records and new == before:
                return new
            new["determinants"] = {**new["determinants"], "start": self._start(start)}
        return new

    def _start(self, start: str) -> str:
        """Return today's id of a cell that another one starts from."""
        for record in self.records.values():  # moved by a call that was killed
            if start in record.former_ids:
                return record.cell_id
        if start not in self.records:
            raise StoreError(f"it starts from cell {start}, which is not in this store: merge that one first")
        try:
            return _hash(self.identity(start))
        except StoreError as error:
            raise StoreError(f"it starts from cell {start}: {error}") from None


def _hash(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:12]


def _move(record: Record, identity: Mapping[str, Any]) -> None:
    """Write a record again under its new id, and remove the old folder."""
    old, new = record.folder, record.folder.with_name(_hash(identity))
    try:
        with locked(lock_path(new), new.name), locked(lock_path(old), old.name):
            recover(new)
            if new.exists():
                if record.cell_id not in Record.load(new).former_ids:
                    raise StoreError(f"cell {new.name} is there already: remove one of the two")
            else:
                incoming = incoming_path(new)
                _rewrite(record, identity, incoming)
                promote(incoming, new)
            leaving = incoming_path(old)  # not where `recover` looks: a half removed record must not come back
            shutil.rmtree(leaving, ignore_errors=True)
            os.rename(old, leaving)
            shutil.rmtree(leaving)
    except OSError as error:
        raise StoreError(f"cannot be rewritten ({error.strerror or error})") from error


def _rewrite(record: Record, identity: Mapping[str, Any], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in sorted(record.folder.rglob("*")):
        if path.is_symlink():
            raise StoreError(f"{path} is a link; replace it by the file")
        place = folder / path.relative_to(record.folder)
        if path.is_dir():
            place.mkdir()
        elif place.name not in ("record.json", "cell.json"):
            try:
                os.link(path, place)  # the content is the same, and files of records are replaced, never written to
            except OSError:  # a file system without such links
                shutil.copyfile(path, place)
    write_atomic(folder / "cell.json", canonical_json(identity) + "\n")
    if (folder / CHECKSUMS).exists():
        update_checksum(folder, "cell.json")
    fields = json.loads((record.folder / "record.json").read_text(encoding="utf-8"))
    fields |= {"cell_id": _hash(identity), "dataset_fingerprint": identity["dataset_fingerprint"]}
    if "start" in fields:
        fields["start"] = identity["determinants"].get("start")
    fields[MIGRATED_FROM] = [*record.former_ids, record.cell_id]
    sync(folder)
    write_atomic(folder / "record.json", json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _rename(root: Path, names: Mapping[str, str]) -> list[Path]:
    """Replace names in the JSON files beside the records, and in their file names; return those that changed."""
    if not names:
        return []
    quoted = re.compile("|".join(sorted(re.escape(f'"{name}"') for name in names)))
    bare = re.compile("|".join(sorted(map(re.escape, names))))
    changed = []
    for path in sorted([*root.glob("*.json"), *root.glob("*/*.json")]):
        text = path.read_text(encoding="utf-8")
        new = quoted.sub(lambda found: f'"{names[found[0][1:-1]]}"', text)
        place = path.with_name(bare.sub(lambda found: names[found[0]], path.name))
        if new != text or place != path:
            write_atomic(place, new)
            changed.append(place)
        if place != path:
            path.unlink()
    return changed
