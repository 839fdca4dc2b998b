"""A cell in progress: the folder that a run fills, and the commit that makes it a record.

It is handed out by `benchmark.store.store.Store.begin`, which holds the cell's lock; nothing here locks.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import StoreError
from benchmark.files import sync, write_atomic
from benchmark.store.cell import Cell, canonical_json
from benchmark.store.checksums import write_checksums
from benchmark.store.errors import explain
from benchmark.store.fields import RECORD_FIELDS, as_json, check_fields
from benchmark.store.provenance import checkout, environment, provenance, timestamp, write_environment
from benchmark.store.record import Record, write_table
from benchmark.store.replacing import promote

if TYPE_CHECKING:  # the tables come ready from the caller
    import pandas as pd

__all__ = ["PROGRESS", "Work"]

#: How far the run is, as JSON ``[phase, done, total]``; not part of the record.
PROGRESS = "progress.json"
_SECONDS_A_NOTE = 1.0


class Work:
    """A cell under way: a folder to write into, and `commit`. Made by `Store.begin`.

    Attributes
    ----------
    folder
        Where to leave predictions and ``model.safetensors``; all of it becomes the record's folder. A restarted run
        finds it empty but for `scratch`.
    scratch
        Where to leave training checkpoints: found again by a restarted run, removed by `commit`.
    resumed
        Whether an interrupted run left something in `scratch`.
    record
        The record, once committed.
    """

    def __init__(self, cell: Cell, folder: Path, final: Path) -> None:
        self.cell = cell
        self.folder = folder
        self.scratch = folder / "scratch"
        self.record: Record | None = None
        self._final = final
        self._started = timestamp()
        self._noted = -math.inf
        # Now: what runs is the code and the packages as they were loaded, whatever is committed or installed meanwhile.
        checkout()
        environment()
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        self.resumed = any(self.scratch.iterdir())

    def _remove_leftovers(self) -> None:
        """Remove what a killed run wrote beside `scratch`, so that the record holds what this run writes and no more.

        By place and not by name, because libraries write to temporary files that are named in their own way
        (safetensors: ``.tmpXXXXXX``), and because what was half written may have its final name.
        """
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                if path != self.scratch:
                    shutil.rmtree(path)
            else:
                path.unlink()

    def note(self, phase: str, done: int, total: int) -> None:
        """Say how far the run is, for whoever asks `Store.progress`; kept once a second at most."""
        now = time.monotonic()
        if now - self._noted < _SECONDS_A_NOTE:
            return
        self._noted = now
        with contextlib.suppress(OSError):  # nobody's result depends on it
            (self.folder / PROGRESS).write_text(json.dumps([phase, done, total]), encoding="utf-8")

    def commit(
        self,
        fields: Mapping[str, Any],
        layers: pd.DataFrame | None = None,
        images: pd.DataFrame | None = None,
    ) -> Record:
        """Turn the folder into the cell's record, atomically; an older record of the cell is replaced.

        Parameters
        ----------
        fields
            ``metric_*``, ``gmacs_*``, ``density_mean``, ``seconds_*``, ``status`` (finished, if not given),
            ``error`` and fields of the caller's own. The cell's fields and the provenance are added here.
        layers, images
            One row a layer, one row an image.

        Returns
        -------
        Record
            As a reader finds it. A failed or diverged run does not replace a finished record: it is returned,
            and the finished one stays.

        Raises
        ------
        StoreError
            If the fields are not those of a record (`benchmark.store.fields.check_fields`), or if the store cannot
            be written; what was written stays in `folder`.
        """
        record = self._record(fields)
        if record["status"] != "finished" and self._is_finished():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.record = Record(self._final, record)
            return self.record
        try:
            self._write(record, layers, images)
            promote(self.folder, self._final)
        except OSError as error:
            raise explain(error, self.folder) or StoreError(f"{self.folder}: {error}") from error
        self.record = Record.load(self._final)
        return self.record

    def _record(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flat record in the order of `RECORD_FIELDS`."""
        cell = self.cell
        known: dict[str, Any] = {
            "status": "finished",
            **provenance(self._started),
            **{name: as_json(value, name) for name, value in fields.items()},
            "cell_id": cell.id,
            "task": cell.task,
            "scale": cell.scale,
            "dataset": cell.dataset,
            "dataset_fingerprint": cell.dataset_fingerprint,
            "method": cell.method,
            "seed": cell.seed,
        }
        record: dict[str, Any] = {}
        for name in RECORD_FIELDS:
            record[name] = known.pop(name, None)
            if name == "method":
                record |= {f"p_{key}": as_json(value, key) for key, value in sorted(cell.parameters.items())}
            if name == "status":
                record |= {key: known.pop(key) for key in sorted(known) if key.startswith("metric_")}
        record |= {key: value for key, value in known.items() if key not in record}
        try:
            check_fields(record)
        except ValueError as error:
            raise StoreError(f"{cell}: is no record: {error}") from None
        return record

    def _is_finished(self) -> bool:
        """Tell whether the cell has a finished record already; a broken one may be replaced."""
        with contextlib.suppress(StoreError):
            return Record.load(self._final).finished
        return False

    def _write(self, record: Mapping[str, Any], layers: pd.DataFrame | None, images: pd.DataFrame | None) -> None:
        """Complete the folder; ``record.json`` comes last, because its presence says that the folder is complete."""
        for name, table in (("layers.parquet", layers), ("images.parquet", images)):
            if table is not None:
                write_table(table, self.folder / name)
        (self.folder / "cell.json").write_text(canonical_json(self.cell.identity) + "\n", encoding="utf-8")
        write_environment(self.folder)
        shutil.rmtree(self.scratch, ignore_errors=True)
        (self.folder / PROGRESS).unlink(missing_ok=True)
        write_checksums(self.folder)
        # Everything else is on the disk before record.json is. `recover` puts a folder that holds one in its place
        # without looking at the rest, also after a power cut.
        for path in (*self.folder.rglob("*"), self.folder):
            sync(path)
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomic(self.folder / "record.json", text)

    def fail(self, error: object, status: str = "failed", **fields: Any) -> Record:
        """Record that the cell failed or diverged, and why: reports show it, the next call runs it again."""
        (self.folder / "record.json").unlink(missing_ok=True)
        return self.commit({**fields, "status": status, "error": " ".join(str(error).split()) or repr(error)})
