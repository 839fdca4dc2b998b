"""How far each cell of a sweep is, as the store says it: also of cells that another process runs."""

from dataclasses import dataclass
from typing import Literal

from benchmark.cells import Plan
from benchmark.errors import StoreError
from benchmark.store import Record, Store


@dataclass(frozen=True)
class State:
    """How far a cell is.

    Attributes
    ----------
    plan : Plan
    name : str
        ``running`` also while a finished cell runs again; ``to do`` also where a run was interrupted.
    detail : str
        The holder and the progress of one that runs, the reason of one that failed.
    record : Record or None
        What it left, if anything.
    """

    plan: Plan
    name: Literal["finished", "failed", "diverged", "running", "to do"]
    detail: str = ""
    record: Record | None = None

    @property
    def failed(self) -> bool:
        """Whether it has ended without a result: it runs again only when the user asks for that."""
        return self.name in ("failed", "diverged")


def state_of(planned: Plan, store: Store) -> State:
    """Return how far a cell is."""
    holder = store.holder(planned.cell)
    try:
        record = store.find(planned.cell)
    except StoreError as error:
        return State(planned, "failed", str(error))
    if holder is not None:
        return State(planned, "running", " ".join(filter(None, [_progress(planned, store), f"({holder})"])), record)
    if record is None:
        left = _progress(planned, store)
        return State(planned, "to do", left and f"interrupted: {left}")
    if record.finished:
        return State(planned, "finished", record=record)
    return State(planned, "diverged" if record.status == "diverged" else "failed", str(record["error"]), record)


def _progress(planned: Plan, store: Store) -> str:
    found = store.progress(planned.cell)
    return "" if found is None else "{} {}/{}".format(*found)
