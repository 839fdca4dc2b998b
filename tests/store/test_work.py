"""Cells in progress: interrupted, failed, forced, and a kill at any moment of a commit."""

import errno
import os

import pytest

from benchmark.errors import StoreError
from benchmark.store import CellFinished, Store, work


def test_a_failed_cell_is_a_record_and_runs_again(a_cell, finish, tmp_path):
    store, cell = Store(tmp_path), a_cell()
    with store.begin(cell) as work:
        work.fail(ValueError("loss is nan\nat step 3"), status="diverged", seconds_train=1.5)
    record = store.find(cell)
    assert (record.status, record["error"], record["seconds_train"]) == (
        "diverged",
        "loss is nan at step 3",
        1.5,
    )
    assert not record.finished
    finish(store, cell)
    assert store.find(cell).finished


def test_a_finished_cell_runs_again_only_by_force(a_cell, finish, tmp_path):
    store, cell = Store(tmp_path), a_cell()
    finish(store, cell, ap=0.1)
    with pytest.raises(CellFinished, match="--force"):
        finish(store, cell, ap=0.2)
    assert store.find(cell).metrics["AP"] == 0.1
    finish(store, cell, ap=0.2, force=True)
    assert store.find(cell).metrics["AP"] == 0.2


def test_a_forced_run_that_fails_leaves_the_finished_record(a_cell, finish, tmp_path):
    store, cell = Store(tmp_path), a_cell()
    finish(store, cell, ap=0.1)
    with store.begin(cell, force=True) as work:
        assert store.find(cell).metrics["AP"] == 0.1
        assert work.fail("boom").status == "failed"
    assert store.find(cell).metrics["AP"] == 0.1
    assert len(list(store.find(cell).folder.parent.iterdir())) == 1


def test_an_interrupted_cell_is_no_record_and_resumes(a_cell, tmp_path):
    store, cell = Store(tmp_path), a_cell()
    with pytest.raises(KeyboardInterrupt), store.begin(cell) as work:
        assert not work.resumed
        (work.scratch / "step100.ckpt").write_text("weights")
        raise KeyboardInterrupt
    assert store.find(cell) is None
    frame = store.records()
    assert frame.empty and frame.attrs["warnings"] == []
    with store.begin(cell) as work:
        assert work.resumed
        assert (work.scratch / "step100.ckpt").read_text() == "weights"
        work.commit({"metric_AP": 0.5})
    assert store.find(cell).finished


def test_what_a_killed_run_wrote_is_not_in_the_record_of_the_run_that_resumes_it(a_cell, tmp_path):
    """Not temporary files, whoever named them, nor files that were half written under their own names."""
    store, cell = Store(tmp_path), a_cell()
    with pytest.raises(KeyboardInterrupt), store.begin(cell) as work:
        (work.scratch / "step100.ckpt").write_text("weights")
        (work.folder / ".tmpdNwvu7").write_bytes(b"half a model")
        (work.folder / "predictions").mkdir()
        (work.folder / "predictions" / "0.png").write_bytes(b"half an image")
        (work.folder / "elsewhere").symlink_to(work.scratch)
        raise KeyboardInterrupt
    with store.begin(cell) as work:
        assert (work.scratch / "step100.ckpt").read_text() == "weights"
        (work.folder / "model.safetensors").write_bytes(b"a model")
        folder = work.commit({"metric_AP": 0.5}).folder
    written = {path.name for path in folder.iterdir()} - {"record.json", "cell.json", "checksums.sha256"}
    assert written == {"model.safetensors", "environment.txt"}


STAGES = {"write_atomic": work, "promote": work, "rename": os, "replace": os, "fsync": os}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("calls", range(8))
@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_any_moment_of_a_commit_loses_nothing(a_cell, finish, tmp_path, monkeypatch, stage, calls, force):
    """Whatever rename or write the process dies at, the old or the new record is found, whole."""
    store, cell = Store(tmp_path), a_cell()
    if force:
        finish(store, cell, ap=0.1)
    owner = STAGES[stage]
    original, count = getattr(owner, stage), 0

    def dies(*arguments):
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(owner, stage, dies)
    try:
        finish(store, cell, ap=0.2, force=force)
        died = False
    except KeyboardInterrupt:
        died = True
    monkeypatch.undo()
    record = store.find(cell)
    if not died:
        assert record.metrics["AP"] == 0.2
    elif force:
        assert record.metrics["AP"] in (0.1, 0.2)
    else:
        assert record is None or record.metrics["AP"] == 0.2
    finish(store, cell, ap=0.3, force=True)
    assert store.find(cell).metrics["AP"] == 0.3
    assert [path.name for path in store.folder(cell).parent.iterdir()] == [cell.id]


def test_records_finds_a_record_whose_replacement_was_cut_in_two(a_cell, finish, tmp_path):
    store = Store(tmp_path)
    final = finish(store, a_cell()).folder
    final.rename(final.with_name(f".{final.name}.old"))
    assert store.records()["cell_id"].tolist() == [final.name]


def test_a_disk_that_fills_up_is_one_clear_line_and_keeps_the_scratch(a_cell, tmp_path):
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="no space left"), store.begin(a_cell()) as work:
        (work.scratch / "a.ckpt").write_text("weights")
        raise OSError(errno.ENOSPC, "No space left on device")
    with store.begin(a_cell()) as work:
        assert work.resumed


def test_an_error_of_the_work_itself_passes_through(a_cell, tmp_path):
    with pytest.raises(FileNotFoundError, match="image"), Store(tmp_path).begin(a_cell()):
        raise FileNotFoundError("image.jpg")


def test_everything_is_on_the_disk_before_the_record_is_and_before_the_older_one_goes(
    a_cell, finish, tmp_path, monkeypatch
):
    store, events = Store(tmp_path), []
    finish(store, a_cell())
    originals = {name: getattr(os, name) for name in ("fsync", "replace", "rename")}

    def fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        originals["fsync"](descriptor)

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, lambda *paths, name=name: (events.append(name), originals[name](*paths)))
    monkeypatch.setattr(os, "fsync", fsync)
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc to tell which file is synced")
    folder = finish(store, a_cell(), force=True).folder
    complete = events.index("replace")  # record.json gets its name
    beside = {path.name for path in folder.iterdir()} - {"record.json"}
    assert beside <= set(events[:complete])
    assert events[complete + 1 :][:3] == [f".{folder.name}.partial", "rename", "rename"]
    assert events[-4:] == ["stochastic", "mini", "coco", tmp_path.name]
