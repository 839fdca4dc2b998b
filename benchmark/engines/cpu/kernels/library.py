"""The compiled library: whether it is there, which instruction set it uses, and memory that suits it."""

from __future__ import annotations

import importlib
import math
import operator
import os
from functools import cache
from typing import Any

import numpy as np

from benchmark.cores import usable_cores
from benchmark.engines.base import EngineUnavailable, Floats

try:
    compiled: Any = importlib.import_module("benchmark.engines.cpu.kernels._binding")
except ImportError:  # installed without a C compiler
    compiled = None

INTERFACE = 6
"""That of `_binding.pyx`: kernels compiled from another commit may have another one."""

INSTRUCTION_SETS = ("portable", "avx2", "avx512")

THREAD_LIMIT = 256
"""Threads at most: those of the pool (`MAX_THREADS` of threads.h)."""


def require() -> None:
    """Raise `EngineUnavailable`, which says what to install, if the kernels were not compiled."""
    if compiled is None:
        raise EngineUnavailable(
            "the CPU engine was not compiled: install a C compiler (Debian: `apt install gcc python3-dev`), then run "
            "`pip install --force-reinstall --no-deps saibench`, or `pip install -e .` in a checkout"
        )
    if getattr(compiled, "INTERFACE", None) != INTERFACE:
        raise EngineUnavailable(
            "the CPU engine was compiled from other sources than these: run `python setup.py build_ext --inplace`, or "
            "`tox -r` with tox's environment"
        )
    _select_by_environment()


@cache
def _select_by_environment() -> None:
    """Select the instruction set that ``SAIBENCH_INSTRUCTION_SET`` names, to time one that is not the best here."""
    name = os.environ.get("SAIBENCH_INSTRUCTION_SET")
    if name and (name not in INSTRUCTION_SETS or not compiled.use_isa(INSTRUCTION_SETS.index(name))):
        there = ", ".join(INSTRUCTION_SETS[: compiled.best_isa() + 1])
        raise EngineUnavailable(f"SAIBENCH_INSTRUCTION_SET={name}: this machine and build have {there}")


def instruction_set() -> str:
    """Return the instruction set in use: ``avx512``, ``avx2`` or ``portable``."""
    require()
    return str(compiled.isa_name())


def max_threads() -> int:
    """Return the cores that this process may run on, or what ``OMP_NUM_THREADS`` says instead, as for PyTorch."""
    require()
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(wanted) if wanted.isdecimal() and int(wanted) else usable_cores(), THREAD_LIMIT)


def checked_threads(threads: int) -> int:
    """Check a number of threads and return it.

    Raises
    ------
    ValueError
        For a number that cannot be.
    """
    if not 1 <= threads <= THREAD_LIMIT:
        raise ValueError(f"threads must be 1 to {THREAD_LIMIT}, not {threads}")
    return operator.index(threads)


def available_instruction_sets() -> list[str]:
    """Return the instruction sets that this CPU and this build can run, slowest first."""
    require()
    return list(INSTRUCTION_SETS[: compiled.best_isa() + 1])


def use_instruction_set(name: str) -> None:
    """Select the instruction set; weights packed before are refused after.

    Raises
    ------
    ValueError
        If the name is unknown or this CPU does not have it.
    """
    require()
    if name not in INSTRUCTION_SETS or not compiled.use_isa(INSTRUCTION_SETS.index(name)):
        raise ValueError(f"instruction set {name!r} is not available here: {available_instruction_sets()}")


def empty(*shape: int) -> Floats:
    """Return an uninitialised float32 array whose data begins on a cache line."""
    size = math.prod(shape)
    raw = np.empty(size * 4 + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * 4].view(np.float32).reshape(shape)
