"""Verification: whole sets are well, and every fault put into one is named."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from benchmark.data.verification import SHOWN
from benchmark.data.verification import verify as verify_folder
from benchmark.errors import DataError
from benchmark.tasks import find_task

TASKS = ["coco", "cityscapes", "imagenet"]


def verify(task, root, **options):
    return verify_folder(find_task(task), root, **options)


def found(report, serious=None):
    return {(p.split, p.kind) for p in report.problems if serious in (None, p.serious)}


def where(report, kind):
    return [place for problem in report.problems if problem.kind == kind for place in problem.where]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def changed(copied):
    """Give a copy of the COCO set whose validation annotations were changed by a function."""

    def change(function):
        root = copied("coco")
        path = root / "annotations" / "instances_val2017.json"
        content = json.loads(path.read_text())
        function(content)
        path.write_text(json.dumps(content))
        return root

    return change


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


def test_missing_and_surplus_images(copied):
    root = copied("coco")
    paths = sorted((root / "val2017").iterdir())
    paths[0].unlink()
    paths[1].rename(paths[1].with_name("stranger.jpg"))
    report = verify("coco", root)
    assert where(report, "missing image") == [str(paths[0]), str(paths[1])]
    assert where(report, "surplus image") == [str(root / "val2017" / "stranger.jpg")]
    assert found(report, serious=True) == {("val", "missing image")}


@pytest.mark.parametrize(
    "fields, kind, serious",
    [
        ({"image_id": 1}, "unknown image", True),
        ({"category_id": 99}, "unknown category", True),
        ({"bbox": [1, 2, 3]}, "broken box", True),
        ({"bbox": [500, 10, 20, 20]}, "annotation outside its image", True),
        ({"bbox": [-30, 10, 20, 20]}, "annotation outside its image", True),
        ({"bbox": [120, 10, 20, 20]}, "box that leaves its image", False),
        ({"bbox": [10, 10, 0, 20]}, "empty box", False),
        ({"segmentation": {"size": [4, 4], "counts": [16]}}, "mask of another size", False),
    ],
)
def test_faults_of_annotations(changed, fields, kind, serious):
    report = verify("coco", changed(lambda content: content["annotations"][2].update(fields)))
    assert found(report) == {("val", kind)}
    assert report.ok is not serious
    assert "instances_val2017.json" in where(report, kind)[0] and "10000003" in where(report, kind)[0]


def test_boxes_that_leave_their_image_by_rounding_are_no_fault(changed):
    assert not verify("coco", changed(lambda c: c["annotations"][0].update(bbox=[-0.4, 0, 128.9, 128]))).problems


def test_all_faults_are_found_not_only_the_first(changed):
    def spoil(content):
        content["annotations"][0].update(image_id=1)
        content["annotations"][1].update(category_id=99)
        content["images"][0].update(height=1)
        content["images"].append(dict(content["images"][1]))

    kinds = {kind for _, kind in found(verify("coco", changed(spoil)))}
    assert kinds >= {"unknown image", "unknown category", "other size than listed", "repeated id"}


def test_many_faults_are_counted_and_some_shown(changed):
    report = verify("coco", changed(lambda c: [a.update(image_id=1) for a in c["annotations"]]))
    lines = report.lines()
    number = len(where(report, "unknown image"))
    assert number > SHOWN
    assert any(f"{number} x unknown image" in line for line in lines)
    assert f"    and {number - SHOWN} more" in lines


def test_splits_with_other_categories(changed):
    report = verify("coco", changed(lambda c: c["categories"][0].update(name="other")))
    assert found(report) == {("val", "other categories")}


def test_faults_of_cityscapes_folders(copied):
    root = copied("cityscapes")
    truth, pictures = root / "gtFine" / "val" / "scenes", root / "leftImg8bit" / "val" / "scenes"
    stems = [f"scenes_{i:06d}_000000" for i in range(3)]
    for path in truth.glob(f"{stems[0]}*"):
        path.unlink()
    (pictures / f"{stems[1]}_leftImg8bit.png").unlink()
    label_path = truth / f"{stems[2]}_gtFine_labelIds.png"
    Image.fromarray(np.full((64, 128), 60, np.uint8)).save(label_path)
    Image.new("RGB", (4, 4)).save(pictures / "holiday.png")
    report = verify("cityscapes", root)
    assert found(report) == {
        ("val", "image without labels"),
        ("val", "labels without image"),
        ("val", "label out of range"),
        ("val", "surplus image"),
    }
    assert where(report, "image without labels") == [str(pictures / f"{stems[0]}_leftImg8bit.png")]
    assert str(label_path) in where(report, "label out of range")[0]


def test_label_maps_of_another_size_or_without_evaluated_labels(copied):
    root = copied("cityscapes")
    first, second, _ = sorted((root / "gtFine" / "val").rglob("*labelIds.png"))
    Image.fromarray(np.full((32, 64), 7, np.uint8)).save(first)
    Image.fromarray(np.zeros((64, 128), np.uint8)).save(second)
    report = verify("cityscapes", root)
    assert found(report, serious=True) == {("val", "labels of another size")}
    assert found(report, serious=False) == {("val", "no evaluated label")}


def test_faults_of_imagenet_folders(copied):
    root = copied("imagenet")
    first, second = sorted(path for path in (root / "train").iterdir())[:2]
    for path in first.iterdir():
        path.unlink()
    (second / "notes.txt").write_text("no image")
    report = verify("imagenet", root)
    assert found(report, serious=True) == {("train", "class without images")}
    assert where(report, "class without images") == [str(first)]
    assert where(report, "surplus file") == [str(second / "notes.txt")]
