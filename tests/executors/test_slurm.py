"""The Slurm executor on submitit's own local one; tests/slurm has a real cluster."""

import importlib.util
import shutil

import pytest

from benchmark.errors import SaibenchError, UsageError
from benchmark.executors import Job, Settings, find_executor
from benchmark.executors.slurm import CellJob, SlurmExecutor, _parameters, minutes, slurm_job
from benchmark.listing import executor_names
from benchmark.sweep import make_sweep, run_sweep
from tests.sweep.conftest import STRIPES, TOYS

submitit = pytest.importorskip("submitit", reason="needs submitit: the extra `cluster`")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", 30), ("1:30", 2), ("2:00:00", 120), ("0:10:01", 11), ("1-0", 1440), ("1-2:3", 1563), ("2-0:0:30", 2881)],
)
def test_times_are_read_as_slurm_writes_them(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "0", "-5", "1:2:3:4", "1h", "1-"])
def test_other_times_are_one_line(text):
    with pytest.raises(UsageError, match=r"--time '.*': (write it as|give at least)"):
        minutes(text)


def test_the_queues_options_reach_sbatch(tmp_path):
    cluster = {"time": "1:00:00", "gpus": 2, "partition": "big", "mem": "8G", "nice": True}
    parameters = _parameters(Settings(jobs=3, threads=4, cluster=cluster))
    text = submitit.slurm.slurm._make_sbatch_string("run", tmp_path, map_count=5, **parameters)
    lines = set(text.splitlines())
    assert {
        "#SBATCH --time=60", "#SBATCH --gpus-per-node=2", "#SBATCH --partition=big", "#SBATCH --mem=8G",
        "#SBATCH --nice", "#SBATCH --requeue", "#SBATCH --cpus-per-task=4", "#SBATCH --array=0-4%3",
    } <= lines  # fmt: skip


def test_what_is_missing_is_one_line(monkeypatch):
    with pytest.raises(UsageError, match="give --time"):
        find_executor("slurm", Settings())
    timed = Settings(cluster={"time": "5"})
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(SaibenchError, match="there is no sbatch here"):
        find_executor("slurm", timed)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SaibenchError, match=r"needs submitit: .*saibench\[cluster\]"):
        find_executor("slurm", timed)
    with pytest.raises(UsageError, match="time is an option of a cluster's queue"):
        find_executor("local", timed)


def test_executors_are_found_by_name():
    assert executor_names() == ["local", "slurm"]
    with pytest.raises(UsageError, match="unknown executor 'slum'; did you mean 'slurm'"):
        find_executor("slum", Settings())


@pytest.fixture
def notes():
    return []


@pytest.fixture
def executor(tmp_path, notes):
    """An executor whose cluster is this machine."""
    return SlurmExecutor(
        submitit.LocalExecutor(tmp_path / "submitit"), tmp_path / "logs", notes.append, lambda: None, 0.2
    )


def test_a_sweep_runs_through_submitit_with_a_log_for_each_cell(executor, notes, store):
    sweep = make_sweep(STRIPES, [f"{TOYS}::fated"])
    keep = ("dense", None), ("fated", "fails"), ("fated", "none")
    sweep.plans[:] = [each for each in sweep.plans if (each.method.name, each.cell.parameters.get("fate")) in keep]
    outcomes = {each.plan.cell.parameters.get("fate"): each for each in run_sweep(sweep, store, executor)}
    assert {fate: each.status for fate, each in outcomes.items()} == {
        None: "finished",
        "none": "finished",
        "fails": "failed",
    }
    assert "an accident" in outcomes["fails"].error
    for fate, end in ((None, "finished"), ("none", "finished"), ("fails", "an accident")):
        first, *_, last = executor.log(outcomes[fate].plan.cell.id).read_text().splitlines()
        assert "begins on" in first and last.endswith(end)
    assert len(notes) == 2 and "1 cells" in notes[0] and "2 cells" in notes[1]  # those that start from it come after it
    assert not list(executor.executor.folder.glob("*.pkl"))


class Fixed:
    """A job of submitit that never has a result, or that failed."""

    def __init__(self, folder, error=None):
        self.job_id, self.paths, self.error = "7_0", submitit.core.utils.JobPaths(folder, "7_0"), error
        if error:
            self.paths.result_pickle.parent.mkdir(exist_ok=True)
            self.paths.result_pickle.touch()

    def result(self):
        raise self.error


def test_a_job_that_ends_without_a_result_is_told_with_its_state(executor, tmp_path, monkeypatch):
    executor._jobs = {"c0ffee": Fixed(tmp_path)}
    for states in (None, {"7_0": "PENDING"}, {"7_0": "RUNNING"}, {"7_0": "PREEMPTED"}, {"7_0": "REQUEUED"}):
        assert executor._lost(states, 1e9) == []
    assert executor._lost({"7_0": "OUT_OF_MEMORY"}, 0.0) == []  # the result may be on its way
    assert executor._lost({"7_0": "RUNNING"}, 40.0) == executor._lost({}, 50.0) == []
    (ended,) = executor._lost({"7_0": "OUT_OF_MEMORY"}, 90.0)
    assert ended.cell_id == "c0ffee" and "Slurm job 7_0: ended without a result (OUT_OF_MEMORY)" in ended.error
    assert str(executor.log("c0ffee")) in ended.error and executor._jobs == {}


def test_a_job_that_submitit_gave_up_is_told_in_one_line(executor, tmp_path):
    rule = "-" * 22
    trace = "Traceback\n  File\nUncompletedJobError: timed-out too many times.\n"
    error = submitit.core.utils.FailedJobError(f"Job failed:\n{rule}\n{trace}\n{rule}\nYou can check\n  - paths")
    executor._jobs = {"c0ffee": Fixed(tmp_path / "submitit", error)}
    (ended,) = executor.poll(0)
    assert ended.error.startswith("cell c0ffee: Slurm job 7_0: UncompletedJobError: timed-out too many times.; see ")


def test_a_job_of_an_array_is_called_by_its_place_in_it():
    assert slurm_job({"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "1"}) == "8_1"
    assert slurm_job({"SLURM_JOB_ID": "8"}) == "8" and slurm_job({}) == "none"


def test_at_its_time_limit_a_job_is_queued_again_as_it_was(tmp_path):
    job = CellJob(Job("c0ffee", None, str(tmp_path)), str(tmp_path / "log"))
    assert job.checkpoint().function is job
