"""Merging stores: which record stays, and that nothing half or foreign comes in."""

import errno
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from benchmark.errors import StoreError
from benchmark.store import Store, collect_garbage, merge, merging, verify
from benchmark.store.checksums import read_checksums, write_checksums


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def stores(tmp_path):
    return Store(tmp_path / "a"), Store(tmp_path / "b"), Store(tmp_path / "into")


def test_records_of_all_stores_are_copied_file_by_file(a_cell, finish, stores):
    a, b, into = stores
    first, second = finish(a, a_cell()), finish(b, a_cell(seed=1))
    merged = merge([a.root, b.root], into.root)
    assert sorted(merged.copied) == sorted(into.folder(cell) for cell in (a_cell(), a_cell(seed=1)))
    assert (merged.kept, merged.conflicts, merged.warnings) == (0, [], [])
    assert files(into.folder(a_cell())) == files(first.folder)
    assert files(into.folder(a_cell(seed=1))) == files(second.folder)
    assert verify(into).problems == []


def test_a_compact_copy_has_the_same_tables_in_less_space_and_nothing_that_reports_do_not_read(a_cell, finish, stores):
    a, _, into = stores
    source = finish(a, a_cell()).folder
    (source / "predictions").mkdir()
    large = {"predictions/000139.png", "model.safetensors", "density_maps.safetensors"}
    for name in large:
        (source / name).write_bytes(b"large")
    table = pd.DataFrame({"score": np.random.default_rng(0).random(3000), "hits": np.arange(3000) % 10})
    table.to_parquet(source / "outcomes.parquet", index=False, compression="snappy")
    write_checksums(source)
    merged = merge([a.root], into.root, compact=True)
    copy = into.folder(a_cell())
    assert merged.copied == [copy] and merged.warnings == []
    assert set(files(copy)) == set(files(source)) - large - {"predictions.json"}
    assert set(read_checksums(copy)) == set(files(copy)) - {"record.json", "checksums.sha256"}
    for name in ("layers.parquet", "images.parquet", "outcomes.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(copy / name), pd.read_parquet(source / name))
    assert (copy / "outcomes.parquet").stat().st_size < 0.95 * (source / "outcomes.parquet").stat().st_size
    assert (copy / "record.json").read_bytes() == (source / "record.json").read_bytes()
    assert verify(into).problems == []


def test_a_compact_copy_keeps_the_masks_of_single_images_of_each_settings_first_seed(a_cell, finish, stores):
    a, b, into = stores
    cells = {(gamma, seed): a_cell(parameters={"gamma": gamma}, seed=seed) for gamma in (1.0, 3.0) for seed in (1, 2)}
    for (_, seed), cell in cells.items():  # the first seeds lie in the store that is read last
        folder = finish(b if seed == 1 else a, cell).folder
        (folder / "sampling.npz").write_bytes(b"masks")
        write_checksums(folder)
    merge([a.root, b.root], into.root, compact=True)
    kept = {key for key, cell in cells.items() if (into.folder(cell) / "sampling.npz").exists()}
    assert kept == {(1.0, 1), (3.0, 1)}
    assert verify(into).problems == []


def test_a_second_merge_copies_nothing(a_cell, finish, stores):
    a, _, into = stores
    finish(a, a_cell())
    merge([a.root], into.root)
    again = merge([a.root], into.root)
    assert (again.copied, again.kept, again.conflicts) == ([], 1, [])


@pytest.mark.parametrize("here", ["finished", "failed", None])
@pytest.mark.parametrize("there", ["finished", "failed", None])
def test_a_finished_record_wins_and_else_the_one_that_is_there(a_cell, finish, stores, here, there):
    source, _, into = stores
    for store, status, ap in ((source, here, 0.1), (into, there, 0.2)):
        if status == "finished":
            finish(store, a_cell(), ap=ap)
        elif status == "failed":
            with store.begin(a_cell()) as work:
                work.fail(store.root.name)
    source.root.mkdir(exist_ok=True)
    merge([source.root], into.root)
    record = into.find(a_cell())
    if there == "finished":
        assert record.metrics["AP"] == 0.2
    elif here == "finished":
        assert record.metrics["AP"] == 0.1
    elif there or here:
        assert record["error"] == ("into" if there else "a")
    else:
        assert record is None


def test_other_results_of_the_same_cell_are_a_conflict_and_the_record_stays(a_cell, finish, stores):
    a, _, into = stores
    finish(a, a_cell(), ap=0.25)
    finish(into, a_cell(), ap=0.5)
    merged = merge([a.root], into.root)
    (line,) = merged.conflicts
    assert a_cell().id in line and "metric_AP 0.25 here, 0.5 there" in line
    assert into.find(a_cell()).metrics["AP"] == 0.5


def test_broken_records_and_links_stay_out_and_the_others_come_in(a_cell, finish, stores, tmp_path):
    a, _, into = stores
    torn, linked = finish(a, a_cell()).folder, finish(a, a_cell(seed=1)).folder
    finish(a, a_cell(seed=2))
    (torn / "record.json").write_text("{")
    (tmp_path / "secret").write_text("secret")
    (linked / "predictions.json").unlink()
    (linked / "predictions.json").symlink_to(tmp_path / "secret")
    merged = merge([a.root], into.root)
    assert merged.copied == [into.folder(a_cell(seed=2))]
    assert len(merged.warnings) == 2
    assert any("broken" in line and torn.name in line for line in merged.warnings)
    assert any("is a link" in line and linked.name in line for line in merged.warnings)
    assert [path.name for path in into.folder(a_cell()).parent.iterdir()] == [a_cell(seed=2).id]


def test_folders_and_timings_that_are_links_stay_out(a_cell, finish, stores, tmp_path):
    a, b, into = stores
    outside = finish(b, a_cell()).folder
    finish(a, a_cell(seed=2))
    (a.folder(a_cell())).symlink_to(outside)
    (a.root / "timing").mkdir()
    (tmp_path / "secret").write_text("{}")
    (a.root / "timing" / "secret.json").symlink_to(tmp_path / "secret")
    merged = merge([a.root], into.root)
    assert merged.copied == [into.folder(a_cell(seed=2))]
    assert len(merged.warnings) == 2 and all("link; replace it by the" in line for line in merged.warnings)


def test_a_cell_in_use_is_left_alone(a_cell, finish, stores):
    a, _, into = stores
    finish(a, a_cell())
    with into.begin(a_cell()):
        merged = merge([a.root], into.root)
    assert merged.copied == [] and "another process is working on it" in merged.warnings[0]
    assert merge([a.root], into.root).copied == [into.folder(a_cell())]


def test_what_an_interrupted_run_left_is_kept_beside_the_merged_record(a_cell, finish, stores):
    a, _, into = stores
    finish(a, a_cell())
    with pytest.raises(KeyboardInterrupt), into.begin(a_cell()) as work:
        (work.scratch / "a.ckpt").write_text("weights")
        raise KeyboardInterrupt
    merge([a.root], into.root)
    assert into.find(a_cell()).finished
    assert collect_garbage(into).removed == [work.folder]


@pytest.mark.parametrize("calls", range(12))
@pytest.mark.parametrize("stage", ["fsync", "rename", "mkdir"])
def test_a_kill_at_any_moment_loses_nothing_and_the_next_merge_completes(
    a_cell, finish, stores, monkeypatch, stage, calls
):
    a, _, into = stores
    finish(a, a_cell(), ap=0.1)
    with into.begin(a_cell()) as work:
        work.fail("boom")
    original, count = getattr(os, stage), 0

    def dies(*arguments, **options):
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(os, stage, dies)
    try:
        merge([a.root], into.root)
        died = False
    except KeyboardInterrupt:
        died = True
    monkeypatch.undo()
    record = into.find(a_cell())
    assert record.status in (("failed", "finished") if died else ("finished",))
    assert files(a.folder(a_cell())) == files(a.find(a_cell()).folder)
    merge([a.root], into.root)
    assert files(into.folder(a_cell())) == files(a.folder(a_cell()))
    assert [path.name for path in into.folder(a_cell()).parent.iterdir()] == [a_cell().id]


def test_a_record_that_is_replaced_while_it_is_copied_is_not_mixed(a_cell, finish, stores, monkeypatch):
    a, _, into = stores
    finish(a, a_cell(), ap=0.1)
    copy = shutil.copyfile

    def slow(source, target):
        if source.name == "predictions.json":
            finish(a, a_cell(), ap=0.2, force=True)
        return copy(source, target)

    monkeypatch.setattr(merging.shutil, "copyfile", slow)
    merged = merge([a.root], into.root)
    assert merged.copied == [] and "merge again" in merged.warnings[0]
    monkeypatch.undo()
    merge([a.root], into.root)
    assert into.find(a_cell()).metrics["AP"] == 0.2


def test_a_full_disk_ends_the_merge_in_one_line(a_cell, finish, stores, monkeypatch):
    a, _, into = stores
    finish(a, a_cell())

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(merging.shutil, "copyfile", full)
    with pytest.raises(StoreError, match="no space left"):
        merge([a.root], into.root)


def test_timings_are_copied_too(stores):
    a, _, into = stores
    (a.root / "timing").mkdir(parents=True)
    (a.root / "timing" / "resnet.json").write_text("{}")
    assert merge([a.root], into.root).copied == [into.root / "timing" / "resnet.json"]
    assert into.timings() == {into.root / "timing" / "resnet.json": b"{}"}
    assert merge([a.root], into.root).kept == 1


def test_a_source_that_is_no_store_or_the_target_itself_is_refused_before_anything_is_copied(a_cell, finish, stores):
    a, b, into = stores
    finish(a, a_cell())
    with pytest.raises(StoreError, match="no such store"):
        merge([a.root, b.root], into.root)
    with pytest.raises(StoreError, match="is the store to merge into"):
        merge([a.root / ".." / "a"], a.root)
    assert not into.root.exists()
