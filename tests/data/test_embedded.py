"""Embedded sets: real formats, same seed same bytes, nothing half written."""

import json
import os
import shutil

import pytest

from benchmark.data import embedded as sets
from benchmark.errors import DataError, UsageError
from benchmark.tasks import find_task


def make(task, scale, root, **options):
    return find_task(task).embedded.make(scale, root, **options)


@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_same_seed_same_bytes(task, embedded, sizes, tmp_path):
    again = make(task, "mini", tmp_path, size=sizes[task])
    assert sets.fingerprint(again) == sets.fingerprint(embedded[task])
    other = make(task, "mini", tmp_path, seed=1, size=sizes[task])
    assert sets.fingerprint(other) != sets.fingerprint(again)


def test_a_set_that_is_there_is_not_made_again(embedded, sizes):
    folder = embedded["imagenet"]
    before = (folder / sets.MANIFEST).stat().st_mtime_ns
    done = []
    size = sizes["imagenet"]
    assert make("imagenet", "mini", folder.parent, size=size, progress=lambda *n: done.append(n)) == folder
    assert not done
    assert (folder / sets.MANIFEST).stat().st_mtime_ns == before


def test_progress_counts_every_image(tmp_path):
    calls = []
    size = sets.Size(32, 32, {"train": 2, "val": 1})
    make("coco", "mini", tmp_path, size=size, progress=lambda *n: calls.append(n))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_an_interrupted_call_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("coco", "mini", tmp_path, size=sets.Size(32, 32, {"val": 2}), progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_call_left_is_removed_unless_it_may_still_be_at_work(tmp_path):
    size = sets.Size(32, 32, {"val": 1})
    name = make("coco", "mini", tmp_path, size=size).name
    shutil.rmtree(tmp_path / name)
    old, young = (tmp_path / f".{name}.{kind}.partial" for kind in ("old", "young"))
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, 0))
    make("coco", "mini", tmp_path, size=size)
    assert sorted(tmp_path.iterdir()) == sorted([young, tmp_path / name])


def test_of_two_calls_at_once_one_wins_and_both_succeed(tmp_path):
    size = sets.Size(32, 32, {"val": 2})
    inner = []

    def race(done, total):
        if not inner:
            inner.append(None)
            inner.append(make("coco", "mini", tmp_path, size=size))

    assert make("coco", "mini", tmp_path, size=size, progress=race) == inner[1]
    assert list(tmp_path.iterdir()) == [inner[1]]


def test_manifest_names_what_determines_the_bytes(embedded, sizes):
    manifest = json.loads((embedded["coco"] / sets.MANIFEST).read_text())
    assert manifest["generator"] == sets.VERSION
    assert manifest["images"] == sizes["coco"].images
    assert (manifest["seed"], manifest["height"]) == (0, 128)


def test_unknown_scale_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="scale 'paper'"):
        make("coco", "paper", tmp_path)


def test_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*coco-mini"):
        make("coco", "mini", tmp_path / "file")
