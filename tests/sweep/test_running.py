"""Running a sweep: one cell's accident stops no other, and two sweeps share a store."""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime, timedelta

import pytest

from benchmark.errors import StoreError
from benchmark.store import Store, timestamp, verify
from benchmark.sweep import Watch, run_sweep, state_of, to_run
from tests.conftest import FIXTURES
from tests.sweep.conftest import STRIPES, TOYS, Here, run_local, toys
from tests.sweep.results import results


@pytest.fixture(scope="module")
def accidents(tmp_path_factory):
    """A sweep of two workers in which one cell is killed and others fail."""
    from benchmark.tasks import discovery

    place = tmp_path_factory.mktemp("accidents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAIBENCH_CACHE", str(place / "cache"))
        patch.setattr(discovery, "_opened", {})
        patch.setenv("TOYS_LOG", str(place / "log"))
        store, sweep = Store(place / "store"), toys("fated")
        outcomes = run_local(2, sweep, store)
    found = {each.plan.cell.parameters["fate"]: each for each in outcomes if each.plan.cell.method == "fated"}
    return store, sweep, found


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("killed", "its process was ended by SIGKILL (the machine ran out of memory?); the next sweep resumes it"),
        ("leaves", "its process ended by itself with exit code 3; the code of the method or the task does that"),
        ("exhausted", "failed: RuntimeError: "),
        ("fails", "failed: RuntimeError: an accident"),
    ],
)
def test_an_accident_is_one_line_that_names_the_cell(accidents, fate, message):
    outcome = accidents[2][fate]
    assert outcome.status == "failed"
    assert message in outcome.error and outcome.plan.cell.id in outcome.error and "\n" not in outcome.error


def test_an_accident_stops_no_other_cell(accidents):
    store, _, outcomes = accidents
    assert len(outcomes) == 5 and outcomes["none"].status == "finished"
    assert state_of(outcomes["none"].plan, store).name == "finished"


def test_what_failed_runs_again_only_when_asked_and_what_was_killed_always(accidents):
    store, sweep, _ = accidents

    def fates(**arguments):
        return {state.plan.cell.parameters["fate"] for state in to_run(sweep, store, **arguments)}

    assert fates() == {"killed", "leaves"}
    assert fates(retry_failed=True) == {"killed", "leaves", "exhausted", "fails"}


def test_a_failed_cell_is_retried_on_demand_alone(store, trained):
    sweep = toys("fated", parameters={"fate": "fails"})
    failing = sweep.plans[-1]
    executor = Here()
    assert [each.status for each in run_sweep(sweep, store, executor)] == ["finished", "failed"]
    assert run_sweep(sweep, store, executor) == [] and trained() == ["fails"]
    again = run_sweep(sweep, store, executor, retry_failed=True)
    assert [each.plan.cell.id for each in again] == [failing.cell.id] and trained() == ["fails", "fails"]


def test_cells_are_not_started_without_the_cell_that_they_start_from(store):
    sweep = toys("many", parameters={"number": 0})
    start, planned = sweep.plans
    with store.begin(start.cell) as work:
        work.fail("no luck")
    (outcome,) = run_sweep(sweep, store, Here())
    assert outcome.plan is planned and outcome.error.endswith(f"its starting cell {start.cell.id} has no result")


def test_two_jobs_give_the_records_of_one(tmp_path):
    sweep = toys("many", parameters={}, seeds=(0,))
    sweep.plans[:] = sweep.plans[:5]
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    run_sweep(sweep, one, Here())
    run_local(2, sweep, two)
    assert len(results(one)) == 5 and results(one) == results(two)


def test_two_sweeps_race_for_twenty_cells_and_train_each_once(store, trained):
    command = [sys.executable, "-m", "benchmark.cli", "sweep", STRIPES, "--methods", f"{TOYS}::many", "--jobs", "1"]
    racers = [
        subprocess.Popen(
            [*command, "--store", store.root],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=FIXTURES.parents[1],
        )
        for _ in range(2)
    ]  # fmt: skip
    printed = [racer.communicate() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], printed
    assert sorted(trained(), key=int) == [str(number) for number in range(20)]
    records = results(store)
    assert len(records) == 21 and all(record["status"] == "finished" for record in records.values())
    assert sum(record["method"] == "many" for record in records.values()) == 20


ORPHAN = """
    import multiprocessing, os, time
    from benchmark.hardware import follow_parent

    def serve():
        time.sleep(1)  # its parent has ended when it comes to follow it
        print("started", flush=True)
        follow_parent()
        time.sleep(60)
        print("left alone", flush=True)

    if __name__ == "__main__":
        multiprocessing.get_context("spawn").Process(target=serve).start()
        os._exit(0)
"""


def test_a_worker_whose_sweep_was_killed_while_it_started_ends(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(textwrap.dedent(ORPHAN), encoding="utf-8")
    path = {**os.environ, "PYTHONPATH": str(FIXTURES.parents[1])}
    # Its output ends when the last process that holds it does.
    ended = subprocess.run([sys.executable, str(script)], env=path, stdout=subprocess.PIPE, text=True, check=True)
    assert ended.stdout == "started\n"


HOLDER = """
    import sys, time
    from benchmark.store import Store, timestamp, verify
    from benchmark.sweep import make_sweep
    sweep = make_sweep(sys.argv[1], [sys.argv[2]], parameters={"number": 1})
    with Store(sys.argv[3]).begin(sweep.plans[-1].cell) as work:
        work.note("train", 1, 2)
        print("holding", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def holder(store):
    """A process that holds a cell, and does nothing."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), STRIPES, f"{TOYS}::many", str(store.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=FIXTURES.parents[1])
    assert process.stdout.readline().strip() == "holding"
    yield process
    process.kill()
    process.wait()


def test_a_sweep_takes_other_cells_and_waits_for_the_one_that_another_process_holds(store, holder, trained):
    sweep = toys("many")
    sweep.plans[:] = sweep.plans[:4]
    held = next(each for each in sweep.plans if each.cell.parameters.get("number") == 1)
    state = state_of(held, store)
    assert state.name == "running" and state.detail.startswith(f"train 1/2 (pid {holder.pid} on ")
    ended, reports = [], []

    def waiting(count):
        assert count == 1 and len(ended) == 3  # the others come first
        os.kill(holder.pid, signal.SIGKILL)

    watch = Watch(lambda *report: reports.append(report), ended.append, waiting)
    outcomes = run_sweep(sweep, store, Here(), watch=watch)
    assert [each.status for each in outcomes] == ["finished"] * 4 and outcomes[-1].plan is held
    assert (held.cell.id, "train", 1, 2) in reports
    assert sorted(trained()) == sorted(str(each.cell.parameters["number"]) for each in sweep.plans[1:])


def test_what_another_process_finishes_or_fails_is_taken_from_it(store, trained):
    sweep = toys("many")
    sweep.plans[:] = sweep.plans[:3]
    _, first, second = sweep.plans
    run_sweep(toys("many", parameters={"number": 5}), store, Here())  # the starting cell, too
    held, released = threading.Event(), threading.Event()

    def other():
        with store.begin(first.cell) as one, store.begin(second.cell) as two:
            held.set()
            released.wait()
            one.commit({})
            two.fail("no luck")

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    outcomes = run_sweep(sweep, store, Here(), watch=Watch(waiting=lambda count: released.set()))
    thread.join()
    assert {each.plan.cell.id: (each.error.rpartition(": ")[2], each.elsewhere) for each in outcomes} == {
        first.cell.id: ("", True), second.cell.id: ("no luck", True),
    }  # fmt: skip
    assert trained() == ["5"]


def test_a_lock_that_a_killed_process_left_stops_no_sweep(store):
    sweep = toys("many", parameters={"number": 3})
    for each in sweep.plans:
        path = store.root / ".locks" / each.cell.id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("pid 1 on another-machine since 2020-01-01T00:00:00Z")
        assert state_of(each, store).name == "to do"
    assert [each.status for each in run_sweep(sweep, store, Here())] == ["finished"] * 2


class Clock:
    """A clock that goes back a day whenever it is read."""

    def __init__(self, start):
        self.moment = start

    def now(self, zone):
        self.moment -= timedelta(days=1)
        return self.moment


def test_a_clock_that_jumps_changes_no_result(tmp_path, monkeypatch):
    sweep = toys("many")
    sweep.plans[:] = sweep.plans[:3]
    steady, jumping = Store(tmp_path / "steady"), Store(tmp_path / "jumping")
    run_sweep(sweep, steady, Here())
    clock = Clock(datetime(2030, 1, 1, tzinfo=UTC))
    monkeypatch.setattr(sys.modules[timestamp.__module__], "datetime", clock)
    monkeypatch.setattr("time.time", lambda: clock.now(None).timestamp())
    outcomes = run_sweep(sweep, jumping, Here())
    assert [each.status for each in outcomes] == ["finished"] * 3
    assert results(jumping) == results(steady)
    for record in jumping.scan()[0]:
        assert record["finished"] < record["started"]
        assert 0 < record["seconds_train"] < 600 and 0 < record["seconds_eval"] < 600
    assert not verify(jumping).problems


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for little."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system can only be mounted by root, where the kernel lets it")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_on_a_full_disk_each_cell_says_so_and_with_space_again_all_finish(small_disk, trained):
    store, sweep = Store(small_disk / "store"), toys("many")
    sweep.plans[:] = sweep.plans[:4]
    first, *others = sweep.plans
    (outcome,) = run_sweep(dataclasses.replace(sweep, plans=[first]), store, Here())
    assert outcome.status == "finished"
    taken = shutil.disk_usage(small_disk).used
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)
    assert shutil.disk_usage(small_disk).free == 0
    with pytest.raises(StoreError, match="no space left on the disk; free some or use another --store"):
        run_sweep(sweep, store, Here())
    filler.unlink()
    filler.write_bytes(b"0" * (shutil.disk_usage(small_disk).free - taken // 2))  # enough to begin, not to finish
    filler_size = filler.stat().st_size
    outcomes = run_sweep(sweep, store, Here())
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert re.fullmatch(rf"{store.root}\S+: no space left on the disk; free some or .*", outcome.error)
    assert filler.stat().st_size == filler_size and state_of(first, store).name == "finished"
    filler.unlink()
    assert {state_of(each, store).name for each in others} == {"to do"}
    assert [each.status for each in run_sweep(sweep, store, Here())] == ["finished"] * 3
    assert len(results(store)) == 4 and set(trained()) == {str(each.cell.parameters["number"]) for each in others}
