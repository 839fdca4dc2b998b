"""Cells side by side on this machine: worker processes that each run one cell at a time.

Workers share nothing, so that one that is killed takes no other with it. Each answers through a pipe of its own.
"""

import multiprocessing
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Self

import torch

from benchmark.cores import usable_cores
from benchmark.errors import UsageError
from benchmark.executors.base import Ended, Job, Settings
from benchmark.executors.working import work
from benchmark.hardware import follow_parent

_SECONDS_TO_END = 5.0


class LocalExecutor:
    """Runs cells in worker processes.

    Parameters
    ----------
    jobs
        Cells at a time.
    """

    def __init__(self, jobs: int) -> None:
        self.slots: int | None = jobs
        self.pause = 0.5
        self._idle: list[_Worker] = []
        self._busy: dict[str, _Worker] = {}

    @classmethod
    def make(cls, settings: Settings) -> Self:
        """Return an executor of so many jobs, or of `default_jobs`."""
        for name in settings.cluster:
            raise UsageError(f"{name} is an option of a cluster's queue: give --executor slurm, or leave it out")
        return cls(settings.jobs or default_jobs(settings.threads))

    def start(self, jobs: Sequence[Job]) -> None:
        """Give each job to an idle worker, or to a new one."""
        for job in jobs:
            self._idle = [worker for worker in self._idle if worker.process.is_alive()]
            worker = self._idle.pop() if self._idle else _Worker()
            worker.connection.send(job)
            self._busy[job.cell_id] = worker

    def poll(self, seconds: float) -> list[Ended]:
        """Return the jobs that have ended, those of killed workers among them."""
        if not self._busy:
            time.sleep(seconds)
            return []
        # Of a killed worker the pipe may stay open: in the processes that read its images.
        waited = [each for worker in self._busy.values() for each in (worker.connection, worker.process.sentinel)]
        ready = set(wait(waited, seconds))
        ended = []
        for cell_id, worker in list(self._busy.items()):
            if worker.connection in ready or worker.process.sentinel in ready:
                ended.append(self._collect(cell_id, self._busy.pop(cell_id)))
        return ended

    def close(self) -> None:
        """End all workers, whatever they do."""
        for worker in (*self._idle, *self._busy.values()):
            worker.end()
        self._idle, self._busy = [], {}

    def _collect(self, cell_id: str, worker: "_Worker") -> Ended:
        try:
            if worker.connection.poll():
                ended: Ended = worker.connection.recv()
                self._idle.append(worker)
                return ended
        except (EOFError, OSError):
            pass
        worker.process.join()
        worker.end()
        return Ended(cell_id, f"cell {cell_id}: {_describe(worker.process.exitcode)}")


def _describe(code: int | None) -> str:
    """Say what an exit code of a worker means."""
    if code is None or code >= 0:
        return f"its process ended by itself with exit code {code}; the code of the method or the task does that"
    kill = " (the machine ran out of memory?)" if -code == signal.SIGKILL else ""
    return (
        f"its process was ended by {signal.Signals(-code).name}{kill}; the next sweep resumes it: "
        "where memory is short, give fewer --jobs"
    )


class _Worker:
    """A process that runs the jobs that come through its pipe."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        self.process.start()
        theirs.close()  # or its end would go unnoticed

    def end(self) -> None:
        """End the process now."""
        self.process.terminate()
        self.process.join(_SECONDS_TO_END)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the sweep, which ends its workers
    follow_parent()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(work(job))


def default_jobs(threads: int | None) -> int:
    """Return how many cells run side by side: one for each group of cores that a cell uses, one on a GPU."""
    if torch.cuda.is_available() or threads is None:
        return 1
    return max(1, usable_cores() // threads)


EXECUTOR = LocalExecutor
