"""Readers and verification on real images, where there are some beside the project."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from torchvision.datasets import ImageFolder

from benchmark.data.verification import verify
from benchmark.tasks import find_task
from benchmark.tasks.cityscapes.reader import CityscapesSegmentation
from benchmark.tasks.coco.reader import CocoDetection
from benchmark.tasks.imagenet.reader import ImageFolders


def test_coco_reads_all_classes_and_crowds(real):
    reader = CocoDetection(real("coco-subset"), "val")
    assert len(reader) == 158 and len(reader.classes) == 80
    assert reader.category_ids[-1] == 90  # COCO's ids have gaps
    content = json.loads(reader.annotation_file.read_text())
    crowds = sum(annotation["iscrowd"] for annotation in content["annotations"])
    targets = [reader[index][1] for index in range(0, len(reader))]
    assert sum(int(target["iscrowd"].sum()) for target in targets) == crowds > 0
    assert sum(len(target["boxes"]) for target in targets) == len(content["annotations"])


def test_coco_boxes_are_pycocotools_own(real):
    reader = CocoDetection(real("coco-subset"), "val", training=True)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(reader.annotation_file))
    for index in range(0, len(reader), 20):
        _, target, image_id = reader[index]
        listed = [a for a in coco.loadAnns(coco.getAnnIds(image_id)) if not a["iscrowd"]]
        boxes = np.array([a["bbox"] for a in listed], np.float32)
        assert np.allclose(target["boxes"][:, :2], boxes[:, :2], atol=1e-3)
        assert np.allclose(target["boxes"][:, 2:] - target["boxes"][:, :2], boxes[:, 2:], atol=0.51)
        assert [reader.category_id(int(k)) for k in target["labels"]] == [a["category_id"] for a in listed]


def test_bccd_trains_on_its_three_classes(real):
    reader = CocoDetection(real("bccd-coco"), "train", training=True, cache=True)
    assert len(reader.classes) == 3
    image, target, _ = reader[0]
    assert torch.equal(reader[0][0], image) and len(target["boxes"]) > 0


def test_camvid_has_its_eleven_classes(real):
    reader = CityscapesSegmentation(real("camvid-cityscapes"), "val")
    assert len(reader) == 101
    seen = set()
    for index in range(0, len(reader), 10):
        image, labels, _ = reader[index]
        assert image.shape[1:] == labels.shape
        seen |= set(np.unique(labels.numpy()).tolist())
    names = {reader.classes[label] for label in seen - {255}}
    assert {"road", "sidewalk", "building", "sky", "car"} <= names
    assert len(names) <= 11


def test_imagenette_is_numbered_as_torchvision_numbers_it(real):
    root = real("imagenette-160")
    reader = ImageFolders(root, "val")
    assert len(reader) == 3925 and len(reader.classes) == 10
    theirs = ImageFolder(root / "val")
    assert dict(zip(reader.names, reader.labels, strict=True)) == {
        str(path).removeprefix(f"{root / 'val'}/"): label for path, label in theirs.samples
    }
    assert reader[7][0].shape[0] == 3


@pytest.mark.parametrize(
    "task, name", [("coco", "coco-subset"), ("coco", "bccd-coco"), ("cityscapes", "camvid-cityscapes")]
)
def test_real_sets_are_well(real, task, name):
    report = verify(find_task(task), real(name))
    assert report.ok, "\n".join(report.lines())
