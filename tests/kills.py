"""Kill a mini sweep at random moments, start it again each time, and compare what it leaves with a sweep left alone.

Every training step ends with a checkpoint, so that kills fall into checkpoints, too. No kill may leave a record that is
torn, failed or made twice. When a sweep has finished, all files of its records must be those of the sweep that nobody
killed, byte for byte, and ``record.json`` must say the same, times apart; then another store is begun, until so many
kills are reached::

    python tests/kills.py --kills 200

A process that runs one cell after the other is killed, because it begins without importing anything. With ``--whom``
it is the command with its worker processes: all of them, the command alone, or one of those that it started::

    python tests/kills.py --kills 20 --whom all,command,child
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import train
from benchmark.cells import execute
from benchmark.cli.options import parse_settings
from benchmark.store import Store, verify
from benchmark.store.checksums import read_checksums
from benchmark.sweep import make_sweep, to_run

FIXTURES = Path(__file__).parent / "fixtures"
COMMAND = FIXTURES / "eager.py"
METHODS = ("dense", "smaller_backbone", "stochastic", "dynconv", "lasnet", "sact", "relu_gating", "uniform")
RECIPE = ("train.steps=6", "pretrain.steps=6", "backbone=mini")
TIMES = {"seconds_train", "seconds_eval", "started", "finished"}
LONGEST = 2.0  # from the first work to the kill, in the mean time of a cell
EARLY, START = 1 / 8, 5.0  # so many kills come within so many seconds of the start, mostly before any work
ATTEMPTS = 3  # runs in a row that end by themselves with an error
PATIENCE = 300.0  # seconds without any work, or without an end after the last kill


class Broken(Exception):
    """A promise that the store or the sweep did not keep."""


class Child:
    """A process that begins as a copy of this one, to which it is like `subprocess.Popen`.

    Parameters
    ----------
    work
        What it does.
    log : Path
        Where it prints.
    """

    def __init__(self, work: Callable[[], None], log: Path) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            with open(log, "ab", buffering=0) as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            try:
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

    def poll(self, block: bool = False) -> int | None:
        """Return how it ended, None while it runs."""
        if self.returncode is None:
            process, status = os.waitpid(self.pid, 0 if block else os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if process else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        begun = time.monotonic()
        while self.poll(timeout is None) is None:
            if timeout is not None and time.monotonic() - begun > timeout:
                raise subprocess.TimeoutExpired("sweep", timeout)
            time.sleep(0.05)


Process = Child | subprocess.Popen[bytes]


@dataclass
class Sweep:
    """A sweep, its store and its cache.

    Attributes
    ----------
    folder : Path
        Holds the store ``store``, the cache ``cache`` with the rendered set, and what was printed, ``log``.
    command : bool
        Whether it is the command, and not a process that runs one cell after the other.
    done : dict
        The records that were finished when it was last checked.
    """

    folder: Path
    task: str
    methods: Sequence[str]
    recipe: Sequence[str]
    command: bool = False
    done: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """The store that it fills."""
        return Store(self.folder / "store")

    def start(self) -> Process:
        """Start it in a process group of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "log"
        return self._start_command(log) if self.command else Child(self._run, log)

    def _start_command(self, log: Path) -> subprocess.Popen[bytes]:
        settings = [word for each in self.recipe for word in ("--recipe", each)]
        arguments = ["sweep", self.task, "--methods", ",".join(self.methods), "--jobs", "1", *settings]
        with open(log, "ab") as stream:
            return subprocess.Popen(
                [sys.executable, str(COMMAND), *arguments, "--store", str(self.store.root)],
                stdout=stream, stderr=stream, start_new_session=True,
                env={**os.environ, "SAIBENCH_CACHE": str(self.folder / "cache")},
            )  # fmt: skip

    def _run(self) -> None:
        os.environ["SAIBENCH_CACHE"] = str(self.folder / "cache")
        train.CHECKPOINT_SECONDS = 0.0
        sweep = make_sweep(self.task, self.methods, overrides=parse_settings(self.recipe, "--recipe"))
        for state in to_run(sweep, self.store):
            execute(state.plan, self.store)

    def check(self) -> None:
        """Check that every record is whole, and that none has changed since it was finished."""
        if not self.store.root.is_dir():
            return
        found = verify(self.store)
        if found.problems:
            raise Broken("; ".join(found.problems))
        scanned, _ = self.store.scan()
        failed = [f"{record.cell_id}: {record['error']}" for record in scanned if not record.finished]
        if failed:
            raise Broken(f"recorded as failed: {failed[0]}")
        records = {record.cell_id: record for record in scanned}
        for cell, state in self.done.items():
            if cell not in records:
                raise Broken(f"the finished record of {cell} is lost")
            if _state(records[cell].folder) != state:
                raise Broken(f"{cell} was finished, and ran again")
        self.done = {cell: _state(record.folder) for cell, record in records.items()}

    def table(self) -> dict[str, tuple[dict[str, object], dict[str, str]]]:
        """Return each cell's fields without times, and the checksum of each of its files."""
        records = self.store.scan()[0]
        return {
            record.cell_id: (
                {name: value for name, value in record.fields.items() if name not in TIMES},
                read_checksums(record.folder),
            )
            for record in records
        }

    def left_over(self) -> list[str]:
        """Return what lies between the records and should not."""
        return sorted(str(path) for path in self.store.root.glob("*/*/*/.*"))


def _state(folder: Path) -> tuple[int, bytes]:
    record = folder / "record.json"
    return record.stat().st_mtime_ns, record.read_bytes()


def compare(found: Sweep, expected: Sweep) -> None:
    """Compare two finished sweeps."""
    one, other = found.table(), expected.table()
    if one.keys() != other.keys():
        raise Broken(f"cells {sorted(one.keys() ^ other.keys())} are in one of the stores only")
    for cell, (fields, files) in other.items():
        for what, there, here in (("field", fields, one[cell][0]), ("file", files, one[cell][1])):
            different = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
            if different:
                name = different[0]
                raise Broken(
                    f"{cell} ({fields['method']}): {what} {name} differs: {here.get(name)!r}, not {there.get(name)!r}"
                )
    if found.left_over():
        raise Broken(f"left beside the records: {found.left_over()}")


@dataclass
class Killer:
    """Whom to kill, how often, and when.

    Attributes
    ----------
    kills : int
        How many kills there are at most.
    whom : sequence of str
        ``all`` processes, the ``command`` alone, one ``child``: chosen by chance.
    longest : float
        Seconds from the first work to the kill, at most.
    killed : Counter
        The kills until now, by whom they were sent to.
    """

    kills: int
    whom: Sequence[str]
    chance: random.Random
    longest: float = 0.0
    killed: Counter[str] = field(default_factory=Counter)


def run_killed(sweep: Sweep, killer: Killer) -> None:
    """Run a sweep to its end through some kills."""
    errors, chance, killed = 0, killer.chance, killer.killed
    while True:
        process = sweep.start()
        while process.poll() is None and killed.total() < killer.kills and _wait(process, sweep, killer):
            each = chance.choice(killer.whom)
            _kill(process, each, chance)
            killed[each] += 1
            errors = 0
            if each != "all":
                time.sleep(chance.uniform(0, 2))  # what loses its command goes on for a moment
            sweep.check()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Broken(f"the sweep does not end: see {sweep.folder / 'log'}") from None
        finally:
            _end(process)
        sweep.check()
        if process.returncode == 0:
            return
        errors += (process.returncode or 0) > 0
        if errors > ATTEMPTS:
            raise Broken(f"the sweep does not end well: see {sweep.folder / 'log'}")


def _wait(process: Process, sweep: Sweep, killer: Killer) -> bool:
    """Wait for a random moment; return whether the sweep still runs then."""
    begun, chance = time.time(), killer.chance
    if chance.random() < EARLY:
        time.sleep(chance.uniform(0, START))
        return process.poll() is None
    while not _worked_since(sweep, begun):
        if process.poll() is not None or time.time() - begun > PATIENCE:
            return False
        time.sleep(0.02)
    time.sleep(chance.uniform(0, killer.longest))
    return process.poll() is None


def _worked_since(sweep: Sweep, begun: float) -> bool:
    for path in sweep.store.root.glob("*/*/*/.*.partial/scratch/*"):
        try:
            if path.stat().st_mtime >= begun:
                return True
        except FileNotFoundError:  # the cell has just finished
            continue
    return False


def _kill(process: Process, whom: str, chance: random.Random) -> None:
    children = _children(process.pid)
    if whom == "all":
        _end(process)
    elif whom == "child" and children:
        _send(chance.choice(children))
    else:
        _send(process.pid)


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(words[1]) == parent:
            found.append(int(stat.parent.name))
    return sorted(found)


def _send(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _end(process: Process) -> None:
    """Kill all processes of a sweep, those whose parent is gone included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    """Run the comparison and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", default=str(FIXTURES / "stripes"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--whom", help="kill the command: all, command, child, comma-separated")
    parser.add_argument("--folder", type=Path, help="where to work; kept. A temporary folder without it")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    killer = Killer(0, (given.whom or "all").split(","), random.Random(given.seed))

    def sweep(name: str) -> Sweep:
        return Sweep(folder / name, given.task, given.methods.split(","), given.recipe or RECIPE, bool(given.whom))

    expected, begun = sweep("uninterrupted"), time.monotonic()
    run_killed(expected, killer)
    killer.kills, killer.longest = given.kills, LONGEST * (time.monotonic() - begun) / len(expected.done)
    rounds = 0
    while killer.killed.total() < given.kills:
        rounds += 1
        each = sweep(f"round{rounds}")
        run_killed(each, killer)
        compare(each, expected)
        print(json.dumps({"round": rounds, "kills": dict(killer.killed), "cells": len(each.done)}), flush=True)
        shutil.rmtree(each.folder)
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
