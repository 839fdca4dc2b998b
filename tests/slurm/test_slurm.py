"""Sweeps on a real Slurm of one host: ``tox -e slurm`` starts it."""

import os
import subprocess
import sys
import time

import pytest

from benchmark.store import Store
from benchmark.sweep import run_sweep, state_of
from tests.conftest import FIXTURES
from tests.sweep.conftest import STRIPES, TOYS, Here, toys
from tests.sweep.results import results

pytestmark = pytest.mark.skipif("SAIBENCH_SLURM" not in os.environ, reason="needs a Slurm cluster: tox -e slurm")

STEPS = 40
LENGTHS = {"train.steps": STEPS}
POINTS = {"pause": 0.5}


@pytest.fixture(autouse=True)
def checkpoints(monkeypatch):
    """Keep a checkpoint after each step: these cells take seconds, not the minutes between two checkpoints."""
    monkeypatch.setenv("TOYS_CHECKPOINTS", "1")


def submit(store, *arguments):
    """Start a sweep on the cluster."""
    command = [
        sys.executable, "-m", "benchmark.cli", "sweep", STRIPES, "--store", store.root, "--executor", "slurm",
        "--partition", "low", "--time", "10", *arguments,
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=FIXTURES.parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(holds, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_preempted_array_job_resumes_and_gives_the_records_of_a_local_sweep(store, tmp_path, trained):
    words = [f"--set={name}={value}" for name, value in POINTS.items()]
    words += [f"--recipe={name}={value}" for name, value in LENGTHS.items()]
    process = submit(store, "--methods", f"{TOYS}::slow", "--seeds", "0,1", *words)
    sweep = toys("slow", parameters=POINTS, overrides=LENGTHS, seeds=[0, 1])
    slow = [each for each in sweep.plans if each.method.name == "slow"]

    def under_way():
        found = [store.progress(each.cell) for each in slow]
        return any(each is not None and each[0] == "train" and 10 < each[1] < STEPS - 10 for each in found)

    wait_until(under_way, process)
    both = "--cpus-per-task=2"  # the whole node
    urgent = ["sbatch", "--wait", "--partition=high", both, "--output=/dev/null", "--wrap", "sleep 3"]
    subprocess.run(urgent, check=True, timeout=300)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, (out, err)
    assert "4 cells run" in out and "2 cells, logs in" in err
    logs = [(store.root / ".slurm" / f"{each.cell.id}.log").read_text() for each in slow]
    assert max(log.count("begins on") for log in logs) == 2
    assert all(log.rstrip().endswith("finished") for log in logs)
    # Each step is noted as it begins: of each cell that was cut off, at most the one under way begins again.
    assert 2 * STEPS <= len(trained()) <= 2 * STEPS + 2
    local = Store(tmp_path / "local")
    run_sweep(sweep, local, Here())
    assert len(results(local)) == 4 and results(store) == results(local)


def test_a_cancelled_job_is_one_clear_line_and_the_others_go_on(store):
    words = ["--methods", f"{TOYS}::slow", "--seeds", "0,1", "--set", "pause=30"]
    slow = [each for each in toys("slow", parameters={"pause": 30}, seeds=[0, 1]).plans if each.method.name == "slow"]
    lost, other = slow
    process = submit(store, *words)
    wait_until(lambda: all(state_of(each, store).name == "running" for each in slow), process)
    log = (store.root / ".slurm" / f"{lost.cell.id}.log").read_text()
    subprocess.run(["scancel", log.partition("Slurm job ")[2].split()[0]], check=True)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1 and "3 cells run" in out and "1 failed" in out
    (line,) = [line for line in err.splitlines() if line.startswith("failed: cell")]
    assert lost.cell.id in line and "ended without a result (CANCELLED)" in line and f"{lost.cell.id}.log" in line
    assert state_of(other, store).name == "finished" and state_of(lost, store).name == "to do"


def test_what_slurm_refuses_is_one_line(store):
    process = submit(store, "--methods", f"{TOYS}::slow", "--slurm", "qos=no-such-thing", "--slurm", "mem=9999999G")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, (out, err)
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "Slurm took no job" in line
