"""Embedded sets: real formats, same seed same bytes, nothing half written."""

import json
import os
import shutil

import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from benchmark.data import embedded as sets
from benchmark.data.coco import index_annotations
from benchmark.errors import DataError, UsageError

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


def drawn(loops, shape):
    """Fill boundaries between pixels, brute force: a pixel is inside if its centre's ray crosses an odd number."""
    inside = np.zeros(shape, bool)
    for y, x in np.ndindex(shape):
        crossings = 0
        for loop in loops:
            for (x0, y0), (x1, y1) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
                crossings += x0 == x1 and x0 > x and min(y0, y1) <= y < max(y0, y1)
        inside[y, x] = crossings % 2
    return inside


@settings(max_examples=150, deadline=None)
@given(masks)
def test_traced_boundaries_enclose_the_mask(mask):
    loops = sets.trace(mask)
    assert np.array_equal(drawn(loops, mask.shape), mask)
    assert sum(sets.signed_area(loop) for loop in loops) == mask.sum()


@settings(max_examples=150, deadline=None)
@given(masks)
def test_run_lengths_are_those_of_coco(mask):
    counts = sets.run_lengths(mask)
    height, width = mask.shape
    packed = coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    assert np.array_equal(coco_masks.decode(packed).astype(bool), mask)


@settings(max_examples=150, deadline=None)
@given(masks)
def test_pixel_polygons_are_drawn_as_the_mask_with_its_holes_filled(mask):
    picture = Image.new("L", mask.shape[::-1])
    for polygon in sets._pixel_polygons(mask):
        points = [tuple(point) for point in polygon]
        ImageDraw.Draw(picture).polygon(points, fill=1) if len(points) > 1 else picture.putpixel(points[0], 1)
    outer = [loop for loop in sets.trace(mask) if sets.signed_area(loop) > 0]
    filled = np.logical_or.reduce([drawn([loop], mask.shape) for loop in outer] or [mask])
    assert np.array_equal(np.array(picture, bool), filled)


@pytest.mark.parametrize("task", ["coco", "cityscapes", "imagenet"])
def test_same_seed_same_bytes(task, embedded, sizes, tmp_path):
    again = sets.make(task, "mini", tmp_path, size=sizes[task])
    assert sets.fingerprint(again) == sets.fingerprint(embedded[task])
    other = sets.make(task, "mini", tmp_path, seed=1, size=sizes[task])
    assert sets.fingerprint(other) != sets.fingerprint(again)


def test_a_set_that_is_there_is_not_made_again(embedded, sizes):
    folder = embedded["imagenet"]
    before = (folder / sets.MANIFEST).stat().st_mtime_ns
    done = []
    size = sizes["imagenet"]
    assert sets.make("imagenet", "mini", folder.parent, size=size, progress=lambda *n: done.append(n)) == folder
    assert not done
    assert (folder / sets.MANIFEST).stat().st_mtime_ns == before


def test_progress_counts_every_image(tmp_path):
    calls = []
    size = sets.Size(32, 32, {"train": 2, "val": 1})
    sets.make("coco", "mini", tmp_path, size=size, progress=lambda *n: calls.append(n))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_an_interrupted_call_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sets.make("coco", "mini", tmp_path, size=sets.Size(32, 32, {"val": 2}), progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_call_left_is_removed_unless_it_may_still_be_at_work(tmp_path):
    size = sets.Size(32, 32, {"val": 1})
    name = sets.make("coco", "mini", tmp_path, size=size).name
    shutil.rmtree(tmp_path / name)
    old, young = (tmp_path / f".{name}.{kind}.partial" for kind in ("old", "young"))
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, 0))
    sets.make("coco", "mini", tmp_path, size=size)
    assert sorted(tmp_path.iterdir()) == sorted([young, tmp_path / name])


def test_of_two_calls_at_once_one_wins_and_both_succeed(tmp_path):
    size = sets.Size(32, 32, {"val": 2})
    inner = []

    def race(done, total):
        if not inner:
            inner.append(None)
            inner.append(sets.make("coco", "mini", tmp_path, size=size))

    assert sets.make("coco", "mini", tmp_path, size=size, progress=race) == inner[1]
    assert list(tmp_path.iterdir()) == [inner[1]]


def test_manifest_names_what_determines_the_bytes(embedded, sizes):
    manifest = json.loads((embedded["coco"] / sets.MANIFEST).read_text())
    assert manifest["generator"] == sets.VERSION
    assert manifest["images"] == sizes["coco"].images
    assert (manifest["seed"], manifest["height"]) == (0, 128)


def test_unknown_scale_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="scale 'paper'"):
        sets.make("coco", "paper", tmp_path)


def test_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*coco-mini"):
        sets.make("coco", "mini", tmp_path / "file")


def test_coco_annotations_are_those_of_the_visible_masks(embedded):
    path = embedded["coco"] / "annotations" / "instances_train2017.json"
    coco = index_annotations(json.loads(path.read_text()))
    forms = set()
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation).astype(bool)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top, width, height = annotation["bbox"]
        assert mask.sum() == annotation["area"]
        assert (left, top) == (columns[0], rows[0])
        assert (left + width, top + height) == (columns[-1] + 1, rows[-1] + 1)
        forms.add((type(annotation["segmentation"]), annotation["iscrowd"]))
    assert forms == {(list, 0), (dict, 0), (dict, 1)}


def test_ids_differ_between_the_splits(embedded):
    folder = embedded["coco"] / "annotations"
    train, val = (json.loads((folder / f"instances_{split}2017.json").read_text()) for split in ("train", "val"))
    for key in ("images", "annotations"):
        assert not {e["id"] for e in train[key]} & {e["id"] for e in val[key]}
    assert train["categories"] == val["categories"]


def test_cityscapes_polygons_give_the_label_ids_pixel_by_pixel(embedded):
    paths = sorted((embedded["cityscapes"] / "gtFine").rglob("*_polygons.json"))
    assert len(paths) == 7
    for path in paths:
        annotation = Annotation()
        annotation.fromJsonFile(str(path))
        label_ids = np.array(Image.open(str(path).replace("polygons.json", "labelIds.png")))
        assert np.array_equal(np.array(createLabelImage(annotation, "ids")), label_ids)
