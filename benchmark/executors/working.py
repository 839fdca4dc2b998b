"""Running one job in the process that is to run it, and saying how it ended."""

from benchmark.cells import execute, plan
from benchmark.errors import SaibenchError
from benchmark.executors.base import Ended, Job
from benchmark.store import CellBusy, Store


def work(job: Job) -> Ended:
    """Run a job's cell; no exception leaves."""
    try:
        return _work(job)
    except CellBusy as error:
        return Ended(job.cell_id, str(error), busy=True)
    except SaibenchError as error:
        return Ended(job.cell_id, str(error))
    except Exception as error:  # outside of the cell's own run, which records what goes wrong in it
        return Ended(job.cell_id, f"cell {job.cell_id}: {type(error).__name__}: {' '.join(str(error).split())}")


def _work(job: Job) -> Ended:
    planned, store = plan(job.request), Store(job.store)
    if planned.cell.id != job.cell_id:
        raise SaibenchError(
            f"{planned.cell}: was cell {job.cell_id} when the sweep was planned; its code or data have changed since: "
            "start the sweep again"
        )
    record = store.find(planned.cell)
    if record is not None and not job.force and record["finished"] != job.known:
        return Ended(job.cell_id, "" if record.finished else f"{planned.cell}: {record.status}: {record['error']}")
    execute(planned, store, job.force)
    return Ended(job.cell_id)
