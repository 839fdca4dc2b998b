"""Executors: where a sweep's cells run, each in one module that is found by its name.

A module sets ``EXECUTOR`` to a class that keeps the protocol of `base`. What is the same everywhere, running one cell
and saying how it ended, is in `working`. Which cell runs when is `benchmark.sweep`'s business.
"""

import importlib

from benchmark.errors import unknown
from benchmark.executors.base import Ended, Executor, Job, Settings
from benchmark.listing import executor_names

__all__ = ["Ended", "Executor", "Job", "Settings", "find_executor"]


def find_executor(name: str, settings: Settings) -> Executor:
    """Return an executor, ready to start cells.

    Raises
    ------
    UsageError
        For a name that is not there, or settings that it does not know.
    SaibenchError
        If what it needs is not there: a package, or a program.
    """
    known = executor_names()
    if name not in known:
        raise unknown("executor", name, known)
    executor: Executor = importlib.import_module(f"{__name__}.{name}").EXECUTOR.make(settings)
    return executor
