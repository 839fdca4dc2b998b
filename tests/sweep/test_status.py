"""``sweep --status`` while another process sweeps."""

import json
import subprocess
import sys
import time

import pytest

from benchmark.sweep import run_sweep, state_of
from tests.conftest import FIXTURES
from tests.sweep.conftest import STRIPES, TOYS, Here, toys


@pytest.fixture
def sweeping(store):
    """A process that sweeps slowly."""
    command = [
        sys.executable, "-m", "benchmark.cli", "sweep", STRIPES, "--methods", f"{TOYS}::slow", "--set", "pause=30",
        "--jobs", "1", "--store", store.root,
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=FIXTURES.parents[1], stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_it_says_what_is_done_runs_failed_and_is_to_do(store, sweeping, run_cli, trained):
    running = toys("slow", parameters={"pause": 30}).plans[-1]
    deadline = time.monotonic() + 120
    while state_of(running, store).name != "running":
        assert sweeping.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    failing = toys("fated", parameters={"fate": "fails"})
    run_sweep(failing, store, Here())
    command = ["sweep", STRIPES, "--store", store.root, "--status"]
    methods = ["--methods", f"{TOYS}::slow,{TOYS}::fated,{TOYS}::many"]
    code, out, err = run_cli(*command, *methods, "--json")
    assert code == 0, err
    rows = {row["cell"]: row for row in json.loads(out)}
    assert rows["dense seed=0"]["state"] == "finished"
    assert rows["fated fate=fails seed=0"]["state"] == "failed"
    assert rows["fated fate=fails seed=0"]["detail"] == "RuntimeError: an accident"
    assert rows["many number=0 seed=0"]["state"] == "to do"
    code, out, _ = run_cli(*command, "--methods", f"{TOYS}::slow", "--set", "pause=30")
    assert code == 0 and "2 cells: 1 finished, 1 running" in out and "(pid " in out
    assert sweeping.poll() is None


def test_it_makes_no_store(store, run_cli):
    code, out, _ = run_cli("sweep", STRIPES, "--methods", f"{TOYS}::slow", "--store", store.root, "--status")
    assert code == 0 and "2 cells: 2 to do" in out and not store.root.exists()
