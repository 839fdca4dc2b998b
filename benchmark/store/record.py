"""A record: the flat fields that a cell left in the store, and the files beside them.

It reads one record, in its folder or packed (`benchmark.store.pack`). Which records there are is the store's business,
and writing them is `benchmark.store.work`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import StoreError
from benchmark.files import cache_folder, write_atomic
from benchmark.store.fields import parse_record
from benchmark.store.pack import RECORD, Pack, file_names, has_file, read_arrow, read_file

if TYPE_CHECKING:  # reading records needs no pandas, and its import takes most of a second
    import pandas as pd

__all__ = ["MIGRATED_FROM", "Record", "is_rendered", "read_table", "write_table"]

MIGRATED_FROM = "migrated_from"


@dataclass(frozen=True)
class Record:
    """What a finished, failed or diverged cell left in the store.

    Attributes
    ----------
    folder
        Where it lies; of a packed record, where it would.
    fields
        The flat record: see `RECORD_FIELDS`.
    """

    folder: Path
    fields: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Read a folder's ``record.json``, or that of the packed record in its place.

        Raises
        ------
        StoreError
            If the folder holds no readable record, or one that is not its own; the message names the folder.
        """
        path = folder / RECORD
        try:
            fields = parse_record(read_file(folder, RECORD).decode())
        except FileNotFoundError:
            raise StoreError(f"{folder}: not a record (no record.json); move it out of the store") from None
        except (OSError, ValueError) as error:  # not UTF-8, not JSON, not a record
            raise StoreError(f"{path}: broken ({error}); delete the folder to run the cell again") from error
        place = dict(zip(("task", "scale", "method", "cell_id"), folder.parts[-4:], strict=True))
        for name, here in place.items():
            if fields[name] != here:
                raise StoreError(
                    f"{path}: {name} is {fields[name]!r} but the folder says {here!r}; "
                    "move the folder back or delete it"
                )
        return cls(folder, fields)

    def __getitem__(self, name: str) -> Any:
        """Return a field of the record."""
        return self.fields[name]

    @property
    def cell_id(self) -> str:
        """The cell's id."""
        return str(self.fields["cell_id"])

    @property
    def former_ids(self) -> list[str]:
        """The ids that its cell had before the store was migrated, the oldest first."""
        return list(self.fields.get(MIGRATED_FROM) or ())

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        return str(self.fields["status"])

    @property
    def finished(self) -> bool:
        """Whether the cell has a result and need not run again."""
        return self.status == "finished"

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's parameters, by their own names."""
        return {name[2:]: value for name, value in self.fields.items() if name.startswith("p_")}

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics, by their own names."""
        return {name[7:]: value for name, value in self.fields.items() if name.startswith("metric_")}

    def path(self, name: str) -> Path:
        """Path of one of the record's files; a packed one is written to the cache first.

        Raises
        ------
        StoreError
            If the record has no such file.
        """
        path = self.folder / name
        if path.exists():
            return path
        if not self.has(name):
            raise StoreError(f"{self.folder}: the record has no {name}; run the cell again with --force")
        content = self.read(name)
        place = cache_folder() / "unpacked" / hashlib.sha256(content).hexdigest()[:32] / path.name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, content)
        return place

    @property
    def packed(self) -> bool:
        """Whether the record is packed, and not in a folder of its own."""
        return not (self.folder / RECORD).exists() and Pack.find(self.folder) is not None

    @property
    def names(self) -> list[str]:
        """The names of the record's files, sorted; those in folders of it with ``/``."""
        return file_names(self.folder)

    def has(self, name: str) -> bool:
        """Whether the record has a file."""
        return has_file(self.folder, name)

    def read(self, name: str) -> bytes:
        """Return the content of one of the record's files.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        return read_file(self.folder, name)

    def layers(self) -> pd.DataFrame:
        """``layers.parquet``, one row a layer."""
        return self._table("layers.parquet")

    def images(self) -> pd.DataFrame:
        """``images.parquet``, one row an image."""
        return self._table("images.parquet")

    def _table(self, name: str) -> pd.DataFrame:
        if not self.has(name):
            raise StoreError(f"{self.folder}: the record has no {name}; run the cell again with --force")
        return read_table(self.folder / name)


def is_rendered(dataset: str, task: str, scale: str) -> bool:
    """Whether a data set is the one that is rendered for a task and scale, by its name, and not one that was given."""
    return dataset.startswith(f"{task}-{scale}")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write one of a record's Parquet tables, compressed: records are kept by the hundred, and in the repository.

    Without dictionaries: most columns are measurements, of which nearly each value is another one. Tables of outcomes
    and images then take a half to two thirds of the space. First bytes of all numbers together, then second ones, and
    so on: the first ones are alike, and a sixth of the outcomes' space goes.
    """
    numbers = table.select_dtypes("number").columns
    table.to_parquet(
        path, index=False, compression="zstd", compression_level=19, use_dictionary=False,
        column_encoding=dict.fromkeys(numbers, "BYTE_STREAM_SPLIT") or None,
    )  # fmt: skip


def read_table(path: Path) -> pd.DataFrame:
    """Read one of a record's Parquet tables, by its path in the record's folder; the record may be packed.

    Raises
    ------
    StoreError
        If it is missing or broken, in one line that names it.
    """
    import pandas as pd
    import pyarrow as pa

    packed = None if path.exists() else read_arrow(path.parent, path.name)
    try:
        return pd.read_parquet(path) if packed is None else packed.to_pandas()
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:  # found by changing bytes
        reason = str(error).partition("\n")[0]
        raise StoreError(f"{path}: cannot be read ({reason}); run the cell again with --force") from error
