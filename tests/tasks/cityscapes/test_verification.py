"""Faults of a folder in Cityscapes' layout: each is named, and nothing else is."""

import numpy as np
from PIL import Image

from tests.data.verifying import found, verify, where


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
