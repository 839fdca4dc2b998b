"""What a result was made with: versions, commit, machine, dates.

It knows nothing about stores, so that timings and reports carry the same fields as records.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.errors import StoreError
from benchmark.store.pack import read_file

__all__ = ["ENVIRONMENT", "checkout", "environment", "provenance", "read_environment", "timestamp", "write_environment"]

#: A record's file of the installed packages, one ``name==version`` a line, as pip takes it.
ENVIRONMENT = "environment.txt"

_THIS_FILE = "benchmark/store/provenance.py"

#: What lowers the instruction set of PyTorch's own kernels, of oneDNN (by either name) and of MKL.
_ISA_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def checkout() -> tuple[str | None, bool | None]:
    """Return commit and dirtiness of the checkout that the code came from; None, None if installed.

    An installed copy may lie inside a checkout of something else (a virtual environment in a project's
    folder), so a checkout counts only when it tracks this very file, byte for byte.
    """
    here = Path(__file__).resolve()
    for root in dict.fromkeys([here.parents[2], Path.cwd()]):
        source = root / _THIS_FILE
        try:
            same = source.read_bytes() == here.read_bytes()
        except OSError:
            continue
        if not same or _git(root, "ls-files", "--error-unmatch", _THIS_FILE) is None:
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


def _isa_limit() -> str | None:
    """Return the variables that lower the instruction set, as ``NAME=value`` words; None if none is set."""
    return " ".join(f"{name}={os.environ[name]}" for name in _ISA_LIMITS if os.environ.get(name)) or None


def _version() -> str:
    try:
        return importlib.metadata.version("saibench")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return importlib.import_module("benchmark").__version__


@functools.cache
def environment() -> dict[str, str]:
    """Return the version of each installed distribution by its normalised name.

    Saibench's own is left out: the commit says more, and no index has it.
    """
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name and distribution.version:  # what a broken installation left says neither
            # The first one on the path is the one that is imported.
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    found.pop("saibench", None)
    return dict(sorted(found.items()))


def write_environment(folder: Path) -> None:
    """Write `environment` into a record's folder."""
    lines = [f"{name}=={version}\n" for name, version in environment().items()]
    (folder / ENVIRONMENT).write_text("".join(lines), encoding="utf-8")


def read_environment(path: Path) -> dict[str, str]:
    """Read what `write_environment` wrote, by its path in a record's folder; the record may be packed.

    Raises
    ------
    StoreError
        If it is another file, in one line that names it.
    """
    try:
        lines = [line.partition("==") for line in read_file(path.parent, path.name).decode().splitlines()]
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); run the cell again with --force") from None
    if not all(name and equals and version for name, equals, version in lines):
        raise StoreError(f"{path}: is no list of packages; run the cell again with --force")
    return {name: version for name, _, version in lines}


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

    sha, dirty = checkout()
    now = timestamp()
    return {
        "git_sha": sha,
        "git_dirty": dirty,
        "saibench": _version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "isa_limit": _isa_limit(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "started": started or now,
        "finished": now,
    }
