"""What an executor is: it takes cells, runs them elsewhere, and says which have ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from benchmark.cells import Request
from benchmark.progress import Note


@dataclass(frozen=True)
class Job:
    """A cell to run; plain values, so that it can be sent to another process or machine.

    Attributes
    ----------
    cell_id : str
        The cell that the request led to when the sweep was planned.
    request : Request
    store : str
        The store's folder, as an absolute path.
    force : bool
        Run it even where it is finished.
    known : str or None
        When the cell's record was made, where it has one already; a newer one is another process's, and stays.
    """

    cell_id: str
    request: Request
    store: str
    force: bool = False
    known: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes
    ----------
    cell_id : str
    error : str
        Why there is no finished record; empty where there is.
    busy : bool
        Whether nothing was run, because another process works on the cell.
    """

    cell_id: str
    error: str = ""
    busy: bool = False


@dataclass(frozen=True)
class Settings:
    """What a user may tell an executor.

    Attributes
    ----------
    jobs : int
        Cells at a time; 0 for the executor's own choice.
    threads : int or None
        PyTorch threads of a cell; None for all cores.
    logs : Path
        A folder for logs.
    cluster : mapping
        Options of a cluster's queue by name.
    note : callable
        Prints a line for the user.
    """

    jobs: int = 0
    threads: int | None = 1
    logs: Path = Path("logs")
    cluster: Mapping[str, Any] = field(default_factory=dict)
    note: Note = print


class Executor(Protocol):
    """Runs cells somewhere.

    Attributes
    ----------
    slots : int or None
        Jobs that it takes at a time; None for any number.
    pause : float
        Seconds between two looks at what goes on.
    """

    slots: int | None
    pause: float

    @classmethod
    def make(cls, settings: Settings) -> Self:
        """Return an executor; see `find_executor` for what is raised."""
        ...

    def start(self, jobs: Sequence[Job]) -> None:
        """Begin jobs; their number is within `slots`."""
        ...

    def poll(self, seconds: float) -> list[Ended]:
        """Return the jobs that have ended since the last call; wait so many seconds at most where none has."""
        ...

    def close(self) -> None:
        """Let go of everything; jobs still running end where they are this machine's."""
        ...
