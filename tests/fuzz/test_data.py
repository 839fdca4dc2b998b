"""Readers of data sets against spoiled files: an own error in one line with file and remedy, or usable data."""

import io
import json
import os
import zipfile

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from benchmark.data.verification import verify
from benchmark.tasks import find_task
from tests.fuzz.fuzzing import fuzz, own_error, spoiled_bytes, spoiled_json

COCO = {
    "images": [
        {"id": 5, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 6, "file_name": "b.png", "width": 40, "height": 30},
    ],
    "categories": [{"id": 90, "name": "late"}, {"id": 7, "name": "early"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
        {
            "id": 2, "image_id": 6, "category_id": 7, "bbox": [0, 0, 40, 30], "area": 900, "iscrowd": 1,
            "segmentation": {"counts": [0, 1200], "size": [30, 40]},
        },
    ],
}  # fmt: skip
POLYGONS = {
    "imgHeight": 16,
    "imgWidth": 32,
    "objects": [{"label": "road", "polygon": [[0, 0], [31, 0], [31, 15]]}, {"label": "cargroup", "polygon": [[3, 3]]}],
}


def picture(form="PNG", mode="RGB", size=(40, 30)):
    """Return an encoded image."""
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values)
    (image if mode == "I;16" else image.convert(mode)).save(stream, form)
    return stream.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def read_all(task, root):
    """Read a split as a cell does, and verify it as a user does."""
    reader = own_error(lambda: task.open(root, "val"), root)
    if reader is not None:
        samples = [own_error(lambda index=index: reader[index], root) for index in range(len(reader))]
        for sample in samples:
            if sample is not None:
                assert sample.image.dtype == torch.uint8 and sample.image.shape[0] == 3
                json.dumps(sample.identifier, ensure_ascii=False).encode()
        own_error(reader.fingerprint, root)
    for line in verify(task, root, ["val"]).lines():
        assert "\n" not in line.strip()
    return reader


def test_coco_annotations(tmp_path):
    task = find_task("coco")
    for name in ("a.png", "b.png"):
        write(tmp_path / "val2017" / name, picture())
    box = {"boxes": torch.tensor([[1.0, 2, 11, 22]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.5])}

    def check(content):
        write(tmp_path / "annotations" / "instances_val2017.json", content)
        reader = read_all(task, tmp_path)
        if reader is not None:
            metrics = own_error(lambda: task.evaluate(dict.fromkeys(reader.ids, box), reader), tmp_path)
            for value in (metrics or {}).values():
                assert value is None or value != value or 0 <= value <= 1

    fuzz(spoiled_json(COCO), check)


def test_archives_of_images(tmp_path):
    task = find_task("coco")
    write(tmp_path / "annotations" / "instances_val2017.json", json.dumps(COCO).encode())
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("val2017/a.png", "val2017/b.png", "../../up.png"):
            archive.writestr(name, picture())

    def check(content):
        write(tmp_path / "val2017.zip", content)
        read_all(task, tmp_path)

    fuzz(spoiled_bytes(stream.getvalue()), check)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "val2017.zip"]


def test_label_images(tmp_path):
    task = find_task("cityscapes")
    write(tmp_path / "leftImg8bit/val/c/c_0_0_leftImg8bit.png", picture(size=(32, 16)))
    labels = [picture(mode=mode, size=(32, 16)) for mode in ("L", "P", "1", "RGB", "I;16", "LA")]

    def check(content):
        write(tmp_path / "gtFine/val/c/c_0_0_gtFine_labelIds.png", content)
        read_all(task, tmp_path)

    fuzz(st.sampled_from(labels).flatmap(lambda each: st.just(each) | spoiled_bytes(each)), check)


def test_polygons(tmp_path):
    task = find_task("cityscapes")
    write(tmp_path / "leftImg8bit/val/c/c_0_0_leftImg8bit.png", picture(size=(32, 16)))

    def check(content):
        write(tmp_path / "gtFine/val/c/c_0_0_gtFine_polygons.json", content)
        read_all(task, tmp_path)

    fuzz(spoiled_json(POLYGONS), check)


def test_images(tmp_path):
    task = find_task("imagenet")
    forms = [picture(form, mode) for form in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF") for mode in ("RGB", "L")]
    forms.append(picture("PNG", "I;16"))

    def check(content):
        for name in ("n00000001/a.png", "n00000002/b.jpg"):
            write(tmp_path / "val" / name, content)
        read_all(task, tmp_path)

    fuzz(st.sampled_from(forms).flatmap(lambda each: st.just(each) | spoiled_bytes(each)), check)


def test_names_in_image_folders(tmp_path_factory):
    task = find_task("imagenet")
    names = st.binary(min_size=1, max_size=12).filter(
        lambda name: not {0, 47} & set(name) and name not in (b".", b"..")
    )

    def check(case):
        root = tmp_path_factory.mktemp("folders")
        for number, (folder, name) in enumerate(case):
            place = bytes(root / "val") + b"/" + folder
            try:
                (root / "val").mkdir(exist_ok=True)
                os.makedirs(place, exist_ok=True)
                with open(place + b"/" + name + (b".png" if number % 3 else b""), "wb") as file:
                    file.write(picture(size=(4, 4)))
            except OSError:  # what the file system does not take, or a file where a folder is
                continue
        read_all(task, root)

    fuzz(st.lists(st.tuples(names, names), min_size=1, max_size=4), check)


FILES = {
    "LOC_val_solution.csv": b"ImageId,PredictionString\nILSVRC2012_val_00000001,n00000001 1 2 3 4\n"
    b"ILSVRC2012_val_00000002,n00000002 1 2 3 4\n",
    "ILSVRC2012_validation_ground_truth.txt": b"1\n2\n",
    "map_clsloc.txt": b"n00000001 1 one\nn00000002 2 two\n",
}


def test_labels_of_a_flat_folder(tmp_path_factory):
    task = find_task("imagenet")

    def check(case):
        root = tmp_path_factory.mktemp("flat")
        for number in (1, 2):
            write(root / "val" / f"ILSVRC2012_val_{number:08d}.png", picture(size=(4, 4)))
        spoiled, content, packed = case
        for name, text in FILES.items():
            if name == spoiled or (name.startswith("LOC") == spoiled.startswith("LOC") and not packed):
                write(root / name, content if name == spoiled else text)
        if packed:
            write(root / "meta.mat", content)
        read_all(task, root)

    strategy = st.sampled_from(sorted(FILES)).flatmap(
        lambda name: st.tuples(st.just(name), spoiled_bytes(FILES[name]), st.booleans())
    )
    fuzz(strategy, check)
