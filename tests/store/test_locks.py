"""Locks: one process or thread a cell, and a killed one leaves none."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from benchmark.store import CellBusy, Store

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
