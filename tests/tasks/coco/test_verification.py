"""Faults of a folder in COCO's format: each is named, and nothing else is."""

import json

import pytest

from benchmark.data.verification import SHOWN
from tests.data.verifying import found, verify, where


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


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda content: content["images"][0].update(file_name=5), "unusable split"),
        (lambda content: content["annotations"][2].update(iscrowd="no"), "unusable split"),
        (lambda content: content["annotations"][2].update(id=content["annotations"][1]["id"]), "repeated id"),
        (lambda content: content["annotations"][2].update(bbox=[0, 0, 1e300, 1]), "broken box"),
        (lambda content: content["annotations"].clear(), "no annotations"),
    ],
)
def test_what_the_reader_refuses_is_a_fault(changed, spoil, kind):
    report = verify("coco", changed(spoil))
    assert ("val", kind) in found(report, serious=True) and not report.ok


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
