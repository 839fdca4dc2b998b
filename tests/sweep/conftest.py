"""What tests of sweeps share: a task of two steps, methods for it, and executors."""

import contextlib
import time

import pytest

from benchmark.executors.local import LocalExecutor
from benchmark.executors.working import work
from benchmark.store import Store
from benchmark.sweep import make_sweep, run_sweep
from benchmark.tasks import discovery
from tests.conftest import FIXTURES

STRIPES = str(FIXTURES / "stripes")
TOYS = FIXTURES / "toys.py"


class Here:
    """An executor that runs each job in this process, when it is asked for those that have ended."""

    def __init__(self, slots=1):
        self.slots = slots
        self.pause = 0.1
        self.jobs = []
        self.started = []

    def start(self, jobs):
        self.jobs += jobs
        self.started += [job.cell_id for job in jobs]

    def poll(self, seconds):
        jobs, self.jobs = self.jobs, []
        if not jobs:
            time.sleep(seconds)
        return [work(job) for job in jobs]

    def close(self):
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Keep what is rendered out of the user's cache, and forget folders that a test opened."""
    monkeypatch.setenv("SAIBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "stripes"))
    monkeypatch.setattr(discovery, "_opened", {})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Return a function: what the toys noted, in order."""
    log = tmp_path / "log"
    monkeypatch.setenv("TOYS_LOG", str(log))
    return lambda: log.read_text().split() if log.exists() else []


def toys(name, **arguments):
    """Plan a sweep of one of the toys on the stripes."""
    return make_sweep(STRIPES, [f"{TOYS}::{name}"], **arguments)


def run_local(jobs, sweep, store, **arguments):
    """Run a sweep with so many worker processes."""
    with contextlib.closing(LocalExecutor(jobs)) as executor:
        return run_sweep(sweep, store, executor, **arguments)
