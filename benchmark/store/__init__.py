"""The results store: one folder a cell, written whole or not at all; and packed records, many in a few tables.

What this is for: the identity of a cell (a hash of what determines its result, and of nothing else), records
that survive a kill at any moment, locks that keep two processes off the same cell, and the provenance that
every record carries. What it is not: it knows no method, task or metric by name, and it computes nothing from
the results.

Layout of ``<store>/<task>/<scale>/<method>/<cell id>/``::

    record.json        the flat record (``RECORD_FIELDS``); its presence makes the folder a record
    cell.json          the canonical JSON that the cell id is the hash of
    checksums.sha256   of the files beside record.json
    environment.txt    the installed packages, one name==version a line
    layers.parquet     one row a layer; images.parquet: one row an image
    …                  what else the run leaves there: predictions, model.safetensors

Beside it, while a run is under way: ``.<cell id>.partial/`` (the same folder, unfinished, with ``scratch/`` for
training checkpoints and ``progress.json``; a restarted run finds ``scratch/`` again and removes the rest). The store's
root also holds ``.locks/<cell id>``: the lock files, which stay, and which may be deleted when nothing runs;
``timing/*.json``, what ``saibench time`` measured; and ``.slurm/<cell id>.log``, what a cell printed on a cluster.
``packed/`` holds the records that ``saibench store pack`` took in; `benchmark.store.pack` says how.
"""

from benchmark.store.cell import Cell, canonical_json
from benchmark.store.errors import CellBusy, CellFinished
from benchmark.store.fields import RECORD_FIELDS, STATUSES
from benchmark.store.garbage import collect_garbage
from benchmark.store.merging import merge
from benchmark.store.migrating import Migrated, migrate
from benchmark.store.pack import PACKED, has_file, read_file
from benchmark.store.provenance import ENVIRONMENT, environment, provenance, read_environment, timestamp
from benchmark.store.record import Record, is_rendered, read_table, write_table
from benchmark.store.store import TIMINGS, Store
from benchmark.store.tables import table
from benchmark.store.verifying import verify
from benchmark.store.work import Work

__all__ = [
    "ENVIRONMENT",
    "PACKED",
    "RECORD_FIELDS",
    "STATUSES",
    "TIMINGS",
    "Cell",
    "CellBusy",
    "CellFinished",
    "Migrated",
    "Record",
    "Store",
    "Work",
    "canonical_json",
    "collect_garbage",
    "environment",
    "has_file",
    "is_rendered",
    "merge",
    "migrate",
    "provenance",
    "read_environment",
    "read_file",
    "read_table",
    "table",
    "timestamp",
    "verify",
    "write_table",
]
