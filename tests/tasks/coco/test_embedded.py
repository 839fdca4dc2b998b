"""The embedded detection set: annotations are those of the visible masks, in COCO's forms."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_masks

from benchmark.tasks.coco.embedded import run_lengths
from benchmark.tasks.coco.reader import index_annotations

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@settings(max_examples=150, deadline=None)
@given(masks)
def test_run_lengths_are_those_of_coco(mask):
    counts = run_lengths(mask)
    height, width = mask.shape
    packed = coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    assert np.array_equal(coco_masks.decode(packed).astype(bool), mask)


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
