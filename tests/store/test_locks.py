"""Locks: one process or thread a cell, and a killed one leaves none."""

import dataclasses
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from benchmark.errors import StoreError
from benchmark.store import CellBusy, Store
from benchmark.store.locks import locked

HOLDER = """
    import json, sys, time, pathlib, multiprocessing
    sys.path.insert(0, sys.argv[2])
    from benchmark.store import Store, Cell
    with Store(sys.argv[1]).begin(Cell(**json.loads(sys.argv[3]))) as work:
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True).start()
        (work.scratch / "here.ckpt").write_text("weights")
        print("holding", flush=True)
        time.sleep(60)
"""


def test_another_process_is_kept_off_and_a_killed_one_leaves_no_lock(a_cell, finish, tmp_path):
    root = Path(__file__).parents[2]
    settings = json.dumps(dataclasses.asdict(a_cell()))
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path), str(root), settings],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline().strip() == "holding"
        with pytest.raises(CellBusy, match=rf"pid {holder.pid} on .*wait") as caught:
            finish(Store(tmp_path), a_cell())
        assert "\n" not in str(caught.value)
        finish(Store(tmp_path), a_cell(seed=1))  # other cells are free
        holder.kill()  # its forked worker lives on, as a data loader's does for a while
        holder.wait()
        with Store(tmp_path).begin(a_cell()) as work:
            assert work.resumed
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_two_threads_do_not_share_a_cell(a_cell, finish, tmp_path):
    store, outcomes = Store(tmp_path), []

    def other():
        try:
            finish(store, a_cell())
        except CellBusy as error:
            outcomes.append(error)

    with store.begin(a_cell()):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(outcomes) == 1


def test_the_same_thread_does_not_begin_a_cell_twice(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    with store.begin(a_cell()), pytest.raises(CellBusy, match=f"pid {os.getpid()}"), store.begin(a_cell()):
        pytest.fail("the cell was begun twice")
    finish(store, a_cell())


def test_a_released_lock_names_nobody_and_is_taken_again(tmp_path):
    path = tmp_path / "lock"
    for _ in range(2):
        with locked(path, "cell"):
            assert f"pid {os.getpid()} on" in path.read_text()
        assert path.read_text() == ""


def test_a_lock_file_that_a_killed_process_left_does_not_stop_anybody(tmp_path):
    (tmp_path / "lock").write_text("pid 1 on another-machine since 2020-01-01T00:00:00Z")
    with locked(tmp_path / "lock", "cell"):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_in_one_line(tmp_path, monkeypatch, code):
    def refuses(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(StoreError, match="does not lock files .*another --store"), locked(tmp_path / "lock", "cell"):
        pytest.fail("it was locked")


RACE = """
    import sys
    from pathlib import Path
    from benchmark.store.errors import CellBusy
    from benchmark.store.locks import locked
    folder, won = Path(sys.argv[1]), 0
    while won < 200:
        try:
            with locked(folder / "lock", "counter"):
                count = int((folder / "count").read_text())
                (folder / "count").write_text(str(count + 1))
                won += 1
        except CellBusy:
            pass
"""


def test_processes_that_race_for_a_lock_hold_it_one_at_a_time(tmp_path):
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", textwrap.dedent(RACE), str(tmp_path)]
    racers = [subprocess.Popen(command) for _ in range(3)]
    assert [racer.wait() for racer in racers] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "600"
