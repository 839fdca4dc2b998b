"""Collecting garbage: what is removed, and everything that is not."""

import os
import time

import pytest

from benchmark.errors import StoreError
from benchmark.store import Store, collect_garbage


def interrupt(store, cell, force=False):
    with pytest.raises(KeyboardInterrupt), store.begin(cell, force=force) as work:
        (work.scratch / "a.ckpt").write_bytes(b"weights")
        raise KeyboardInterrupt
    return work.folder


def snapshot(root):
    return {path for path in root.rglob("*") if ".locks" not in path.parts}


def test_a_clean_store_has_no_garbage(a_cell, finish, tmp_path):
    finish(Store(tmp_path), a_cell())
    before = snapshot(tmp_path)
    found = collect_garbage(Store(tmp_path), unfinished=True)
    assert (found.removed, found.size, found.unfinished, found.busy) == ([], 0, [], [])
    assert snapshot(tmp_path) == before


def test_what_an_interrupted_run_left_is_kept_unless_asked(a_cell, tmp_path):
    store = Store(tmp_path)
    partial = interrupt(store, a_cell())
    found = collect_garbage(store)
    assert (found.removed, found.unfinished) == ([], [partial])
    with store.begin(a_cell()) as work:
        assert work.resumed
    found = collect_garbage(store, unfinished=True)
    assert (found.removed, found.size) == ([partial], len(b"weights"))
    assert not partial.exists()


def test_what_an_interrupted_forced_run_left_beside_a_finished_record_is_removed(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    finish(store, a_cell())
    partial = interrupt(store, a_cell(), force=True)
    assert collect_garbage(store).removed == [partial]
    assert store.find(a_cell()).finished


def test_a_replaced_record_and_a_copy_cut_off_are_removed(a_cell, finish, tmp_path):
    final = finish(Store(tmp_path), a_cell()).folder
    left = [final.with_name(f".{final.name}.{what}") for what in ("old", "incoming")]
    for folder in left:
        folder.mkdir()
        (folder / "file").write_text("12345")
    found = collect_garbage(Store(tmp_path))
    assert sorted(found.removed) == sorted(left) and found.size == 10
    assert [path.name for path in final.parent.iterdir()] == [final.name]


def test_the_only_record_of_a_cell_is_put_back_and_not_removed(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    final = finish(store, a_cell()).folder
    final.rename(final.with_name(f".{final.name}.old"))
    assert collect_garbage(store, unfinished=True).removed == []
    assert final.is_dir() and store.find(a_cell()).finished


def test_a_complete_record_that_was_not_put_in_place_is_no_garbage(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    final = finish(store, a_cell()).folder
    final.rename(final.with_name(f".{final.name}.partial"))
    assert collect_garbage(store, unfinished=True, dry_run=True).removed == []
    assert collect_garbage(store, unfinished=True).removed == []
    assert store.find(a_cell()).finished


def test_a_cell_in_use_is_left_alone(a_cell, tmp_path):
    store = Store(tmp_path)
    with store.begin(a_cell()) as work:
        found = collect_garbage(store, unfinished=True)
        assert found.removed == [] and a_cell().id in found.busy[0]
        assert work.scratch.is_dir()
        work.commit({"metric_AP": 0.5})


def test_broken_records_and_foreign_files_are_not_removed(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    torn = finish(store, a_cell()).folder
    (torn / "record.json").write_text("{")
    for name in (".notes.old", ".hidden", "notes.txt", ".git.partial"):
        (torn.parent / name).write_text("mine")
    before = snapshot(tmp_path)
    assert collect_garbage(store, unfinished=True).removed == []
    assert snapshot(tmp_path) == before


def test_temporary_files_are_removed_when_they_are_a_day_old(tmp_path):
    folder = tmp_path / "timing"
    folder.mkdir()
    young, old = folder / ".resnet.json.1-a.tmp", folder / ".resnet.json.2-b.tmp"
    for path in (young, old):
        path.write_text("{")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    assert collect_garbage(Store(tmp_path)).removed == [old]
    assert young.exists() and not old.exists()


def test_a_dry_run_removes_nothing_and_says_the_same(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    finish(store, a_cell())
    interrupt(store, a_cell(), force=True)
    interrupt(store, a_cell(seed=1))
    before = snapshot(tmp_path)
    planned = collect_garbage(store, unfinished=True, dry_run=True)
    assert snapshot(tmp_path) == before
    done = collect_garbage(store, unfinished=True)
    assert (done.removed, done.size) == (planned.removed, planned.size) and len(done.removed) == 2


def test_a_store_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(StoreError, match="no such store"):
        collect_garbage(Store(tmp_path / "none"))
