"""A store's packed records: a few Parquet tables for each task and data set, only read here.

Layout of ``<store>/packed/``::

    <task>/<scale>/<data set>/records.parquet   one row a record: record.json, cell.json and checksums.sha256 as they
                                                were, the hashes of its other files, and what its tables were
    <task>/<scale>/<data set>/<table>.parquet   the rows of layers, images, outcomes, losses … of all records
    files.parquet                               environment.txt, sampling.npz and what else there is, once each
    documents.parquet                           JSON files of the store's root: timings and the like
    checksums.sha256                            of the files above

A packed record is found under the path of the folder that it would be, so that whoever asks for a file of a record
need not know which of both it is: see `has_file`, `read_file` and `read_arrow`. A folder that is there counts before a
packed record: it is newer.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import StoreError, one_line
from benchmark.store.checksums import CHECKSUMS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PACKED", "RECORD", "Pack", "Packed", "file_names", "has_file", "read_arrow", "read_file"]

#: The folder of the packed records, in the store's root.
PACKED = "packed"
RECORD = "record.json"
#: Files of a record that stand in its row, by the name of their column.
TEXTS = {"record": RECORD, "cell": "cell.json", "checksums": CHECKSUMS}
_KEPT = 48  # parts of tables that are held in memory: those of a dozen data sets


@dataclass(frozen=True)
class Packed:
    """One packed record.

    Attributes
    ----------
    place
        Task, scale, method and cell id: its folder's place below the store.
    texts
        The content of the files that stand in the record's row, by name.
    files
        The hashes of its other files, by name.
    tables
        What each of its tables was, by the file's name: ``rows``, ``digest`` and ``columns``.
    group
        The folder of its tables.
    starts
        The first row of each of its tables there.
    """

    place: tuple[str, str, str, str]
    texts: dict[str, str]
    files: dict[str, str]
    tables: dict[str, dict[str, Any]]
    group: Path
    starts: dict[str, int]

    @property
    def names(self) -> list[str]:
        """The names of its files, sorted."""
        return sorted([*self.texts, *self.files, *self.tables])


class Pack:
    """The packed records of a store.

    Parameters
    ----------
    root
        ``<store>/packed``.

    Raises
    ------
    StoreError
        If a table of it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: dict[tuple[str, ...], Packed] = {}
        for path in sorted(root.glob("*/*/*/records.parquet")):
            self.records |= {each.place: each for each in self._group(path)}
        #: Parts of tables by path and number; the last ones are held in memory.
        self.part: Callable[[Path, int], pa.Table] = functools.lru_cache(maxsize=_KEPT)(self._part)

    @staticmethod
    def of(store: Path) -> Pack | None:
        """Return the pack of a store, read once while it stays as it is; None for a store without one."""
        # A packing that was killed between its two renames has left the older pack aside, and it counts.
        for root in (store / PACKED, store / f".{PACKED}.old"):
            try:
                stat = (root / CHECKSUMS).stat()
            except OSError:
                continue
            return _opened(root.absolute(), (stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return None

    @staticmethod
    def find(folder: Path) -> tuple[Pack, Packed] | None:
        """Return the packed record that stands for a record's folder."""
        if len(folder.parts) < 5:
            return None
        pack = Pack.of(folder.parents[3])
        found = None if pack is None else pack.records.get(folder.parts[-4:])
        return None if pack is None or found is None else (pack, found)

    def _group(self, path: Path) -> Iterator[Packed]:
        rows = self._whole(path).to_pylist()
        schemas = json.loads(rows[0]["columns"])
        ends: dict[str, int] = {}
        for row in rows:
            tables = json.loads(row["tables"])
            starts = {name: ends.get(name, 0) for name in tables}
            for name, about in tables.items():
                about["columns"] = schemas[about["columns"]]
                ends[name] = starts[name] + about["rows"]
            yield Packed(
                (row["task"], row["scale"], row["method"], row["cell_id"]),
                {name: row[column] for column, name in TEXTS.items() if row[column] is not None},
                json.loads(row["files"]), tables, path.parent, starts,
            )  # fmt: skip

    def _whole(self, path: Path) -> pa.Table:
        return _told(path, lambda: _parquet(path).read())

    def _part(self, path: Path, number: int) -> pa.Table:
        return _told(path, lambda: _parquet(path).read_row_group(number))

    def rows(self, path: Path, start: int, count: int) -> pa.Table:
        """Return rows of a packed table."""
        import pyarrow as pa

        found, first = [], 0
        for number, length in enumerate(_lengths(path)):
            low, high = max(start, first), min(start + count, first + length)
            if low < high:
                found.append(self.part(path, number).slice(low - first, high - low))
            first += length
        if sum(map(len, found)) != count:
            raise StoreError(f"{path}: is cut off; fetch the store's {PACKED} folder again")
        return pa.concat_tables(found) if found else _told(path, lambda: _parquet(path).schema_arrow.empty_table())

    def table(self, record: Packed, name: str) -> pa.Table:
        """Return one of a record's tables, as it was."""
        from benchmark.store import columns

        about = record.tables[name]
        rows = self.rows(record.group / name, record.starts[name], about["rows"])
        if {each.as_py() for each in (*rows[columns.CELL][:1], *rows[columns.CELL][-1:])} - {record.place[-1]}:
            raise StoreError(f"{self.root}: was packed anew meanwhile; do it again")
        return _told(record.group / name, lambda: columns.restored(rows, about["columns"]))

    def read(self, record: Packed, name: str) -> bytes:
        """Return the content of one of a record's files; a table as it is written today."""
        if name in record.texts:
            return record.texts[name].encode()
        if name in record.files:
            return self.content(record.files[name])
        from benchmark.store import columns

        buffer = io.BytesIO()
        columns.rewritten(self.table(record, name), buffer)
        return buffer.getvalue()

    @functools.cached_property
    def _contents(self) -> dict[str, tuple[int, int]]:
        """Where the content of each hash is: part and row."""
        path = self.root / "files.parquet"
        found: dict[str, tuple[int, int]] = {}
        for number in range(len(_lengths(path))) if path.exists() else ():
            hashes = _told(path, lambda number=number: _parquet(path).read_row_group(number, columns=["sha256"]))
            found |= {each: (number, row) for row, each in enumerate(hashes["sha256"].to_pylist())}
        return found

    def content(self, sha256: str) -> bytes:
        """Return the content of a hash.

        Raises
        ------
        StoreError
            If it is not there.
        """
        path = self.root / "files.parquet"
        if sha256 not in self._contents:
            raise StoreError(f"{path}: lacks the content {sha256[:12]}; fetch the store's {PACKED} folder again")
        number, row = self._contents[sha256]
        return bytes(self.part(path, number)["content"][row].as_py())

    @functools.cached_property
    def documents(self) -> dict[str, bytes]:
        """The packed documents of the store's root, by their path there."""
        path = self.root / "documents.parquet"
        if not path.exists():
            return {}
        table = self._whole(path)
        return dict(zip(table["name"].to_pylist(), table["content"].to_pylist(), strict=True))


@functools.lru_cache(maxsize=8)
def _opened(root: Path, state: tuple[int, ...]) -> Pack:
    del state  # part of the key only
    return Pack(root)


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path)


@functools.lru_cache(maxsize=256)
def _counted(path: Path, state: int) -> list[int]:
    del state
    metadata = _told(path, lambda: _parquet(path).metadata)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def _lengths(path: Path) -> list[int]:
    """Return how many rows each part of a table has."""
    try:
        return _counted(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); fetch the folder again") from error


def _told(path: Path, read: Any) -> Any:
    """Return what `read` returns; what is wrong with a table becomes one line."""
    import pyarrow as pa

    try:
        return read()
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read ({one_line(error)}); fetch the folder again") from error


def has_file(folder: Path, name: str) -> bool:
    """Whether a record has a file, in its folder or packed."""
    # A folder without a record is a cell in progress, unless one is packed in its place.
    found = None if (folder / RECORD).exists() else Pack.find(folder)
    return (folder / name).is_file() if found is None else name in found[1].names


def read_file(folder: Path, name: str) -> bytes:
    """Return the content of a record's file.

    Raises
    ------
    OSError
        If it cannot be read.
    StoreError
        If the pack that it is in is broken.
    """
    if not (folder / RECORD).exists() and (found := Pack.find(folder)) and name in found[1].names:
        return found[0].read(found[1], name)
    return (folder / name).read_bytes()


def read_arrow(folder: Path, name: str) -> pa.Table | None:
    """Return a packed table of a record as it was; None where its file is to be read."""
    if (folder / RECORD).exists():
        return None
    found = Pack.find(folder)
    return found[0].table(found[1], name) if found and name in found[1].tables else None


def file_names(folder: Path) -> list[str]:
    """Return the names of a record's files, sorted; those in folders of it with ``/``."""
    if not (folder / RECORD).exists() and (found := Pack.find(folder)):
        return found[1].names
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
