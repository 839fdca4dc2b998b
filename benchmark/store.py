"""The results store: one folder a cell, written whole or not at all.

What this is for: the identity of a cell (a hash of what determines its result, and of nothing else), records
that survive a kill at any moment, locks that keep two processes off the same cell, and the provenance that
every record carries. What it is not: it knows no method, task or metric by name, and it computes nothing from
the results.

Layout of ``<store>/<task>/<scale>/<method>/<cell id>/``::

    record.json        the flat record (``RECORD_FIELDS``); its presence makes the folder a record
    cell.json          the canonical JSON that the cell id is the hash of
    layers.parquet     one row a layer; images.parquet: one row an image
    …                  what else the run leaves there: predictions, model.safetensors

Beside it, while a run is under way: ``.<cell id>.partial/`` (the same folder, unfinished, with ``scratch/``
for training checkpoints; a restarted run finds it again) and ``.<cell id>.lock``.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import functools
import hashlib
import importlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import StoreError

__all__ = [
    "RECORD_FIELDS",
    "STATUSES",
    "Cell",
    "CellBusy",
    "CellFinished",
    "Record",
    "Store",
    "Work",
    "canonical_json",
    "provenance",
]

STATUSES = ("finished", "failed", "diverged")

#: The fields of every record, in the order in which they are written; ``p_*`` follow ``method``, ``metric_*``
#: follow ``status``, and fields of the caller's own come last.
RECORD_FIELDS = (
    "cell_id", "task", "scale", "dataset", "dataset_fingerprint", "method", "seed", "status",
    "gmacs_measured_mean", "gmacs_measured_std", "gmacs_paper", "density_mean",
    "seconds_train", "seconds_eval", "git_sha", "git_dirty", "saibench", "torch", "python",
    "cpu", "gpu", "threads", "started", "finished", "error",
)  # fmt: skip

_PATH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_ALMOST_NO_SPACE = 1 << 20  # bytes: a failed write with less free space than this is a full disk
_log = logging.getLogger(__name__)


class CellBusy(StoreError):
    """Another process is working on the cell."""


class CellFinished(StoreError):
    """The cell has a finished record and was not to be replaced."""


# --------------------------------------------------------------------------------------------------- identity


def _canonical(value: object, where: str) -> Any:
    """Reduce a value to JSON types, so that equal settings have equal text whatever their Python type."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value} cannot be part of a cell's identity; give a finite number")
        return int(value) if value.is_integer() else value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_canonical(item, where) for item in value), key=canonical_json)
    if isinstance(value, list | tuple):
        return [_canonical(item, where) for item in value]
    raise TypeError(f"{where}: a {type(value).__name__} cannot be part of a cell's identity")


def canonical_json(value: object) -> str:
    """Text that is equal for equal settings: sorted keys, ``1.0`` as ``1``, tuples as lists, no white space.

    Raises
    ------
    TypeError
        If a value has no JSON form.
    ValueError
        If a number is not finite.
    """
    return json.dumps(_canonical(value, "value"), sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Cell:
    """One (task, scale, data set, method, parameters, seed), the unit of work and of storage.

    Parameters
    ----------
    task, scale, method
        Names; they are folders of the store.
    dataset
        What people call the data set. Not part of the identity: the fingerprint is, so a data set may be
        moved.
    dataset_fingerprint
        Hash of the data, from the reader.
    parameters
        All parameters of the method, defaults included: ``1`` and ``1.0`` are the same value.
    seed
        Seed of everything random in the cell.
    determinants
        Everything else that the result depends on: recipe, code fingerprint, id of the starting checkpoint's
        cell.
    """

    task: str
    scale: str
    dataset: str = field(compare=False)
    dataset_fingerprint: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seed: int = 0
    determinants: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check the names and reduce the settings to JSON types."""
        for name in ("task", "scale", "method"):
            if not _PATH_NAME.fullmatch(getattr(self, name)):
                raise StoreError(
                    f"cell: {name} {getattr(self, name)!r} cannot name a folder; use letters, digits, '_-.'"
                )
        # Copies, reduced to JSON types: a caller who changes its dictionary later must not change the
        # identity.
        object.__setattr__(self, "parameters", _canonical(self.parameters, f"{self.method} parameters"))
        object.__setattr__(self, "determinants", _canonical(self.determinants, f"{self.method} determinants"))

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the result, as JSON types."""
        return {
            "task": self.task,
            "scale": self.scale,
            "dataset_fingerprint": self.dataset_fingerprint,
            "method": self.method,
            "parameters": self.parameters,
            "seed": self.seed,
            "determinants": self.determinants,
        }

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits: the hash of `identity`."""
        return hashlib.sha256(canonical_json(self.identity).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """Return one line that names the cell in messages."""
        settings = " ".join(f"{name}={value}" for name, value in sorted(self.parameters.items()))
        words = [self.task, self.scale, self.method, settings, f"seed={self.seed}", f"({self.id})"]
        return " ".join(filter(None, words))


# ------------------------------------------------------------------------------------------------- provenance


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def _checkout() -> tuple[str | None, bool | None]:
    """Return commit and dirtiness of the checkout that the code came from; None, None if installed.

    An installed copy may lie inside a checkout of something else (a virtual environment in a project's
    folder), so a checkout counts only when it tracks this very file, byte for byte.
    """
    here = Path(__file__).resolve()
    for root in dict.fromkeys([here.parents[1], Path.cwd()]):
        source = root / "benchmark" / here.name
        try:
            same = source.read_bytes() == here.read_bytes()
        except OSError:
            continue
        if not same or _git(root, "ls-files", "--error-unmatch", f"benchmark/{here.name}") is None:
            continue
        sha = _git(root, "rev-parse", "HEAD")
        if sha:
            code = [name for name in ("benchmark", "methods", "baselines") if (root / name).is_dir()]
            return sha, bool(_git(root, "status", "--porcelain", "--", *code))
    return None, None


@functools.cache
def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version() -> str:
    try:
        return importlib.metadata.version("saibench")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return importlib.import_module("benchmark").__version__


def timestamp() -> str:
    """Now, in UTC, to the second: ``2026-01-31T12:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def provenance(started: str | None = None) -> dict[str, Any]:
    """Return what a result was made with: the record's fields from ``git_sha`` to ``finished``.

    Parameters
    ----------
    started
        The `timestamp` at which the work began; now, if not given. ``finished`` is always now.
    """
    import torch  # here, because reading a store needs no torch and its import takes seconds

    sha, dirty = _checkout()
    now = timestamp()
    return {
        "git_sha": sha,
        "git_dirty": dirty,
        "saibench": _version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "started": started or now,
        "finished": now,
    }


# ---------------------------------------------------------------------------------------------------- records


def _plain(value: object, name: str) -> Any:
    """Convert a record's value to JSON: NaN and infinities (which JSON lacks) as null."""
    if isinstance(value, enum.Enum):
        value = value.value
    if hasattr(value, "detach"):  # a tensor; torch itself is not imported for this
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    raise TypeError(f"record field {name}: a record is flat and holds no {type(value).__name__}")


@dataclass(frozen=True)
class Record:
    """What a finished, failed or diverged cell left in the store.

    Attributes
    ----------
    folder
        Where it lies.
    fields
        The flat record: see `RECORD_FIELDS`.
    """

    folder: Path
    fields: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Read a folder's ``record.json``.

        Raises
        ------
        StoreError
            If the folder holds no readable record, or one that is not its own; the message names the folder.
        """
        path = folder / "record.json"
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{folder}: not a record (no record.json); move it out of the store") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise StoreError(f"{path}: cannot be read ({error}); delete the folder to run it again") from error
        if not isinstance(fields, dict):
            raise StoreError(f"{path}: holds no JSON object; delete the folder to run the cell again")
        place = dict(zip(("task", "scale", "method", "cell_id"), folder.parts[-4:], strict=True))
        for name, here in place.items():
            if fields.get(name) != here:
                raise StoreError(
                    f"{path}: {name} is {fields.get(name)!r} but the folder says {here!r}; "
                    "move the folder back or delete it"
                )
        if fields.get("status") not in STATUSES:
            raise StoreError(f"{path}: status is {fields.get('status')!r}, not one of {', '.join(STATUSES)}")
        return cls(folder, fields)

    def __getitem__(self, name: str) -> Any:
        """Return a field of the record."""
        return self.fields[name]

    @property
    def cell_id(self) -> str:
        """The cell's id."""
        return str(self.fields["cell_id"])

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
        """Path of one of the record's files.

        Raises
        ------
        StoreError
            If the record has no such file.
        """
        path = self.folder / name
        if not path.exists():
            raise StoreError(f"{self.folder}: the record has no {name}; run the cell again with --force")
        return path

    def layers(self) -> pd.DataFrame:
        """``layers.parquet``, one row a layer."""
        return self._table("layers.parquet")

    def images(self) -> pd.DataFrame:
        """``images.parquet``, one row an image."""
        return self._table("images.parquet")

    def _table(self, name: str) -> pd.DataFrame:
        path = self.path(name)
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read ({error}); run the cell again with --force") from error


# ------------------------------------------------------------------------------------------------------ locks

_held: set[int] = set()


def _close_inherited() -> None:
    # A data loader's worker that outlives a killed run must not go on holding the run's locks.
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


@contextlib.contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; the kernel gives it up when the process dies, so no lock is ever stale."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise CellBusy(
                    f"{what}: another process is working on it ({holder}); wait for it or end it, then start again"
                ) from None
            raise StoreError(
                f"{path}: this file system does not lock files ({error.strerror}); use another --store"
            ) from error
        # The last holder removes the file; who then locked the removed one holds nothing and tries again.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)
    _held.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()} since {timestamp()}".encode(), 0)
        yield
    finally:
        _held.discard(descriptor)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------------- writing


def _explain(error: BaseException, path: Path) -> StoreError | None:
    """One line with the remedy, if `error` says that the store cannot be written; None otherwise."""
    code = error.errno if isinstance(error, OSError) else None
    full = code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
    if not full and isinstance(error, OSError | RuntimeError):
        # torch and safetensors report a full disk without its error number
        with contextlib.suppress(OSError):
            full = shutil.disk_usage(path if path.exists() else path.parent).free < _ALMOST_NO_SPACE
    if full:
        return StoreError(f"{path}: no space left on the disk; free some or use another --store")
    name = error.filename if isinstance(error, OSError) else None
    if code not in (errno.EACCES, errno.EPERM, errno.EROFS) or not str(name).startswith(str(path)):
        return None  # an error of the work itself, not of the store
    reason = os.strerror(code)
    return StoreError(f"{path}: cannot be written ({reason}); make it writable or use another --store")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_json(path: Path, value: object) -> None:
    """Write whole or not at all: a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


class Work:
    """A cell under way: a folder to write into, and `commit`. Made by `Store.begin`.

    Attributes
    ----------
    folder
        Where to leave predictions and ``model.safetensors``; all of it becomes the record's folder.
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
        _checkout()  # now: the code that runs is the code as it was loaded, whatever is committed meanwhile
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.resumed = any(self.scratch.iterdir())

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
            If the store cannot be written; what was written stays in `folder`.
        """
        cell = self.cell
        own = {name: _plain(value, name) for name, value in fields.items()}
        status = own.setdefault("status", "finished")
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is not one of {', '.join(STATUSES)}")
        known: dict[str, Any] = {
            **provenance(self._started),
            **own,
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
                record |= {f"p_{key}": _plain(value, key) for key, value in sorted(cell.parameters.items())}
            if name == "status":
                record |= {key: known.pop(key) for key in sorted(known) if key.startswith("metric_")}
        record |= {key: value for key, value in known.items() if key not in record}
        if status != "finished" and self._final.exists() and Record.load(self._final).finished:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.record = Record(self._final, record)
            return self.record
        try:
            for name, table in (("layers.parquet", layers), ("images.parquet", images)):
                if table is not None:
                    table.to_parquet(self.folder / name, index=False)
            (self.folder / "cell.json").write_text(canonical_json(cell.identity) + "\n", encoding="utf-8")
            shutil.rmtree(self.scratch, ignore_errors=True)
            for path in self.folder.rglob("*"):
                _sync(path)
            _write_json(self.folder / "record.json", record)
            _sync(self.folder)
            _promote(self.folder, self._final)
        except OSError as error:
            raise _explain(error, self.folder) or StoreError(f"{self.folder}: {error}") from error
        self.record = Record.load(self._final)
        return self.record

    def fail(self, error: object, status: str = "failed", **fields: Any) -> Record:
        """Record that the cell failed or diverged, and why: reports show it, the next call runs it again."""
        (self.folder / "record.json").unlink(missing_ok=True)
        return self.commit({**fields, "status": status, "error": " ".join(str(error).split()) or repr(error)})


def _old(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _lock(final: Path) -> Path:
    return final.with_name(f".{final.name}.lock")


def _promote(partial: Path, final: Path) -> None:
    """Put a complete partial folder in its place. A kill between the two renames is mended by `_recover`."""
    old = _old(final)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
    os.rename(partial, final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _recover(final: Path) -> None:
    """Finish or undo a replacement that a kill cut in two; the caller holds the lock."""
    partial, old = _partial(final), _old(final)
    if (partial / "record.json").exists():
        _promote(partial, final)
    elif old.exists() and not final.exists():
        os.rename(old, final)
    shutil.rmtree(old, ignore_errors=True)


class Store:
    """A folder of records.

    Parameters
    ----------
    root
        The folder; made by the first write.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        """Return how to make this store."""
        return f"Store({str(self.root)!r})"

    def folder(self, cell: Cell) -> Path:
        """Where the cell's record lies, or will."""
        return self.root / cell.task / cell.scale / cell.method / cell.id

    def check_writable(self) -> None:
        """Write and remove a probe: call it before anything expensive.

        Raises
        ------
        StoreError
            If the folder cannot be made or written.
        """
        probe = self.root / f".probe.{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with open(probe, "wb") as stream:
                stream.write(b"probe")
                stream.flush()
                os.fsync(stream.fileno())
            probe.unlink()
        except (FileExistsError, NotADirectoryError):
            raise StoreError(f"{self.root}: is not a folder; use another --store") from None
        except OSError as error:
            raise _explain(error, self.root) or StoreError(
                f"{self.root}: cannot be written ({error.strerror}); use another --store"
            ) from error

    def find(self, cell: Cell) -> Record | None:
        """Return the cell's record, whatever its status; None if it never came to an end.

        Raises
        ------
        StoreError
            If its folder is there but broken.
        """
        final = self.folder(cell)
        self._mend(final)
        return Record.load(final) if final.exists() else None

    def get(self, cell_id: str) -> Record:
        """Return the record whose cell id begins with `cell_id`.

        Raises
        ------
        StoreError
            If there is none, or more than one.
        """
        records = [record for record in self.scan()[0] if cell_id and record.cell_id.startswith(cell_id)]
        if len(records) != 1:
            found = ", ".join(record.cell_id for record in records[:5]) or "none"
            raise StoreError(f"{self.root}: one cell id must begin with {cell_id!r}, found: {found}")
        return records[0]

    @contextlib.contextmanager
    def begin(self, cell: Cell, force: bool = False) -> Iterator[Work]:
        """Work on a cell, alone. Leaving without `Work.commit` keeps the partial folder for the next run.

        Parameters
        ----------
        cell
            What to work on.
        force
            Replace a finished record; it stays in place until the new one is committed.

        Raises
        ------
        CellBusy
            If another process works on it.
        CellFinished
            If it is finished and `force` is not set. Failed and diverged cells run again.
        StoreError
            If the store cannot be written; also in place of an error of a full disk from within the block.
        """
        self.check_writable()
        final = self.folder(cell)
        partial = _partial(final)
        with contextlib.ExitStack() as stack:
            try:
                final.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(_lock(final), str(cell)))
                _recover(final)
                if not force and final.exists() and Record.load(final).finished:
                    raise CellFinished(f"{cell}: is finished already; use --force to replace it")
                work = Work(cell, partial, final)
            except OSError as error:
                raise _explain(error, final.parent) or StoreError(f"{final.parent}: {error}") from error
            try:
                yield work
            except StoreError:
                raise
            except Exception as error:
                explained = _explain(error, partial)
                if explained:
                    raise explained from error
                raise

    def scan(self) -> tuple[list[Record], list[str]]:
        """Return all records, by path, and one line for each folder that is not one."""
        records: list[Record] = []
        warnings: list[str] = []
        if not self.root.exists():
            return records, warnings
        if not self.root.is_dir():
            raise StoreError(f"{self.root}: is not a folder; use another --store")
        self._walk(self.root, 0, records, warnings)
        return records, warnings

    def records(self, task: str | None = None, scale: str | None = None, **where: object) -> pd.DataFrame:
        """Return all records as a table, one row a cell, with the record's folder in the column ``folder``.

        Parameters
        ----------
        task, scale, where
            Keep the records whose fields have these values: ``records("coco", status="finished")``.

        Returns
        -------
        pandas.DataFrame
            Records of different methods have different ``p_*`` columns: what a record lacks is missing.
            Folders that are no record are logged and listed in ``.attrs["warnings"]``.
        """
        records, warnings = self.scan()
        for line in warnings:
            _log.warning("%s", line)
        return table(records, warnings, task=task, scale=scale, **where)

    def _mend(self, final: Path) -> None:
        """Recover if a replacement was cut in two; leave a store alone that is read-only or in use."""
        if not ((_partial(final) / "record.json").exists() or (_old(final).exists() and not final.exists())):
            return
        with contextlib.suppress(OSError, StoreError), _locked(_lock(final), final.name):
            _recover(final)

    def _walk(self, folder: Path, depth: int, records: list[Record], warnings: list[str]) -> None:
        if depth == 4:
            try:
                records.append(Record.load(folder))
            except StoreError as error:
                warnings.append(str(error))
            return
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            warnings.append(f"{folder}: cannot be read ({error.strerror}); its records are not shown")
            return
        if depth == 3:
            hidden = {entry.name for entry in entries if entry.name.startswith(".")}
            for name in hidden:
                self._mend(folder / name[1:].rpartition(".")[0])
            if hidden:
                entries = sorted(folder.iterdir())
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if (entry / "record.json").exists() and depth < 3:
                warnings.append(f"{entry}: a record outside <task>/<scale>/<method>/; move it to its place")
            elif entry.is_dir():
                self._walk(entry, depth + 1, records, warnings)
            elif depth == 3:
                warnings.append(f"{entry}: not a record; move it out of the store")


def table(records: list[Record], warnings: list[str] | None = None, **where: object) -> pd.DataFrame:
    """Make a table of records; see `Store.records`."""
    rows = [
        {**record.fields, "folder": str(record.folder)}
        for record in records
        if all(value is None or record.fields.get(name) == value for name, value in where.items())
    ]
    columns = dict.fromkeys((*RECORD_FIELDS, *(name for row in rows for name in row), "folder"))
    frame = pd.DataFrame(rows, columns=list(columns))
    frame.attrs["warnings"] = list(warnings or [])
    return frame
