"""Verification: whole sets are well, and every fault put into one is named."""

import json
import shutil

import pytest

from benchmark.errors import DataError
from tests.data.verifying import found, verify, where

TASKS = ["coco", "cityscapes", "imagenet"]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("task", TASKS)
def test_embedded_sets_are_well(task, embedded, sizes):
    report = verify(task, embedded[task])
    assert report.ok and not report.problems
    assert report.lines()[-1] == "all is well"
    per_class = 10 if task == "imagenet" else 1
    assert {s: c["images"] for s, c in report.counts.items()} == {
        s: n * per_class for s, n in sizes[task].images.items()
    }


@pytest.mark.parametrize("task", TASKS)
def test_report_is_ready_for_json(task, embedded):
    assert json.loads(json.dumps(verify(task, embedded[task]).to_dict()))["ok"] is True


@pytest.mark.parametrize("task", TASKS)
def test_missing_split_is_a_fault_and_missing_folder_an_error(task, copied, tmp_path):
    root = copied(task)
    if task == "coco":
        (root / "annotations" / "instances_val2017.json").unlink()
    else:
        shutil.rmtree(root / {"cityscapes": "leftImg8bit/val", "imagenet": "val"}[task])
    report = verify(task, root)
    assert found(report) == {("val", "unusable split")} and not report.ok
    with pytest.raises(DataError, match="no such data folder"):
        verify(task, tmp_path / "nowhere")


@pytest.mark.parametrize("task", TASKS)
def test_every_unreadable_image_is_named_and_the_others_are_not(task, copied):
    root = copied(task)
    pattern = {"coco": "train2017/*", "cityscapes": "leftImg8bit/train/*/*", "imagenet": "train/*/*"}[task]
    broken = sorted(root.glob(pattern))[:3]
    for path in broken:
        truncate(path)
    report = verify(task, root)
    assert where(report, "unreadable image") == [str(path) for path in broken]
    assert found(report) == {("train", "unreadable image")}
    assert report.lines()[-1] == "3 faults to mend"


def test_progress_counts_every_image(embedded):
    calls = []
    verify("coco", embedded["coco"], progress=lambda *n: calls.append(n))
    assert calls == [(i, 40) for i in range(1, 41)] + [(i, 16) for i in range(1, 17)]
