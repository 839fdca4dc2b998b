"""Cells as an array job of a Slurm cluster, submitted by submitit (the extra ``cluster``).

Store, data, code and Python are expected where every node finds them. A job that is pre-empted is queued again by
Slurm, one at its time limit by submitit; either goes on from its cell's last checkpoint, which lies in the store.
Jobs outlive the process that submitted them. Two of one cell do no harm: the store's lock lets one run.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmark.errors import SaibenchError, UsageError
from benchmark.executors.base import Ended, Job, Settings
from benchmark.executors.working import work
from benchmark.progress import Note
from benchmark.store import timestamp

#: How often a job that reached its time limit is queued again: as long as it takes, within reason.
TIME_LIMITS = 100
_OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
_SECONDS_WITHOUT_RESULT = 30.0  # a result may be seen later than its job's end: nodes write it over a network

#: States of the user's jobs by id; None where they cannot be asked for at the moment.
States = Callable[[], Mapping[str, str] | None]


@dataclass(frozen=True)
class CellJob:
    """What submitit runs on a node: a job, with what it prints in the cell's own log."""

    job: Job
    log: str

    def __call__(self) -> Ended:
        """Run the cell."""
        with _printing_to(Path(self.log)):
            _say(self.job, f"begins on {socket.gethostname()}, Slurm job {slurm_job(os.environ)}")
            ended = work(self.job)
            _say(self.job, "is another process's" if ended.busy else ended.error or "finished")
        return ended

    def checkpoint(self) -> Any:
        """Return what submitit queues again at the time limit: the same, which resumes."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Let everything that this process prints, compiled libraries included, go to the end of a file."""
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with path.open("a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        for descriptor, former in zip((1, 2), kept, strict=True):
            os.dup2(former, descriptor)
            os.close(former)


def _say(job: Job, text: str) -> None:
    print(f"{timestamp()} cell {job.cell_id}: {text}", flush=True)


class SlurmExecutor:
    """Submits cells; those that are ready at one time are one array job.

    Parameters
    ----------
    executor
        Submitit's.
    logs
        The folder of the cells' logs.
    note
        Is told what was submitted.
    states
        How jobs are.
    pause
        Seconds between two looks: the store lies on a network, and Slurm serves others, too.
    """

    def __init__(self, executor: Any, logs: Path, note: Note, states: States, pause: float = 5.0) -> None:
        self.slots: int | None = None
        self.pause = pause
        self.executor, self.logs, self.note, self.states = executor, logs, note, states
        self._jobs: dict[str, Any] = {}
        self._missed: dict[str, float] = {}

    @classmethod
    def make(cls, settings: Settings) -> Self:
        """Return an executor with the queue's options: ``time``, and what else sbatch knows."""
        parameters = _parameters(settings)
        if importlib.util.find_spec("submitit") is None:
            raise SaibenchError("--executor slurm needs submitit: python -m pip install 'saibench[cluster]'")
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                raise SaibenchError(f"--executor slurm: there is no {program} here; run it where jobs are submitted")
        import submitit

        executor = submitit.SlurmExecutor(settings.logs / "submitit", max_num_timeout=TIME_LIMITS)
        executor.update_parameters(**parameters)
        return cls(executor, settings.logs, settings.note, slurm_states)

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit jobs as one array.

        Raises
        ------
        SaibenchError
            If Slurm refuses it, with its reason.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            with self.executor.batch():
                submitted = [self.executor.submit(CellJob(job, str(self.log(job.cell_id)))) for job in jobs]
        except (FailedJobError, FailedSubmissionError) as error:
            raise SaibenchError(f"Slurm took no job: {' '.join(str(error).split())}") from error
        self._jobs |= {job.cell_id: each for job, each in zip(jobs, submitted, strict=True)}
        number = str(submitted[0].job_id).partition("_")[0]
        self.note(
            f"Slurm job {number}: {len(jobs)} cells, logs in {self.logs}; it goes on when this command ends, "
            f"and ends with: scancel {number}"
        )

    def poll(self, seconds: float) -> list[Ended]:
        """Return the jobs that have ended, those that left no result among them."""
        time.sleep(seconds)
        ended = [self._collect(each) for each, job in list(self._jobs.items()) if job.paths.result_pickle.exists()]
        return ended + (self._lost(self.states(), time.monotonic()) if self._jobs else [])

    def close(self) -> None:
        """Leave jobs that still run to the cluster."""
        self._jobs = {}

    def log(self, cell_id: str) -> Path:
        """Return the log of a cell."""
        return self.logs.resolve() / f"{cell_id}.log"

    def _collect(self, cell_id: str) -> Ended:
        from submitit.core.utils import FailedJobError

        job = self._jobs.pop(cell_id)
        try:
            ended: Ended = job.result()
        except FailedJobError as error:
            ended = self._failed(cell_id, job, _last_line(str(error)))
        for path in (job.paths.submitted_pickle, job.paths.result_pickle):
            path.unlink(missing_ok=True)
        return ended

    def _lost(self, states: Mapping[str, str] | None, now: float) -> list[Ended]:
        """Return the jobs that ended without a result: cancelled, out of memory, on a node that failed."""
        if states is None:
            return []
        ended = []
        for cell_id, job in list(self._jobs.items()):
            state = states.get(str(job.job_id), "gone")
            if state != "gone" and state not in _OVER:
                self._missed.pop(cell_id, None)
            elif now - self._missed.setdefault(cell_id, now) >= _SECONDS_WITHOUT_RESULT:
                del self._jobs[cell_id]
                ended.append(self._failed(cell_id, job, f"ended without a result ({state})"))
        return ended

    def _failed(self, cell_id: str, job: Any, reason: str) -> Ended:
        logs = f"{self.log(cell_id)} and {job.paths.stderr}"
        return Ended(cell_id, f"cell {cell_id}: Slurm job {job.job_id}: {reason}; see {logs}")


def slurm_job(environment: Mapping[str, str]) -> str:
    """Return the id of the job that runs here: ``12_3`` of an array, so that cancelling it cancels no other.

    Each job of an array also has a plain number, and one of these is the array's own.
    """
    array = environment.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else environment.get("SLURM_JOB_ID", "none")


def _last_line(text: str) -> str:
    """Return the last line of the traceback that submitit puts between rules."""
    parts = re.split(r"^-{20,}$", text, flags=re.MULTILINE)
    return parts[min(1, len(parts) - 1)].strip().splitlines()[-1]


def _parameters(settings: Settings) -> dict[str, Any]:
    """Return submitit's parameters for the options of the queue."""
    options = dict(settings.cluster)
    if "time" not in options:
        raise UsageError("--executor slurm: give --time, the limit of a job, as 2:00:00; at the limit a cell resumes")
    parameters: dict[str, Any] = {"job_name": "saibench", "time": minutes(str(options.pop("time")))}
    gpus = options.pop("gpus", 0)
    if gpus:
        parameters["gpus_per_node"] = gpus
    if settings.threads is not None and not {"cpus-per-task", "cpus_per_task"} & options.keys():
        parameters["cpus_per_task"] = settings.threads
        parameters["srun_args"] = [f"--cpus-per-task={settings.threads}"]  # since Slurm 22.05, srun takes it anew
    if settings.jobs:
        parameters["array_parallelism"] = settings.jobs
    return parameters | {"additional_parameters": {"requeue": True, **options}}


def minutes(text: str) -> int:
    """Return the minutes of a time as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises
    ------
    UsageError
        For another text, or less than a minute.
    """
    match = re.fullmatch(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?)|(?:(?:(\d+):)?(\d+):(\d+))|(\d+)", text)
    if match is None:
        raise UsageError(f"--time {text!r}: write it as H:M:S, D-H:M:S, or in minutes")
    days, hours, mins, seconds, h, m, s, alone = (int(part or 0) for part in match.groups())
    total = 1440 * days + 60 * (hours + h) + mins + m + alone + -(-(seconds + s) // 60)
    if total < 1:
        raise UsageError(f"--time {text!r}: give at least a minute")
    return total


def slurm_states() -> dict[str, str] | None:
    """Return the states of the user's jobs by id, such as ``12_3``; None where squeue cannot say it at the moment."""
    command = ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)


EXECUTOR = SlurmExecutor
