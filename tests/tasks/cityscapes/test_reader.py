"""The Cityscapes reader: train ids, polygons, file forms, errors."""

import json
import shutil

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import id2label
from PIL import Image

from benchmark.errors import DataError
from benchmark.tasks.cityscapes.reader import LABEL_IDS, TRAIN_IDS, CityscapesSegmentation

STEM = "scenes_000001_000000"


def label_file(root, ending="labelIds.png"):
    return root / "gtFine" / "val" / "scenes" / f"{STEM}_gtFine_{ending}"


def image_file(root):
    return root / "leftImg8bit" / "val" / "scenes" / f"{STEM}_leftImg8bit.png"


def test_items_are_images_with_train_ids(embedded):
    reader = CityscapesSegmentation(embedded["cityscapes"], "val")
    assert reader.stems == [f"scenes_{i:06d}_000000" for i in range(3)]
    image, labels, identifier = reader[1]
    assert identifier == reader.stems[1] and image.shape == (3, 64, 128) and labels.shape == (64, 128)
    assert image.dtype == labels.dtype == torch.uint8
    label_ids = np.array(Image.open(label_file(reader.root)))
    for label in np.unique(label_ids):
        expected = id2label[int(label)].trainId
        assert (labels.numpy()[label_ids == label] == expected).all()
    assert np.array_equal(reader.label_ids(1), label_ids)


def test_tables_are_those_of_cityscapesscripts():
    assert TRAIN_IDS[LABEL_IDS].tolist() == list(range(19))
    assert len(CityscapesSegmentation.classes) == 19
    assert CityscapesSegmentation.classes[0] == "road" and CityscapesSegmentation.classes[18] == "bicycle"
    for label in id2label.values():
        if label.ignoreInEval and label.id >= 0:
            assert TRAIN_IDS[label.id] == 255


def test_polygons_serve_where_the_label_map_is_missing(copied):
    root = copied("cityscapes")
    expected = CityscapesSegmentation(root, "val")[1][1]
    label_file(root).unlink()
    assert torch.equal(CityscapesSegmentation(root, "val")[1][1], expected)


@pytest.mark.parametrize("form", ["jpg", "webp"])
def test_images_may_be_jpeg_or_webp(copied, form):
    root = copied("cityscapes")
    path = image_file(root)
    Image.open(path).save(path.with_suffix(f".{form}"), quality=95)
    path.unlink()
    reader = CityscapesSegmentation(root, "val")
    assert len(reader) == 3 and reader.stems[1] == STEM
    assert reader[1][0].shape == (3, 64, 128)


def test_of_two_files_of_one_image_the_png_is_read(copied):
    root = copied("cityscapes")
    path = image_file(root)
    Image.new("RGB", (128, 64)).save(path.with_suffix(".jpg"))
    reader = CityscapesSegmentation(root, "val")
    assert len(reader) == 3 and reader[1][0].float().mean() > 20


def test_fingerprint_follows_labels_and_cache_changes_nothing(copied, embedded):
    root = copied("cityscapes")
    first = CityscapesSegmentation(root, "val")
    cached = CityscapesSegmentation(embedded["cityscapes"], "val", cache=True)
    assert first.fingerprint() == cached.fingerprint()
    assert all(torch.equal(a, b) for _ in range(2) for a, b in zip(first[0][:2], cached[0][:2], strict=True))
    label_ids = np.array(Image.open(label_file(root)))
    Image.fromarray(np.where(label_ids == 7, 8, label_ids).astype(np.uint8)).save(label_file(root))
    assert CityscapesSegmentation(root, "val").fingerprint() != cached.fingerprint()


def test_missing_parts_say_which_layout_is_expected(copied):
    root = copied("cityscapes")
    with pytest.raises(DataError, match=r"no such folder: .*leftImg8bit/test; expected leftImg8bit/<split>"):
        CityscapesSegmentation(root, "test")
    label_file(root).unlink()
    label_file(root, "polygons.json").unlink()
    with pytest.raises(DataError, match=rf"no labels for {STEM}: neither labelIds.png nor polygons.json"):
        CityscapesSegmentation(root, "val")
    shutil.rmtree(root / "leftImg8bit" / "val" / "scenes")
    with pytest.raises(DataError, match=r"no images in "):
        CityscapesSegmentation(root, "val")


def test_label_out_of_range_and_other_sizes_and_colour_images_are_named(copied):
    root = copied("cityscapes")
    path = label_file(root)
    label_ids = np.array(Image.open(path))
    reader = CityscapesSegmentation(root, "val")
    label_ids[3, 4] = 77
    Image.fromarray(label_ids).save(path)
    with pytest.raises(DataError, match=rf"{path.name} has label id 77; Cityscapes has 0 to 33"):
        reader[1]
    Image.fromarray(np.zeros((64, 127), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"is 127x64 pixels, but its image is 128x64"):
        reader[1]
    Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"is no label map: .* is it the colour image"):
        reader[1]
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot decode .*labelIds.png"):
        reader[1]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "holds no polygons"),
        ("[]", "holds no polygons"),
        ('{"imgHeight": 64, "imgWidth": 0, "objects": []}', "holds no polygons"),
        (json.dumps({"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "unicorn", "polygon": []}]}), "'unicorn'"),
        (json.dumps({"imgHeight": 4, "imgWidth": 4, "objects": [{"label": "car", "polygon": [[1, 1]]}]}), "polygons"),
    ],
)
def test_broken_polygons_are_named(copied, content, message):
    root = copied("cityscapes")
    label_file(root).unlink()
    label_file(root, "polygons.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        CityscapesSegmentation(root, "val")[1]
    assert f"{STEM}_gtFine_polygons.json" in str(caught.value)


def test_a_group_counts_as_its_label(copied):
    root = copied("cityscapes")
    label_file(root).unlink()
    square = [[0, 0], [127, 0], [127, 63], [0, 63]]
    content = {"imgHeight": 64, "imgWidth": 128, "objects": [{"label": "cargroup", "polygon": square}]}
    label_file(root, "polygons.json").write_text(json.dumps(content))
    assert (CityscapesSegmentation(root, "val")[1][1] == 13).all()
